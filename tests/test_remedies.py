"""Laws that every remedy keeps in both architectures, and what each one promises by itself.

Remedies are found by their files: a new one is held to the laws without a line here, or, where its
defaults do not fit the tiny sizes, with a line in `conftest.SMALL`.
"""

import itertools
import math
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import SMALL, make, noise_of, parameters, same, same_arrays
from safetensors.torch import load_file
from torch.distributions import MultivariateNormal, kl_divergence

from collapse_bench.corpus.vocabulary import BOS, PAD, UNK
from collapse_bench.errors import UserError
from collapse_bench.model import (
    GENERATIVE,
    INFERENCE,
    SLOTS,
    diagonal_normal,
)
from collapse_bench.model.anticausal import AntiCausalEncoder
from collapse_bench.model.distributions import autoregressive, rate
from collapse_bench.model.distributions.autoregressive import AutoregressiveNormal, committed_rate
from collapse_bench.model.sequence import GradualDecoder, StridedStates
from collapse_bench.plugins import remedy_files
from collapse_bench.record import MODEL, write_model
from collapse_bench.remedies.decoder.limited_receptive_field import WindowDecoder
from collapse_bench.remedies.decoder.word_dropout import WordDropoutDecoder
from collapse_bench.remedies.objective.cyclical_annealing import CyclicalAnnealing
from collapse_bench.remedies.objective.kl_annealing import KlAnnealing
from collapse_bench.remedies.prior.delta_vae import DeltaVae
from collapse_bench.remedies.training.aggressive_inference import AggressiveInference
from collapse_bench.remedy import Remedy, chain, find_class, levers_of, name_of

REMEDIES = sorted(remedy_files())


def neutral_of(name):
    """Settings that make a remedy the plain VAE, None where there are none."""
    return find_class(name, remedy_files()[name]).neutral


PAIRS = list(itertools.permutations(REMEDIES, 2))

NEUTRAL = {name: neutral for name, neutral in ((n, neutral_of(n)) for n in REMEDIES) if neutral}

remedy = pytest.mark.parametrize("name", REMEDIES)
remedy_or_none = pytest.mark.parametrize("name", ["", *REMEDIES], ids=["vae", *REMEDIES])


def chosen(name):
    return [name] if name else []


# Laws over all remedies


def test_the_built_in_remedies_are_found():
    assert set(REMEDIES) >= NEUTRAL.keys() | {"delta_vae", "limited_receptive_field"}
    assert set(REMEDIES) >= SMALL.keys()


@remedy
def test_one_step_with_the_defaults_is_finite(name, architecture, corpus):
    built = make(architecture, {name: {}})
    assert [name_of(each) for each in built.remedies] == [name]
    before = parameters(built.model)
    run = built.steps(corpus, 1)
    after = parameters(built.model)
    assert all(each.isfinite().all() for each in after)
    assert not any(map(torch.equal, before, after))
    assert run.meter.tokens > 0
    assert levers_of(built.remedies)


