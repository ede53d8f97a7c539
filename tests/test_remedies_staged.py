"""What the remedies promise that train in stages or at several rates, beyond the laws of all."""

import itertools

import pytest
import torch
from conftest import make, noise_of, same

from collapse_bench.errors import UserError
from collapse_bench.model import GENERATIVE, INFERENCE, SLOTS
from collapse_bench.remedies.training.two_step import TwoStep
from collapse_bench.training import BudgetSpentError


def staged(built, corpus, budget, calls):
    """Steps of a run; what each one's update began with and ended with.

    Returns:
        The run, and for each step its forward pass, the slots that it updated, the weights by slot
        before and after the update, and the slots that the optimiser knew before.
    """
    torch.manual_seed(built.seed)
    run, seen = built.run(corpus, budget=budget), []

    def spied(batch, *, only=SLOTS, then=None):
        before = weights(run.model)
        known = {
            slot for slot in before
            if any(p in run.optimizer.inner.state for p in getattr(run.model, slot).parameters())
        }  # fmt: skip
        forward = run.update(batch, only=only, then=then)
        seen.append((forward, only, before, weights(run.model), known))
        return forward

    step = built.remedy.step(spied, run)
    for _ in range(calls):
        step(run.draw())
    return run, seen


def weights(model):
    return {slot: [p.detach().clone() for p in model.parameters_of((slot,))] for slot in SLOTS}


def changed(one, other):
    """The slots whose weights are others."""
    return {slot for slot in one if not same(one[slot], other[slot])}


WITH_WEIGHTS = {"encoder", "head", "decoder", "readout"}

# Autoencoder pre-training


def pretrained(architecture, corpus, chosen=(), **settings):
    """Twelve steps, of which the first 412 tokens are the autoencoder's: four steps."""
    remedies = {"autoencoder_pretraining": {"share": 0.4, **settings}} | dict(chosen)
    return staged(make(architecture, remedies), corpus, 1000, 10)


def test_the_first_stage_has_no_rate_and_the_second_has_all_of_it(architecture, corpus):
    run, seen = pretrained(architecture, corpus)
    assert [bool(forward.kl.any()) for forward, *_ in seen] == [False] * 4 + [True] * 6
    assert run.state["autoencoder_pretraining"] == {"done": True}
    for forward, only, before, after, _ in seen:
        assert only == SLOTS
        assert changed(before, after) == WITH_WEIGHTS
        torch.testing.assert_close(
            forward.per_sentence(), forward.distortion + forward.kl.sum(1)
        )  # fmt: skip


def test_between_the_stages_the_decoder_is_drawn_anew_and_forgotten(architecture, corpus):
    _, seen = pretrained(architecture, corpus)
    for number, (_, _, before, _, known) in enumerate(seen):
        came_from = seen[number - 1][3] if number else before
        anew = {"decoder", "readout"} if number == 4 else set()
        assert changed(came_from, before) == anew
        assert known == (WITH_WEIGHTS - anew if number else set())
    drawn, new = seen[4][2], weights(make(architecture, seed=2).model)
    for slot in ("decoder", "readout"):
        for parameter, fresh in zip(drawn[slot], new[slot], strict=True):
            assert float(parameter.std()) == pytest.approx(float(fresh.std()), rel=0.5, abs=1e-6)


def test_the_decoder_may_also_go_on(architecture, corpus):
    run, seen = pretrained(architecture, corpus, reset=False)
    assert run.state["autoencoder_pretraining"] == {"done": True}
    for (*_, after, _), (_, _, before, _, known) in itertools.pairwise(seen):
        assert changed(after, before) == set()
        assert known == WITH_WEIGHTS


def test_a_schedule_begins_with_the_second_stage(corpus):
    chain = {"free_bits": {"target": 800.0}, "kl_annealing": {"warmup": 1.0}}
    _, seen = pretrained("lstm", corpus, chain)
    progress = [forward.progress for forward, *_ in seen]
    # Of 1000 tokens the first stage decodes 412, and its last batch begins after 296.
    assert progress[3:6] == [0.296, 0.0, pytest.approx(62 / 588)]
    assert progress[4:] == sorted(progress[4:])
    for forward, *_ in seen[4:]:  # the floor of free bits, weighed
        torch.testing.assert_close(forward.kl, torch.full_like(forward.kl, 100 * forward.progress))


def test_a_call_for_some_slots_is_of_the_same_stage(corpus):
    built = make("lstm", {"autoencoder_pretraining": {"share": 0.01}})
    run = built.run(corpus)
    step = built.remedy.step(run.update, run)
    assert not step(run.draw(), only=INFERENCE).kl.any()
    before = weights(run.model)
    assert step(run.draw(), only=INFERENCE).kl.any()
    assert changed(before, weights(run.model)) == WITH_WEIGHTS  # two trained, two drawn anew
    assert run.updates == {"encoder": 2, "decoder": 0}


# Learning rates


def after_one_step(architecture, corpus, **factors):
    """How far each weight has gone in the first step, by slot."""
    built = make(architecture, {"learning_rates": factors})
    before = weights(built.model)
    run = built.steps(corpus, 1)
    after = weights(built.model)
    moved = {s: [b - a for a, b in zip(before[s], after[s], strict=True)] for s in SLOTS}
    return run, moved


@pytest.mark.parametrize(("still", "slots"), [("encoder", INFERENCE), ("decoder", GENERATIVE)])
def test_at_a_factor_of_0_a_side_stays_as_it_is(still, slots, architecture, corpus):
    built = make(architecture, {"learning_rates": {"encoder": 1.0, "decoder": 1.0, still: 0.0}})
    before = weights(built.model)
    built.steps(corpus, 3)
    assert changed(before, weights(built.model)) == WITH_WEIGHTS - set(slots)


