"""Training: what is paid for, what is updated, what is selected, and what a remedy may ask for."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from conftest import in_turn, make, parameters, same
from torch import nn

from collapse_bench.corpus import evaluation_batches, training_batches
from collapse_bench.errors import UserError
from collapse_bench.evaluation import evaluate, negative_elbo
from collapse_bench.metrics import posterior_scores
from collapse_bench.model import GENERATIVE, INFERENCE, SLOTS, diagonal_normal
from collapse_bench.remedy import Remedy, chain
from collapse_bench.training import BudgetSpentError, DivergedError, Selection, stream_seed
from collapse_bench.training import selection as selection_module


def chosen(name):
    return [name] if name else []


# The budget


def count_decoded(model):
    """Tokens of each pass that training reads out, counted where the meter is not."""
    counted = []

    def hook(readout, arguments):
        if readout.training:
            counted.append(arguments[1].tokens)

    further = [part for part in model.further.modules() if hasattr(part, "by_position")]
    for readout in (model.readout, *further):
        readout.register_forward_pre_hook(hook)
    return counted


@in_turn()
@pytest.mark.parametrize("budget", [1, 900])
def test_every_decoded_token_is_paid_for_and_the_budget_ends_the_run(
    name, budget, architecture, corpus
):
    built = make(architecture, chosen(name))
    counted = count_decoded(built.model)
    run, selection = built.train(corpus, budget=budget)
    spent = run.meter.tokens
    assert spent == sum(counted)
    assert sum(counted[:-1]) < budget <= sum(counted)
    assert selection.history[-1]["tokens"] == spent
    # The meter is off: what is done with the model now costs nothing.
    batch = next(evaluation_batches(corpus.test, 5))
    built.model.train()(batch, torch.zeros)
    assert run.meter.tokens == spent < sum(counted)


def test_inner_loops_spend_the_budget(corpus):
    plain, aggressive = (make("lstm", names) for names in ([], ["aggressive_inference"]))
    plain, aggressive = (built.train(corpus, budget=900)[0] for built in (plain, aggressive))
    assert aggressive.updates["encoder"] > aggressive.updates["decoder"] > 0
    assert plain.updates["encoder"] == plain.updates["decoder"] > aggressive.updates["decoder"]
    assert aggressive.steps in (
        aggressive.updates["decoder"],
        aggressive.updates["decoder"] - 1,
    )


class RefiningHead(nn.Module):
    """Moves the mean of the posterior down the gradient of the energy, once."""

    def __init__(self, head):
        super().__init__()
        self.head = head
        self.energies = []

    def forward(self, features, energy):
        q = self.head(features, energy)
        with torch.enable_grad():
            mean = q.mean.detach().requires_grad_()
            total = energy(diagonal_normal(mean, q.stddev.detach()))
            (gradient,) = torch.autograd.grad(total.sum(), mean)
        self.energies.append(total.detach())
        return diagonal_normal(q.mean - 0.1 * gradient, q.stddev)


@dataclass(frozen=True)
class Refinement(Remedy):
    """A remedy that decodes twice a step."""

    def build(self, model):
        return {"head": RefiningHead(model.head)}

    def objective(self, forward):
        return replace(forward, kl=0.25 * forward.kl)


def test_refinement_is_paid_for_in_training_and_plain_in_evaluation(architecture, corpus):
    built = make(architecture, dropout=0.0)
    remedy = Refinement()
    built.remedies, built.model = [remedy], chain([remedy]).build(built.model)
    run = built.run(corpus)
    batch = run.draw()
    run.update(batch)
    assert run.meter.tokens == 2 * batch.tokens
    head = built.model.head
    features = built.model.pool(built.model.encoder(batch), batch.mask)
    q = head.head(features, None)
    z, noise = q.mean, torch.zeros

    def energy(weight):
        kl = 0.5 * (q.mean**2 + q.stddev**2 - 2 * q.stddev.log() - 1).sum(1)
        return -built.model.log_likelihood(batch, z) + weight * kl

    with torch.no_grad():
        built.model(batch, noise, objective=remedy.objective)
        torch.testing.assert_close(head.energies[-1], energy(0.25))
        built.model.eval().posterior(batch, noise)
        torch.testing.assert_close(head.energies[-1], energy(1.0))
    spent = run.meter.tokens
    single, together = (built.evaluate(corpus.valid, batch=size) for size in (1, 6))
    assert run.meter.tokens == spent
    for each in single:
        if single[each].dtype.kind == "f":
            np.testing.assert_allclose(single[each], together[each], rtol=1e-5, atol=1e-5)
        else:
            assert np.array_equal(single[each], together[each])


# One update


@in_turn()
@pytest.mark.parametrize(("only", "frozen"), [(INFERENCE, GENERATIVE), (GENERATIVE, INFERENCE)])
def test_an_update_of_some_slots_leaves_the_others_as_they_are(
    name, only, frozen, architecture, corpus
):
    built = make(architecture, chosen(name))
    run = built.run(corpus)
    for _ in range(2):  # so that the optimiser has momentum in every parameter
        run.update(run.draw())
    model = built.model
    learning = [parameter.requires_grad for parameter in model.parameters()]
    moving, still = (
        [p for p in model.parameters_of(slots) if p.requires_grad] for slots in (only, frozen)
    )
    before = [[p.clone() for p in some] for some in (moving, still)]
    for _ in range(2):
        run.update(run.draw(), only=only)
    assert not any(map(torch.equal, before[0], moving))
    assert same(before[1], still)
    assert [parameter.requires_grad for parameter in model.parameters()] == learning
    run.update(run.draw())
    assert not any(map(torch.equal, before[1], still))


def test_then_acts_after_every_other_objective(corpus):
    built = make("lstm", {"kl_annealing": {"warmup": 1.0}})
    run = built.run(corpus, budget=1000)
    run.meter.tokens = 500
    forward = run.update(run.draw(), then=lambda f: replace(f, kl=f.kl + 1))
    weighted = 0.5 * (
        0.5 * (forward.q.mean**2 + forward.q.stddev**2 - 2 * forward.q.stddev.log() - 1)
    )
    torch.testing.assert_close(forward.kl, weighted + 1)


def test_the_gradient_is_clipped_as_a_whole(corpus):
    run = make("lstm").run(corpus, clip=1e-3)
    run.update(run.draw())
    norm = torch.stack([parameter.grad.norm() for parameter in run.model.parameters()]).norm()
    assert norm == pytest.approx(1e-3, rel=1e-3)


def plain_updates(built, corpus, sequence, clip):
    """Updates of some slots after one another: autograd, a clipped norm, and Adam as it comes.

    Returns the optimiser and the norm of each gradient before it was clipped.
    """
    torch.manual_seed(built.seed)
    model = built.model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, fused=False, foreach=False)
    latent = torch.Generator().manual_seed(stream_seed(built.seed, "latent"))
    batches = training_batches(corpus.train, 5, stream_seed(built.seed, "order"), 0)
    norms = []
    for only, batch in zip(sequence, batches, strict=False):
        optimizer.zero_grad()
        model(batch, lambda shape: torch.randn(shape, generator=latent)).loss().backward()
        for parameter in set(model.parameters()) - set(model.parameters_of(only)):
            parameter.grad = None
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), clip)))
        optimizer.step()
    return optimizer, norms


SEQUENCES = {
    "one": [SLOTS],
    "all": [SLOTS] * 8,
    "inference": [INFERENCE] * 8,
    "mixed": [SLOTS, INFERENCE, INFERENCE, GENERATIVE, SLOTS, INFERENCE],
}


@pytest.mark.parametrize(("clip", "bites"), [(0.05, True), (1e3, False)])
@pytest.mark.parametrize("sequence", SEQUENCES.values(), ids=SEQUENCES.keys())
def test_updates_are_those_of_a_clipped_norm_and_plain_adam(
    sequence, clip, bites, architecture, corpus
):
    plain, built = make(architecture), make(architecture)
    optimizer, norms = plain_updates(plain, corpus, sequence, clip)
    assert all((norm > clip) == bites for norm in norms)
    assert len(sequence) == 1 or max(norms) > 1.1 * min(norms)
    torch.manual_seed(built.seed)
    run = built.run(corpus, clip=clip)
    for only in sequence:
        run.update(run.draw(), only=only)
    pairs = zip(plain.model.parameters(), built.model.parameters(), strict=True)
    for expected, actual in pairs:
        # Adam forgets a factor common to all gradients: what it has averaged tells more.
        averages, others = (
            each.state.get(parameter, {})
            for each, parameter in ((run.optimizer.inner, actual), (optimizer, expected))
        )
        assert averages.keys() == others.keys()
        for name, average in others.items():
            rounding = 1e-5 * float(average.abs().max())
            torch.testing.assert_close(averages[name], average, rtol=1e-4, atol=rounding)
        # The derivative by a bias of the keys is zero: Adam makes steps of the rounding there.
        size = others["exp_avg_sq"].sqrt() if others else torch.ones_like(expected)
        known = (size > 1e-5 * size.max()) | (size == 0)
        torch.testing.assert_close(actual[known], expected[known], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_gradient_that_is_not_finite_changes_nothing_and_is_an_outcome(value, corpus):
    built = make("lstm")
    run = built.run(corpus)
    run.update(run.draw())
    before = parameters(built.model)
    with pytest.raises(DivergedError, match="not finite at step 0"):
        run.update(run.draw(), then=lambda f: replace(f, distortion=value * f.distortion))
    assert same(before, parameters(built.model))


def test_a_bound_that_is_not_finite_is_an_outcome(corpus):
    @dataclass(frozen=True)
    class Poison(Remedy):
        def step(self, step, run):
            def poisoned(batch, **keywords):
                forward = step(batch, **keywords)
                with torch.no_grad():
                    run.model.readout.weight.fill_(torch.nan)
                return forward

            return poisoned

    built = make("lstm")
    built.remedies = [Poison()]
    with pytest.raises(DivergedError):
        built.train(corpus)


# Streams of randomness


def test_streams_are_independent_and_stay_what_they_are():
    streams = ("initialisation", "order", "dropout", "latent", "validation", "test")
    seeds = {stream_seed(seed, stream) for seed in range(50) for stream in streams}
    assert len(seeds) == 300
    assert all(0 <= seed < 2**40 for seed in seeds)


def first_steps(built, corpus, count=8):
    """Sentences and noise of the first steps."""
    torch.manual_seed(0)
    run, seen = built.run(corpus), []
    for _ in range(count):
        forward = run.update(run.draw())
        noise = (forward.z - forward.q.mean) / forward.q.stddev
        seen.append((forward.batch.index.tolist(), noise.detach()))
    return seen


def test_order_and_noise_depend_on_the_seed_alone(architecture, corpus):
    plain = first_steps(make(architecture), corpus)
    for built in (
        make(architecture, {"word_dropout": {"rate": 0.9}}),
        make(architecture, ["limited_receptive_field"], dropout=0.0),
        make("lstm", hidden=6),
    ):
        for (index, noise), (expected, of_plain) in zip(
            first_steps(built, corpus), plain, strict=True
        ):
            assert index == expected
            torch.testing.assert_close(noise, of_plain, atol=1e-3, rtol=1e-3)
    other = first_steps(make(architecture, seed=2), corpus)
    assert [index for index, _ in other] != [index for index, _ in plain]
    assert not torch.allclose(other[0][1], plain[0][1], atol=0.1)


def test_every_sentence_is_drawn_once_an_epoch(corpus):
    run = make("lstm").run(corpus)
    epochs = {0: [], 1: []}
    for _ in range(2 * 12):
        batch = run.draw()
        epochs[run.epoch] += batch.index.tolist()
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(60))
    assert epochs[0] != epochs[1]


# Selection


@in_turn()
def test_the_model_ends_with_the_weights_of_the_best_plain_bound(name, architecture, corpus):
    built = make(architecture, chosen(name))
    # The test split is not even there.
    run, selection = built.train(replace(corpus, test=None), budget=900, validations=5)
    bounds = [row["negative_elbo"] for row in selection.history]
    # An inner loop may run past a validation.
    inner = name in ("aggressive_inference", "semi_amortised", "svi")
    assert len(bounds) == 5 or (inner and 1 < len(bounds) < 5)
    assert selection.best == min(bounds)
    best = selection.history[int(np.argmin(bounds))]
    assert selection.best_tokens == best["tokens"]
    assert negative_elbo(run.validate(samples=1)) == selection.best
    for row in selection.history:
        assert row["negative_elbo"] == pytest.approx(row["distortion"] + row["kl"], rel=1e-5)
    assert built.model.training


def test_training_ends_with_an_earlier_model_where_that_was_the_best(corpus, monkeypatch):
    bounds = iter([3.0, 1.0, 2.0, 4.0, 5.0])
    seen = []

    def worse_and_worse(arrays):
        seen.append(parameters(built.model))
        return next(bounds)

    monkeypatch.setattr(selection_module, "negative_elbo", worse_and_worse)
    built = make("lstm")
    _, selection = built.train(corpus, budget=900, validations=5)
    assert (selection.best, selection.best_tokens) == (1.0, selection.history[1]["tokens"])
    assert same(seen[1], parameters(built.model))
    assert not same(seen[-1], parameters(built.model))


def test_validation_comes_as_often_as_the_suite_says(corpus):
    _, selection = make("lstm").train(corpus, budget=3000, validations=7)
    tokens = [row["tokens"] for row in selection.history]
    assert [spent * 7 // 3000 for spent in tokens] == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize(
    ("spent", "share"),
    [(0, 1), (0.3, 1), (0.5, 1), (0.75, 0.5), (0.9, 0.2), (0.99, 0.05), (1, 0.05)],
)
def test_the_learning_rate_is_a_function_of_the_budget(spent, share, corpus):
    run = make("lstm").run(corpus, budget=10_000, learning_rate=0.2)
    run.meter.tokens = int(spent * 10_000)
    assert run.progress == spent
    assert run.learning_rate == pytest.approx(0.2 * share)
    if spent < 1:
        tokens = run.update(run.draw()).batch.tokens
        # Of the moment in which the update is made, its own tokens included.
        assert run.optimizer.inner.param_groups[0]["lr"] == run.learning_rate
        assert run.progress == (spent * 10_000 + tokens) / 10_000 or run.progress == 1


@pytest.mark.parametrize(("spent", "share"), [(0, 1), (0.5, 1), (0.75, 0.0316228), (1, 0.001)])
def test_an_exponential_decay_ends_at_a_thousandth(spent, share, corpus):
    run = make("lstm").run(corpus, budget=10_000, learning_rate=0.2, decay="exponential")
    run.meter.tokens = int(spent * 10_000)
    assert run.learning_rate == pytest.approx(0.2 * share)


def test_sgd_moves_against_the_clipped_gradient(corpus):
    """And keeps nothing from one update to the next, so that a checkpoint has nothing of it."""
    built = make("lstm")
    run = built.run(
        corpus, budget=10_000, learning_rate=0.5, clip=0.1, optimizer="sgd", dropout=0.0
    )
    before = {name: p.detach().clone() for name, p in built.model.named_parameters()}
    run.update(run.draw())
    moved, gradients = {}, {}
    for name, parameter in built.model.named_parameters():
        if parameter.grad is not None:
            moved[name] = before[name] - parameter.detach()
            gradients[name] = parameter.grad
    length = torch.stack([each.square().sum() for each in moved.values()]).sum().sqrt()
    norm = torch.stack([each.square().sum() for each in gradients.values()]).sum().sqrt()
    assert length == pytest.approx(0.5 * 0.1, rel=1e-3)
    for name, gradient in gradients.items():
        assert torch.allclose(moved[name] / length, gradient / norm, atol=1e-4), name
    assert run.optimizer.state_dict() == {}


def test_selection_keeps_the_best_and_says_whether_the_end_gained_anything(corpus, monkeypatch):
    run = make("lstm").run(corpus, budget=100, validations=20)
    selection = Selection(run)
    assert not selection.converged
    # Tokens, the bound, and then whether it has converged.
    script = [
        (25, 9.0, True),
        (50, 6.0, True),
        (76, 5.0, True),  # the first batch past three quarters
        (78, 7.0, True),
        (80, 4.95, True),  # a gain of less than 0.1
        (90, 4.0, False),
        (100, 4.5, False),
    ]
    for tokens, bound, converged in script:
        with torch.no_grad():
            run.model.readout.weight.fill_(tokens)
        run.meter.tokens = tokens
        monkeypatch.setattr(selection_module, "negative_elbo", lambda arrays, bound=bound: bound)
        selection.validate()
        assert selection.converged == converged
    assert (selection.best, selection.best_tokens) == (4.0, 90)
    selection.restore()
    assert (run.model.readout.weight == 90).all()


def test_the_last_weights_are_kept_where_a_suite_says_so(corpus, monkeypatch):
    run = make("lstm").run(corpus, budget=100, validations=20, weights="last")
    selection = Selection(run)
    for tokens, bound in ((50, 4.0), (100, 4.5)):
        with torch.no_grad():
            run.model.readout.weight.fill_(tokens)
        run.meter.tokens = tokens
        monkeypatch.setattr(selection_module, "negative_elbo", lambda arrays, bound=bound: bound)
        selection.validate()
    assert (selection.best, selection.best_tokens) == (4.5, 100)
    selection.restore()
    assert (run.model.readout.weight == 100).all()


# What a step may ask of the run


@in_turn()
def test_measures_are_those_of_the_validation_split_and_free(name, architecture, corpus):
    run = make(architecture, chosen(name)).run(corpus)
    run.update(run.draw())
    spent, state = run.meter.tokens, torch.get_rng_state()
    seed = stream_seed(1, "validation")
    arrays = evaluate(run.model, corpus.valid, samples=0, batch=3, seed=seed)
    expected = posterior_scores(arrays).metrics
    known = [name for name in ("kl", "mutual_information", "active_units") if name in expected]
    assert known[:2] == ["kl", "mutual_information"]
    for metric in known:
        assert run.measure(metric) == pytest.approx(expected[metric], rel=1e-4, abs=1e-6)
    assert run.meter.tokens == spent
    assert torch.equal(state, torch.get_rng_state())
    assert run.model.training


@in_turn()
@pytest.mark.parametrize("slot", ["encoder", "head", "decoder"])
def test_a_reset_forgets_one_slot_and_nothing_else(name, slot, architecture, corpus):
    run = make(architecture, chosen(name)).run(corpus)
    for _ in range(2):
        run.update(run.draw())
    model = run.model
    others = tuple(each for each in SLOTS if each != slot)
    own, rest = model.parameters_of((slot,)), model.parameters_of(others)
    assert all(run.optimizer.inner.state[parameter] for parameter in own if parameter.requires_grad)
    before = [parameter.clone() for parameter in rest]
    trained = [each for each in getattr(model, slot).parameters() if each.requires_grad]
    drawn = [parameter.clone() for parameter in trained]
    run.reset(slot)
    assert same(before, rest)
    # A norm begins with constants, and may still be near them; nothing else stays.
    assert not any(map(torch.equal, drawn, trained))
    assert not any(parameter in run.optimizer.inner.state for parameter in own)
    assert all(
        run.optimizer.inner.state[parameter] for parameter in rest if parameter.requires_grad
    )
    run.update(run.draw())


def test_what_is_forgotten_is_the_optimisers_and_no_weight(corpus):
    run = make("lstm").run(corpus)
    run.update(run.draw())
    before = parameters(run.model)
    run.forget(INFERENCE)
    known = run.optimizer.inner.state
    assert not any(parameter in known for parameter in run.model.parameters_of(INFERENCE))
    assert all(parameter in known for parameter in run.model.parameters_of(GENERATIVE))
    assert same(before, parameters(run.model))
    with pytest.raises(UserError, match=r"run\.forget: must be of encoder.* not 'critic'"):
        run.forget(("critic",))


@pytest.mark.parametrize("slot", ["encoder", "decoder"])
def test_a_reset_draws_from_the_distribution_of_a_new_model(slot, architecture, corpus):
    run = make(architecture).run(corpus)
    run.reset(slot)
    new = make(architecture, seed=2).model
    pairs = zip(run.model.parameters_of((slot,)), new.parameters_of((slot,)), strict=True)
    for parameter, fresh in pairs:
        assert float(parameter.detach().std()) == pytest.approx(
            float(fresh.detach().std()), rel=0.5, abs=1e-6
        )


def test_progress_counts_from_begin_and_the_learning_rate_does_not(corpus):
    run = make("lstm").run(corpus, budget=10_000, learning_rate=0.2)
    run.meter.tokens = 6_000
    before = run.learning_rate
    run.begin()
    assert run.progress == 0
    assert run.spent == 0.6
    assert run.learning_rate == before
    run.meter.tokens = 8_000
    assert run.progress == 0.5
    assert run.update(run.draw()).progress == 0.5


def test_a_part_that_cannot_be_drawn_anew_is_told(corpus):
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

    built = make("lstm")
    built.model = built.model.with_parts({"pool": Bare()}, "bare")
    with pytest.raises(UserError, match="Bare in pool has weights"):
        built.run(corpus).reset("pool")


def test_nothing_is_decoded_beyond_the_budget(corpus):
    run = make("lstm").run(corpus, budget=1)
    run.update(run.draw())
    spent, before = run.meter.tokens, parameters(run.model)
    with pytest.raises(BudgetSpentError):
        run.update(run.draw())
    assert run.meter.tokens == spent
    assert same(before, parameters(run.model))
    assert all(parameter.requires_grad for parameter in run.model.parameters())