@remedy_or_none
def test_every_parameter_gets_a_gradient(name, architecture, batch):
    built = make(architecture, chosen(name))
    forward = built.model(batch, noise_of(1), progress=0.2, objective=built.remedy.objective)
    forward.loss().backward()
    without = [
        each
        for each, parameter in built.model.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    assert without == []


@remedy
def test_an_objective_is_one_finite_number_a_sentence(name, architecture, batch):
    built = make(architecture, [name])
    for progress in (0.0, 0.3, 1.0):
        forward = built.model(
            batch, noise_of(1), progress=progress, objective=built.remedy.objective
        )
        assert forward.per_sentence().shape == (5,)
        assert forward.per_sentence().isfinite().all()
        assert torch.equal(forward.loss(), forward.per_sentence().mean())


@remedy
def test_neutral_settings_are_the_plain_vae_exactly(name, architecture, corpus):
    if name not in NEUTRAL:
        pytest.skip("no setting of this remedy is the plain VAE")
    plain, neutral = make(architecture), make(architecture, {name: NEUTRAL[name]})
    runs = [built.steps(corpus, 6) for built in (plain, neutral)]
    assert same(parameters(plain.model), parameters(neutral.model))
    assert runs[0].meter.tokens == runs[1].meter.tokens
    assert runs[0].updates == runs[1].updates
    assert same_arrays(plain.evaluate(corpus.valid), neutral.evaluate(corpus.valid))


@remedy
def test_other_settings_are_not_the_plain_vae(name, architecture, corpus):
    plain, other = make(architecture), make(architecture, [name])
    for built in (plain, other):
        built.steps(corpus, 6)
    assert not same(parameters(plain.model), parameters(other.model))


@remedy_or_none
def test_one_seed_one_result(name, architecture, corpus):
    results = []
    for seed in (1, 1, 2):
        built = make(architecture, chosen(name), seed=seed)
        torch.rand(seed)  # whatever has been drawn before must not matter
        run, selection = built.train(corpus)
        history = [
            {name: value for name, value in row.items() if name != "seconds"}
            for row in selection.history
        ]
        arrays = built.evaluate(corpus.test)
        results.append((parameters(built.model), arrays, history, run.updates))
    (weights, arrays, *rest), again, other = results
    assert same(weights, again[0])
    assert same_arrays(arrays, again[1])
    assert rest == list(again[2:])
    assert not any(map(torch.equal, weights, other[0]))
    assert not np.array_equal(arrays["distortion"], other[1]["distortion"])


@remedy_or_none
@pytest.mark.parametrize("mode", [True, False], ids=["training", "evaluating"])
def test_evaluation_changes_nothing_and_is_the_same_twice(name, architecture, mode, corpus):
    built = make(architecture, chosen(name))
    built.steps(corpus, 2)
    model = built.model.train(mode)
    before = {each: value.clone() for each, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    gradients = [parameter.grad for parameter in model.parameters()]
    random, numpy_random = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = built.evaluate(corpus.valid)
    assert same_arrays(first, built.evaluate(corpus.valid))
    assert not same_arrays(first, built.evaluate(corpus.valid, seed=4))
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(before[each], value) for each, value in model.state_dict().items())
    assert modes == [module.training for module in model.modules()]
    assert all(a is b.grad for a, b in zip(gradients, model.parameters(), strict=True))
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(random, torch.get_rng_state())
    assert np.array_equal(numpy_random, np.random.get_state()[1])  # noqa: NPY002


@remedy_or_none
def test_evaluation_is_the_same_for_every_batch_size(name, architecture, corpus):
    built = make(architecture, chosen(name))
    built.steps(corpus, 4)
    single = built.evaluate(corpus.train, batch=1)
    for size in (7, 64):
        together = built.evaluate(corpus.train, batch=size)
        assert single.keys() == together.keys()
        for each in (name for name in single if "label_" not in name):
            np.testing.assert_allclose(single[each], together[each], rtol=3e-6, atol=3e-6)


@remedy_or_none
def test_evaluation_leaves_one_row_a_sentence(name, architecture, corpus):
    arrays = make(architecture, chosen(name)).evaluate(corpus.valid, samples=3)
    n = len(corpus.valid)
    assert np.array_equal(arrays["tokens"], corpus.valid.lengths)
    assert arrays["kl"].shape[0] == arrays["distortion"].shape[0] == n
    assert arrays["log_weights"].shape == (n, 3)
    assert arrays["kl"].dtype == arrays["log_weights"].dtype == np.float32
    shapes = {arrays[f"posterior_{part}"].shape for part in ("mean", "scale", "sample")}
    assert shapes == {(n, 8)}
    assert (arrays["posterior_scale"] > 0).all()
    assert all(np.isfinite(each).all() for name, each in arrays.items() if "label_" not in name)
    # The same sentences score the same without the decoder.
    posterior = make(architecture, chosen(name)).evaluate(corpus.valid, samples=0)
    of_decoder = {"distortion", "log_weights", "draws", "shuffled_log_likelihood"}
    assert of_decoder == arrays.keys() - posterior.keys()
    assert all(np.array_equal(posterior[each], arrays[each]) for each in posterior)


@remedy
def test_evaluation_does_not_depend_on_how_the_model_was_trained(name, architecture, corpus):
    built, plain = make(architecture, [name]), make(architecture)
    if "build" in levers_of(built.remedies):
        pytest.skip("this remedy is part of the model")
    built.steps(corpus, 4)
    plain.model.load_state_dict(built.model.state_dict())
    assert same_arrays(built.evaluate(corpus.valid), plain.evaluate(corpus.valid))


@remedy_or_none
def test_a_saved_model_evaluates_the_same(name, architecture, corpus, tmp_path):
    built = make(architecture, chosen(name))
    built.steps(corpus, 3)
    expected = built.evaluate(corpus.valid)
    write_model(tmp_path, built.model.state_dict())
    other = make(architecture, chosen(name), seed=2)
    assert not same_arrays(expected, other.evaluate(corpus.valid))
    other.model.load_state_dict(load_file(tmp_path / MODEL))
    assert same_arrays(expected, other.evaluate(corpus.valid))


@remedy_or_none
def test_padding_changes_nothing(name, architecture, batch):
    built = make(architecture, chosen(name))
    model = built.model.eval()
    forward, padded = (model(each, torch.ones) for each in (batch, pad(batch, 4)))
    torch.testing.assert_close(padded.q.mean, forward.q.mean)
    torch.testing.assert_close(padded.kl, forward.kl)
    torch.testing.assert_close(padded.distortion, forward.distortion)


@remedy_or_none
def test_no_sentence_depends_on_its_neighbours(name, architecture, batch):
    built = make(architecture, chosen(name))
    model = built.model.eval()
    forward = model(batch, torch.ones)
    targets = batch.targets.clone()
    targets[0, 0] = other_word(targets[0, 0])
    changed = model(replace(batch, targets=targets), torch.ones)
    assert not torch.equal(forward.distortion[0], changed.distortion[0])
    assert torch.equal(forward.distortion[1:], changed.distortion[1:])
    assert torch.equal(forward.kl[1:], changed.kl[1:])


@remedy_or_none
def test_a_decoder_does_not_see_what_it_predicts(name, architecture, batch):
    built = make(architecture, chosen(name))
    model = built.model.eval()
    z = model.posterior(batch, noise_of(1)).mean
    before = model.decoder(batch, z)
    longest = int(batch.lengths.argmax())
    for token in (1, 4, 8):
        changed = model.decoder(change_input(batch, longest, token), z)
        assert torch.equal(changed[longest, :token], before[longest, :token])
        assert not torch.equal(changed[longest, token], before[longest, token])


# Chains


def discarded(first, second, architecture):
    """The slot in which the second of two remedies throws away what the first installed."""
    model = make(architecture).model
    parts = [make(architecture, [name]).remedies[0].build(model) for name in (first, second)]
    slots = [
        slot
        for slot, part in parts[1].items()
        if slot in parts[0] and getattr(model, slot) not in set(part.modules())
    ]
    return slots[0] if slots else None


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_two_remedies_chain_or_say_why_not(first, second, architecture, corpus):
    if slot := discarded(first, second, architecture):
        with pytest.raises(UserError) as error:
            make(architecture, [first, second])
        assert f"{second} replaces the {slot} that {first} installed" in str(error.value)
        return
    built = make(architecture, [first, second])
    built.steps(corpus, 1)
    assert all(each.isfinite().all() for each in parameters(built.model))
    arrays = built.evaluate(corpus.valid)
    assert same_arrays(arrays, built.evaluate(corpus.valid))
    assert all(np.isfinite(each).all() for name, each in arrays.items() if "label_" not in name)


def test_only_a_new_decoder_discards_a_decoder(architecture):
    assert {pair for pair in PAIRS if discarded(*pair, architecture)} >= {
        ("delta_vae", "limited_receptive_field"),
        ("word_dropout", "limited_receptive_field"),
    }
    for second in ("delta_vae", "word_dropout"):
        assert discarded("limited_receptive_field", second, architecture) is None


def test_all_remedies_in_one_chain(architecture, corpus):
    first = ["limited_receptive_field"]
    built = make(architecture, first + [name for name in REMEDIES if name not in first])
    built.steps(corpus, 2)
    arrays = built.evaluate(corpus.valid)
    assert all(np.isfinite(each).all() for name, each in arrays.items() if "label_" not in name)
    assert same_arrays(arrays, built.evaluate(corpus.valid))


@dataclass(frozen=True)
class Spy(Remedy):
    """Writes down when it acts."""

    name: str = "spy"
    log: tuple = field(default=(), compare=False)

    def __post_init__(self):
        object.__setattr__(self, "log", self.log[0])

    def objective(self, forward):
        self.log.append(f"objective {self.name}")
        return replace(forward, extra={**forward.extra, self.name: forward.distortion})

    def step(self, step, run):
        def spied(batch, **keywords):
            self.log.append(f"before {self.name}")
            forward = step(batch, **keywords)
            self.log.append(f"after {self.name}")
            return forward

        return spied


def test_the_first_acts_first_on_the_objective_and_the_last_is_outermost(batch, corpus):
    log = []
    built = make("lstm")
    built.remedies = [Spy("a", (log,)), Spy("b", (log,))]
    run = built.run(corpus)
    forward = built.remedy.step(run.update, run)(batch)
    assert log == ["before b", "before a", "objective a", "objective b", "after a", "after b"]
    assert list(forward.extra) == ["a", "b"]
    torch.testing.assert_close(
        forward.per_sentence(), 3 * forward.distortion + forward.kl.sum(1)
    )  # fmt: skip


def test_a_chain_of_none_is_the_plain_vae():
    model = make("lstm").model
    assert chain([]).build(model) is model
    assert chain([]).objective(model) is model
    assert levers_of([]) == []
    assert levers_of([AggressiveInference(), KlAnnealing(), DeltaVae()]) == [
        "build", "objective", "step",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "settings", "told"),
    [
        ("kl_annealing", {"warmup": -0.1}, "warmup"),
        ("cyclical_annealing", {"cycles": 0}, "cycles"),
        ("word_dropout", {"rate": 1.5}, "rate"),
        ("aggressive_inference", {"window": 0}, "window"),
        ("delta_vae", {"delta": 0.0}, "delta"),
        ("delta_vae", {"length": 3}, "length = 3 and latent = 8"),
        ("delta_vae", {"length": 16}, "length = 16 and latent = 8"),
        ("limited_receptive_field", {"window": 0}, "window"),
    ],
)
def test_a_setting_out_of_range_is_told_by_name(name, settings, told):
    with pytest.raises(UserError) as error:
        make("lstm", {name: settings})
    assert told in str(error.value)
    assert name in str(error.value) or find_class(name, remedy_files()[name]).__name__ in str(
        error.value
    )