def test_a_factor_is_one_of_the_step(architecture, corpus):
    _, plain = after_one_step(architecture, corpus, encoder=1.0, decoder=1.0)
    _, scaled = after_one_step(architecture, corpus, encoder=2.0, decoder=0.25)
    for slot in SLOTS:
        factor = 2.0 if slot in INFERENCE else 0.25
        for one, other in zip(plain[slot], scaled[slot], strict=True):
            torch.testing.assert_close(factor * one, other, rtol=1e-3, atol=1e-6)


def test_the_optimiser_is_called_once_for_each_factor(corpus):
    for factors, groups in (((1.0, 1.0), 1), ((0.5, 0.5), 1), ((1.0, 0.5), 2)):
        settings = dict(zip(("encoder", "decoder"), factors, strict=True))
        run, _ = after_one_step("lstm", corpus, **settings)
        found = run.optimizer.inner.param_groups
        assert len(found) == groups
        assert [p for group in found for p in group["params"]] == run.model.parameters_of(SLOTS)


def test_a_factor_keeps_to_the_schedule_and_the_last_one_holds(corpus):
    run = make("lstm").run(corpus, budget=10_000, learning_rate=0.2)
    for factor in (3.0, 0.5):
        run.scale_learning_rate(("decoder",), factor)
    run.meter.tokens = 7_500
    run.update(run.draw())
    rates = {
        slot: {
            group["lr"]
            for group in run.optimizer.inner.param_groups
            for each in group["params"]
            if each in set(run.model.parameters_of((slot,)))
        }
        for slot in ("head", "decoder", "readout")
    }
    whole = run.learning_rate
    assert whole < 0.1
    assert rates == {"head": {whole}, "decoder": {0.5 * whole}, "readout": {whole}}


def test_no_decoder_is_drawn_anew_when_the_budget_is_spent(corpus):
    built = make("lstm", {"autoencoder_pretraining": {"share": 1.0}})
    run, _ = staged(built, corpus, 1000, 4)
    step = built.remedy.step(run.update, run)
    run.meter.tokens = 1000
    before = weights(run.model)
    with pytest.raises(BudgetSpentError):
        step(run.draw())
    assert not changed(before, weights(run.model))


# Two step

TAKES_Z_IN = {"lstm": "first_cell.weight", "transformer": "latent.weight"}
"""The weight that does nothing else."""


def two_steps(architecture, corpus):
    """The decoder alone for 412 tokens, the encoder alone up to 704, then both."""
    built = make(architecture, {"two_step": {"decoder": 0.4, "encoder": 0.3}})
    return built, *staged(built, corpus, 1000, 10)


def test_the_decoder_comes_first_then_the_encoder_then_both(architecture, corpus):
    _, run, seen = two_steps(architecture, corpus)
    assert [only for _, only, *_ in seen] == [GENERATIVE] * 4 + [INFERENCE] * 4 + [SLOTS] * 2
    assert [bool(forward.kl.any()) for forward, *_ in seen] == [False] * 8 + [True] * 2
    for _, only, before, after, _ in seen:
        assert changed(before, after) == set(only) & WITH_WEIGHTS
    assert run.state["two_step"] == {"stage": 2}
    assert seen[-1][0].progress < 0.8  # which counts from when both began
    # Each stage begins with an optimiser that knows nothing.
    assert [not known for *_, known in seen] == [i in (0, 4, 8) for i in range(10)]


def test_no_stage_comes_twice_where_another_remedy_counts_progress_anew(corpus):
    built = make("lstm", {"two_step": {"decoder": 0.3, "encoder": 0.3}})
    run, seen = built.run(corpus, budget=1000), []
    heard = run.model.further["two_step"].heard

    def spied(batch, *, only, then):
        seen.append((only, float(heard)))
        return run.update(batch, only=only, then=then)

    step = built.remedy.step(spied, run)
    for spent in (0, 400, 450):
        run.meter.tokens = spent
        step(run.draw())
        if spent == 400:
            run.begin()
    assert seen == [(GENERATIVE, 0.0), (INFERENCE, 1.0), (INFERENCE, 1.0)]


def hears(model, batch):
    """Whether another z gives another likelihood, in evaluation."""
    with torch.no_grad():
        nats = [model.eval().log_likelihood(batch, noise_of(i)((5, 8))) for i in (1, 2)]
    return not torch.equal(*nats)


def test_the_first_decoder_is_a_language_model_whose_way_in_for_z_stays_as_drawn(
    architecture, corpus, batch
):
    name = f"decoder.decoder.{TAKES_Z_IN[architecture]}"
    settings = {"two_step": {"decoder": 0.4}}
    drawn = make(architecture, settings).model.get_parameter(name)
    for calls, heard in ((4, False), (5, True)):
        built = make(architecture, settings)
        staged(built, corpus, 1000, calls)
        assert torch.equal(built.model.get_parameter(name), drawn)
        assert hears(built.model, batch) == heard


def test_a_step_of_nothing_is_left_out(corpus):
    built = make("lstm", {"two_step": {"decoder": 0.0, "encoder": 0.2}})
    _, seen = staged(built, corpus, 1000, 3)
    assert [only for _, only, *_ in seen] == [INFERENCE, INFERENCE, SLOTS]


def test_more_than_the_budget_cannot_be_shared_out():
    TwoStep(decoder=0.5, encoder=0.5)
    with pytest.raises(UserError, match="shares of one budget"):
        TwoStep(decoder=0.6, encoder=0.5)