# Annealing


@pytest.mark.parametrize(
    ("settings", "points"),
    [
        ({}, {0: 0, 0.125: 0.5, 0.2: 0.8, 0.25: 1, 0.6: 1, 1: 1}),
        ({"warmup": 0.5, "start": 0.2}, {0: 0.2, 0.25: 0.6, 0.5: 1, 1: 1}),
        ({"warmup": 0.0}, {0: 1, 1: 1}),
        ({"warmup": 1.0}, {0: 0, 0.3: 0.3, 1: 1}),
        # k = 2 ln 99 / 0.4, so 1 / (1 + e^(ln 99)) at 0 and 1 / (1 + e^(ln 99 / 2)) at 0.1.
        (
            {"warmup": 0.4, "shape": "logistic"},
            {0: 0.01, 0.1: 0.0913252, 0.2: 0.5, 0.3: 0.9086748, 0.3999999: 0.99, 0.4: 1, 1: 1},
        ),
    ],
)
def test_the_weight_of_kl_annealing_by_hand(settings, points):
    remedy = KlAnnealing(**settings)
    for progress, weight in points.items():
        assert remedy.weight(progress) == pytest.approx(weight, abs=2e-6)


@pytest.mark.parametrize(
    ("settings", "points"),
    [
        ({}, {0: 0, 0.0625: 0.5, 0.1: 0.8, 0.125: 1, 0.2: 1, 0.25: 0, 0.3125: 0.5, 0.99: 1}),
        ({"cycles": 1, "ramp": 1.0}, {0: 0, 0.4: 0.4, 0.9: 0.9}),
        ({"cycles": 2, "ramp": 0.2}, {0.05: 0.5, 0.1: 1, 0.49: 1, 0.5: 0, 0.55: 0.5, 0.6: 1}),
        ({"ramp": 0.0}, {0: 1, 0.25: 1, 0.26: 1}),
    ],
)
def test_the_weight_of_cyclical_annealing_by_hand(settings, points):
    remedy = CyclicalAnnealing(**settings)
    for progress, weight in points.items():
        assert remedy.weight(progress) == pytest.approx(weight, abs=1e-9)


@pytest.mark.parametrize("name", ["kl_annealing", "cyclical_annealing"])
def test_annealing_weighs_the_rate_and_nothing_else(name, batch):
    built = make("lstm", [name])
    plain = built.model.eval()(batch, noise_of(1), progress=0.0625)
    weight = built.remedies[0].weight(0.0625)
    forward = built.remedy.objective(plain)
    assert 0 < weight < 1
    assert torch.equal(forward.kl, weight * plain.kl)
    assert replace(forward, kl=plain.kl) == plain


def test_annealing_runs_with_the_budget(corpus):
    built = make("lstm", {"kl_annealing": {"warmup": 0.5}})
    seen = []
    original = built.remedies[0].weight

    run = built.run(corpus, budget=400)
    while run.meter.tokens < 400:
        spent = run.meter.tokens
        forward = run.update(run.draw())
        assert forward.progress == spent / 400
        seen.append(original(forward.progress))
    assert seen[0] == 0
    assert seen == sorted(seen)
    assert seen[-1] == 1


# Word dropout


class Reader(torch.nn.Module):
    """A decoder that hands out the words that it reads."""

    def forward(self, batch, z):
        return batch.inputs


def test_word_dropout_replaces_words_by_unk_at_its_rate_and_never_bos(batch):
    torch.manual_seed(0)
    decoder = WordDropoutDecoder(Reader(), 0.3)
    z = torch.zeros(5, 8)
    draws = torch.stack([decoder(batch, z) for _ in range(300)])
    words = (batch.inputs != BOS) & (batch.inputs != UNK) & batch.mask
    assert (draws[:, :, 0] == BOS).all()
    dropped = draws != batch.inputs
    assert not dropped[:, ~words & batch.mask].any()
    assert (draws[dropped] == UNK).all()
    share = dropped[:, words].float().mean(0)
    assert share.mean() == pytest.approx(0.3, abs=0.01)
    assert (share - 0.3).abs().max() < 0.15  # every word alike
    assert len({tuple(draw.flatten().tolist()) for draw in draws}) == 300


def test_word_dropout_at_rate_one_leaves_no_history(batch):
    read = WordDropoutDecoder(Reader(), 1.0)(batch, torch.zeros(5, 8))
    assert (read[:, 1:][batch.mask[:, 1:]] == UNK).all()
    assert (read[:, 0] == BOS).all()


def test_word_dropout_is_off_in_evaluation(architecture, corpus, batch):
    decoder = WordDropoutDecoder(Reader(), 1.0).eval()
    assert torch.equal(decoder(batch, torch.zeros(5, 8)), batch.inputs)
    heavy, none = (make(architecture, {"word_dropout": {"rate": rate}}) for rate in (0.9, 0.0))
    assert same_arrays(heavy.evaluate(corpus.valid), none.evaluate(corpus.valid))


def test_word_dropout_hides_words_from_the_decoder_only(batch):
    built = make("lstm", {"word_dropout": {"rate": 1.0}})
    model = built.model.train()
    plain = make("lstm").model.train()
    torch.testing.assert_close(
        model(batch, noise_of(1)).q.mean, plain(batch, noise_of(1)).q.mean, rtol=0, atol=0
    )


# Aggressive inference


class FakeRun:
    """Numbers its batches and reads losses and mutual information from lists."""

    def __init__(self, batch, losses=(), information=()):
        self.batch = batch
        self.losses = iter(losses)
        self.information = iter(information)
        self.drawn = self.measured = 0
        self.sentences = 20
        self.state = {}
        self.updates = []

    def draw(self):
        self.drawn += 1
        return replace(self.batch, index=torch.tensor([self.drawn]))

    def measure(self, metric):
        assert metric == "mutual_information"
        self.measured += 1
        return next(self.information)

    def update(self, batch, *, only=SLOTS, then=None):
        self.updates.append((int(batch.index[0]), only))
        loss = next(self.losses, 0.0) * batch.tokens if only == INFERENCE else 0.0
        return SimpleNamespace(per_sentence=lambda: torch.tensor([loss]), progress=0.0)

    def step(self, remedy):
        """One step; returns which slots were updated, in order."""
        self.updates = []
        remedy.step(self.update, self)(replace(self.batch, index=torch.tensor([0])))
        return [only for _, only in self.updates]


@pytest.mark.parametrize(
    ("losses", "inner"),
    [
        ([4, 4, 3, 3, 3, 3, 0, 0], 6),  # no better than the window before
        ([4, 2, 2, 2, 1, 2, 9, 0], 8),  # 3, 2, 1.5, 4.5: the mean over a window counts
        ([5, 5, 6, 6], 4),
        ([9, 8, 7, 6, 5, 4, 3, 2, 1, 0], 10),  # the bound
    ],
)
def test_the_inner_loop_ends_when_a_window_gains_nothing(batch, losses, inner):
    run = FakeRun(batch, losses)
    run.step(AggressiveInference(window=2, longest=10))
    # First the batch itself, then new ones; at last the batch again, for the decoder alone.
    assert run.updates == [(i, INFERENCE) for i in range(inner)] + [(0, GENERATIVE)]
    assert run.measured == 0


def updates_until_a_window_gains_nothing(table, window, longest):
    """The inner loop over (loss, tokens) of each update, one number after the other."""
    previous, loss, tokens = math.inf, 0.0, 0
    for update in range(1, longest + 1):
        loss += table[update - 1][0]
        tokens += table[update - 1][1]
        if update % window == 0:
            if loss / tokens >= previous:
                return update
            previous, loss, tokens = loss / tokens, 0.0, 0
    return longest


@pytest.mark.parametrize("window", [1, 2, 3, 5])
def test_the_inner_loop_compares_windows_by_nats_a_token(window, batch):
    rng, seen = np.random.default_rng(window), set()
    for _ in range(60):
        # Two sentences whose losses are multiples of 1/4, so that sums are exact and ties occur,
        # and batches with different numbers of tokens.
        level = np.linspace(6, 2, 20)
        losses = np.round(4 * level[:, None] * rng.uniform(0.3, 1, (20, 2))) / 4
        tokens = rng.integers(1, 4, 20)
        batches = [
            replace(batch, tokens=int(n), index=torch.tensor([i])) for i, n in enumerate(tokens)
        ]
        run = SimpleNamespace(draw=iter(batches[1:]).__next__)
        taken = []

        def step(batch, only, taken=taken, losses=losses):
            taken.append((int(batch.index[0]), only))
            each = torch.tensor(losses[batch.index[0]], dtype=torch.float32, requires_grad=True)
            return SimpleNamespace(per_sentence=lambda: each)

        AggressiveInference(window=window, longest=20).train_encoder(batches[0], step, run)
        table = list(zip(losses.sum(1).tolist(), tokens.tolist(), strict=True))
        expected = updates_until_a_window_gains_nothing(table, window, 20)
        assert taken == [(i, INFERENCE) for i in range(expected)]
        seen.add(expected)
    assert len(seen) > 2


def test_the_inner_loop_draws_no_batch_that_it_does_not_use(batch):
    run = FakeRun(batch, [9, 8, 7, 6, 5])
    run.step(AggressiveInference(window=2, longest=5))
    assert run.drawn == 4


def test_aggression_ends_for_good_when_the_information_first_falls(batch):
    """A look comes once an epoch of decoder updates: here every 20 sentences, 4 batches of 5."""
    run = FakeRun(batch, information=[1.0, 1.0, 2.0, 1.9])
    remedy = AggressiveInference(window=1, longest=1)
    looks = []
    for _ in range(16):
        assert run.step(remedy) == [INFERENCE, GENERATIVE]
        looks.append(run.measured)
    assert looks == [0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4]
    for _ in range(8):
        assert run.step(remedy) == [SLOTS]
    assert run.measured == 4


@pytest.mark.parametrize(("interval", "steps"), [(0.5, 2), (0.6, 3), (2.0, 8)])
def test_a_look_counts_epochs_of_decoder_updates_whatever_the_inner_loop_spends(
    interval, steps, batch
):
    for longest in (1, 7):
        run = FakeRun(batch, losses=itertools.repeat(0.0), information=[1.0])
        remedy = AggressiveInference(window=50, longest=longest, interval=interval)
        for step in range(1, steps + 1):
            run.step(remedy)
            assert run.measured == (step == steps)


def test_information_that_starts_below_zero_ends_aggression(batch):
    run = FakeRun(batch, information=[-0.1])
    remedy = AggressiveInference(window=1, longest=1, interval=0.25)
    assert run.step(remedy) == [INFERENCE, GENERATIVE]
    assert run.step(remedy) == [SLOTS]


def test_an_inner_update_of_another_remedy_passes_straight_through(batch):
    run = FakeRun(batch)
    step = AggressiveInference().step(run.update, run)
    step(replace(batch, index=torch.tensor([3])), only=("head",))
    assert run.updates == [(3, ("head",))]


def test_aggressive_training_counts_its_updates(architecture, corpus):
    built = make(
        architecture, {"aggressive_inference": {"window": 50, "longest": 3, "interval": 1.0}}
    )
    run = built.steps(corpus, 4)
    assert run.updates == {"encoder": 12, "decoder": 4}
    plain = make(architecture).steps(corpus, 4)
    assert plain.updates == {"encoder": 4, "decoder": 4}


# delta-VAE


def test_the_density_of_the_prior_is_that_of_the_dense_normal():
    a, n, d = 0.7, 5, 3
    place = torch.arange(n)
    covariance = a ** (place[:, None] - place).abs().double()
    dense = MultivariateNormal(torch.zeros(n).double(), covariance)
    z = torch.randn(6, n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = dense.log_prob(z.transpose(1, 2)).sum(1)
    prior = AutoregressiveNormal(z.shape, a)
    torch.testing.assert_close(prior.log_prob(z), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(prior.log_prob(z[None]), expected[None])


def random_posterior(n=4, d=2, batch=5, spread=1.0, seed=1):
    generator = torch.Generator().manual_seed(seed)
    mean, log_scale = (
        spread * torch.randn(batch, n, d, dtype=torch.float64, generator=generator)
        for _ in range(2)
    )
    return diagonal_normal(mean, log_scale.exp())


def test_the_rate_is_the_expected_log_ratio():
    q = random_posterior(spread=0.5)
    p = AutoregressiveNormal(q.mean.shape, 0.6)
    torch.manual_seed(3)
    z = q.sample((40_000,))
    ratio = q.log_prob(z) - p.log_prob(z)  # [S, B]
    kl = rate(q, p, z[0])
    assert kl.shape == (5, 8)
    error = ratio.std(0) / math.sqrt(len(ratio))
    assert ((kl.sum(1) - ratio.mean(0)).abs() < 4.5 * error).all()


def test_the_rate_is_that_of_the_dense_normals():
    n, d, a = 5, 2, 0.8
    q = random_posterior(n, d)
    place = torch.arange(n)
    dense = MultivariateNormal(
        torch.zeros(n).double(), a ** (place[:, None] - place).abs().double()
    )
    posterior = MultivariateNormal(
        q.mean.transpose(1, 2), scale_tril=q.stddev.transpose(1, 2).diag_embed()
    )
    expected = kl_divergence(posterior, dense).sum(1)
    actual = rate(q, AutoregressiveNormal(q.mean.shape, a), q.mean).sum(1)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("a", [0.01, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("n", [2, 3, 8, 20])
def test_the_committed_rate_is_attained_where_theory_says_and_never_undercut(a, n):
    d = 3
    floor = d * committed_rate(a, n)
    assert floor == pytest.approx(
        0.5 * d * ((n - 2) * math.log(1 + a * a) - math.log(1 - a * a)), rel=1e-12
    )
    variance = torch.full((1, n, d), (1 - a * a) / (1 + a * a), dtype=torch.float64)
    variance[:, 0] = variance[:, -1] = 1 - a * a
    optimum = diagonal_normal(torch.zeros_like(variance), variance.sqrt())
    prior = AutoregressiveNormal(variance.shape, a)
    assert rate(optimum, prior, variance).sum().item() == pytest.approx(floor, rel=1e-10)
    for seed in range(20):
        q = random_posterior(n, d, spread=0.1 * seed, seed=seed)
        p = AutoregressiveNormal(q.mean.shape, a)
        assert (rate(q, p, q.mean).sum(1) > floor - 1e-12).all()
        nearby = diagonal_normal(
            0.03 * q.mean[:1], variance.sqrt() * (0.03 * q.mean[1:2]).exp()
        )  # fmt: skip
        assert rate(nearby, prior, variance).sum() >= floor - 1e-12


def test_the_committed_rate_at_published_points():
    for total, a in ((0.1, 0.100), (0.25, 0.159), (1.0, 0.323)):
        assert committed_rate(a, 21) == pytest.approx(total, rel=0.01)


@pytest.mark.parametrize("delta", [0.01, 1.5, 4.8, 7.0])
@pytest.mark.parametrize("length", [2, 4, 8])
def test_the_rate_never_falls_below_delta(delta, length, architecture, corpus):
    built = make(architecture, {"delta_vae": {"delta": delta, "length": length}})
    prior = built.model.prior
    assert 8 // length * committed_rate(prior.a, length) == pytest.approx(delta, rel=1e-6)
    for count in (0, 5):
        built.steps(corpus, count)
        kl = built.evaluate(corpus.train)["kl"].sum(1)
        assert (kl >= delta * (1 - 1e-6) - 1e-5).all()


def test_training_on_the_rate_alone_ends_at_delta(corpus):
    built = make("lstm", {"delta_vae": {"length": 4, "delta": 1.5}})
    run = built.run(corpus, budget=10**9, learning_rate=0.02)
    batch = run.draw()
    for _ in range(400):
        forward = run.update(
            batch, only=INFERENCE, then=lambda f: replace(f, distortion=0 * f.distortion)
        )
    rates = forward.kl.sum(1)
    assert rates.min() >= 1.5 - 1e-5
    assert rates.max() < 1.5 + 0.02


def test_a_rate_below_the_floor_is_an_error(monkeypatch):
    q = random_posterior()
    p = AutoregressiveNormal(q.mean.shape, 0.6)
    least = float(rate(q, p, q.mean).sum(1).min())
    # Arithmetic that is right cannot get there, so the floor is raised.
    monkeypatch.setattr(autoregressive, "committed_rate", lambda a, length: least / 2 + 0.001)
    with pytest.raises(ArithmeticError, match="below the committed"):
        rate(q, p, q.mean)
    monkeypatch.setattr(autoregressive, "committed_rate", lambda a, length: least / 2)
    rate(q, p, q.mean)


@pytest.mark.parametrize("length", [2, 8])
def test_a_delta_out_of_reach_is_told_to_the_user(length):
    built = {"delta_vae": {"delta": 1000.0, "length": length}}
    with pytest.raises(UserError, match="delta"):
        make("lstm", built)


def test_the_encoder_sees_only_what_comes_from_its_token_on(architecture, batch):
    encoder = AntiCausalEncoder(make(architecture).model.encoder)
    before = encoder(batch)
    assert before.shape == (5, int(batch.lengths.max()), 15)
    for row in range(5):
        length = int(batch.lengths[row])
        for token in {0, 1, length // 2, length - 2}:
            targets = batch.targets.clone()
            targets[row, token] = other_word(targets[row, token])
            after = encoder(replace(batch, targets=targets))
            assert torch.equal(after[row, token + 1 : length], before[row, token + 1 : length])
            changed = (after[row, : token + 1] != before[row, : token + 1]).any(1)
            assert changed.all()


def test_slot_states_are_every_stride_th_and_zero_after_the_end():
    states = torch.arange(1.0, 25).reshape(2, 12, 1).expand(2, 12, 3)
    mask = torch.arange(12) < torch.tensor([[12], [4]])
    features = StridedStates(5, 3)(states, mask)
    assert features.shape == (2, 5, 3)
    assert features[0, :, 0].tolist() == [1, 4, 7, 10, 0]
    assert features[1, :, 0].tolist() == [13, 16, 0, 0, 0]


def test_the_decoder_sees_a_slot_from_its_token_on(architecture, batch):
    model = make(architecture).model.eval()
    decoder = GradualDecoder(model.decoder, 3).eval()
    z = torch.randn(5, 4, 2, generator=torch.Generator().manual_seed(1))
    before = decoder(batch, z)
    for slot in range(4):
        changed = z.clone()
        changed[:, slot] += 1
        after = decoder(batch, changed)
        assert torch.equal(after[:, : 3 * slot], before[:, : 3 * slot])
        assert (after[:, 3 * slot] != before[:, 3 * slot]).any(1).all()
    # With all shown it is the wrapped decoder.
    everything = GradualDecoder(model.decoder, 1)(batch, torch.cat([z[:, :1], 0 * z[:, 1:]], 1))
    flat = torch.cat([z[:, 0], torch.zeros(5, 6)], 1)
    torch.testing.assert_close(everything, model.decoder(batch, flat))


# Limited receptive field


@pytest.mark.parametrize("window", [1, 2, 4])
def test_the_decoder_sees_z_and_exactly_the_last_words(window, batch):
    model = make("lstm", {"limited_receptive_field": {"window": window}}).model.eval()
    z = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
    before = model.decoder(batch, z)
    row = int(batch.lengths.argmax())
    for token in range(int(batch.lengths[row])):
        after = model.decoder(change_input(batch, row, token), z)
        changed = (after[row] != before[row]).any(1).nonzero()[:, 0].tolist()
        assert changed == list(range(token, min(token + window, len(after[row]))))
    moved = model.decoder(batch, z + torch.eye(8)[3])
    assert (moved != before).any(2).all()


def test_the_window_decoder_is_the_same_in_every_architecture(batch):
    decoders = [
        make(architecture, ["limited_receptive_field"]).model.decoder
        for architecture in ("lstm", "transformer")
    ]
    assert all(isinstance(decoder, WindowDecoder) for decoder in decoders)
    shapes = [[tuple(p.shape) for p in decoder.parameters()] for decoder in decoders]
    assert shapes[0] == shapes[1]


# Changed batches


def other_word(word):
    """A different word, never a special one."""
    return 4 + (word - 4 + 1) % 37


def change_input(batch, row, token):
    """The same batch with one input word, or <bos>, replaced."""
    inputs = batch.inputs.clone()
    inputs[row, token] = other_word(inputs[row, token])
    return replace(batch, inputs=inputs)


def pad(batch, columns):
    """The same batch with more padding at its end."""

    def wide(x, value):
        return torch.nn.functional.pad(x, (0, columns), value=value)

    return replace(
        batch,
        targets=wide(batch.targets, PAD),
        inputs=wide(batch.inputs, PAD),
        mask=wide(batch.mask, False),
        place=wide(batch.mask, False).flatten().nonzero()[:, 0],
    )
