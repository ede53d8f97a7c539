"""Captured passes: equal to ordinary ones bit for bit, and ordinary ones where they cannot be."""

from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace

import pytest
import torch
from conftest import in_turn, make, needs_bfloat16, parameters, same
from test_training import Refinement, chosen
from torch import nn

from collapse_bench.model import GENERATIVE, INFERENCE, SLOTS, diagonal_normal, plain
from collapse_bench.model.distributions.flow import AutoregressiveAffine, Flow
from collapse_bench.remedy import Remedy, chain
from collapse_bench.training import BudgetSpentError
from collapse_bench.training.replay import Pass, Recorder

EAGER = dict.fromkeys(
    ("semi_amortised", "svi"), "the head asks for the energy, which the objective makes"
) | dict.fromkeys(
    ("flow_prior", "fitted_prior", "sequence_prior", "iaf"), "a distribution holds tuple"
) | dict.fromkeys(("vmf", "power_spherical"), "a distribution holds Angles") | dict.fromkeys(
    (
        "vq_vae", "gumbel_softmax", "fsq", "binary_codes", "product_quantisation", "residual_vq",
        "vq_vae_2", "free_transformer",
    ),
    "a distribution holds Codebook",
)  # fmt: skip
"""Why a remedy's passes are ordinary ones."""

CHAIN = ["kl_annealing", "word_dropout", "free_bits", "aggressive_inference"]


@pytest.fixture
def replays(monkeypatch):
    """Number of tokens of each replay."""
    made, call = [], Pass.__call__

    def counted(self, batch, *arguments):
        forward = call(self, batch, *arguments)
        made.append(batch.tokens)
        return forward

    monkeypatch.setattr(Pass, "__call__", counted)
    return made


def steps(built, corpus, count, captured, sequence=None, budget=30_000, **changes):
    """Train for some steps; `sequence` has the keywords of each update, else the remedy steps.

    Returns all that may not differ, and why passes were ordinary at the end.
    """
    torch.manual_seed(built.seed)
    run = built.run(corpus, budget, captured=captured, **changes)
    step = run.update if sequence else built.remedy.step(run.update, run)
    seen = []
    with suppress(BudgetSpentError):
        for i in range(count):
            keywords = sequence[i % len(sequence)] if sequence else {}
            forward = step(run.draw(), **keywords)
            run.steps += 1
            seen += [forward.per_sentence().detach(), forward.z.detach(), forward.kl.detach()]
    generators = [torch.get_rng_state(), run._latent.get_state()]
    numbers = torch.tensor([run.meter.tokens, *run.updates.values()])
    buffers = list(built.model.buffers())
    gradients = [torch.ones(()) if p.grad is None else p.grad for p in built.model.parameters()]
    everything = [*parameters(built.model), *buffers, *gradients, *seen, *generators, numbers]
    return everything, run.passes.eager


def with_remedies(architecture, *remedies):
    """A model in which remedies of these tests are built."""
    built = make(architecture)
    built.remedies = list(remedies)
    built.model = chain(remedies).build(built.model)
    return built


def compared(build, corpus, count=40, **how):
    """Whether captured updates equal plain ones, and why the former were ordinary at the end."""
    expected, _ = steps(build(), corpus, count, captured=False, **how)
    found, eager = steps(build(), corpus, count, captured=True, **how)
    return same(found, expected), eager


# Equal to plain training


@in_turn()
def test_updates_are_those_of_plain_training_bit_for_bit(name, architecture, corpus, replays):
    # The norm is clipped now and then.
    build = lambda: make(architecture, chosen(name))  # noqa: E731
    assert compared(build, corpus, count=16, clip=8.0) == (True, EAGER.get(name))
    assert name in EAGER or len(replays) > 2


def test_updates_of_a_chain_are_those_of_plain_training(architecture, corpus, replays):
    assert compared(lambda: make(architecture, CHAIN), corpus, clip=8.0) == (True, None)
    assert len(replays) > 2


def test_a_thousand_steps_are_those_of_plain_training(architecture, corpus, replays):
    sizes = {"embedding": 4, "hidden": 6, "latent": 2, "layers": 1, "heads": 2}
    build = lambda: make(architecture, **sizes)  # noqa: E731
    assert compared(build, corpus, count=1000, batch=10, budget=200_000) == (True, None)
    assert len(replays) > 950


@needs_bfloat16
def test_updates_in_bfloat16_are_those_of_plain_training(architecture, corpus, replays):
    how = {"precision": "bfloat16", "clip": 0.1}
    assert compared(lambda: make(architecture), corpus, **how) == (True, None)
    assert replays


def mixed(forward):
    """An objective that uses every tensor of a pass."""
    q, p = forward.q.base_dist, forward.p.base_dist
    used = forward.z * q.mean + (q.stddev - p.stddev).square() - forward.q.entropy()[:, None]
    states = forward.states.square().mean((1, 2)) + forward.features.abs().mean(1)
    return replace(forward, kl=0.5 * forward.kl, extra={"used": used.sum(1), "states": states})


def weighted_by_the_step(forward):
    return replace(forward, kl=(forward.step % 3) * forward.progress * forward.kl)


def test_updates_of_some_slots_with_any_objective_are_those_of_plain_training(
    architecture, corpus, replays
):
    sequence = [
        {},
        {"only": INFERENCE, "then": mixed},
        {"only": GENERATIVE},
        {"only": ("encoder",), "then": weighted_by_the_step},
        {"only": SLOTS, "then": mixed},
    ]
    found = compared(lambda: make(architecture), corpus, count=80, sequence=sequence)
    assert found == (True, None)
    assert len(replays) > 25


class LearnedPrior(nn.Module):
    """A normal whose mean is learned, and a batch normalisation that no posterior passes."""

    def __init__(self, latent):
        super().__init__()
        # Two whose gradient is one tensor, which the optimiser scales where it is.
        self.mean = nn.Parameter(torch.ones(latent))
        self.more = nn.Parameter(torch.ones(latent))
        self.norm = nn.BatchNorm1d(latent, affine=False)

    def forward(self, q, batch):
        self.norm(q.mean)
        mean = (self.mean + self.more).expand_as(q.mean)
        return diagonal_normal(mean, torch.ones_like(mean))


@dataclass(frozen=True)
class Autoencoder(Remedy):
    """First without a rate, so that the prior gets no gradient and no step of Adam at all."""

    def build(self, model):
        return {"prior": LearnedPrior(model.dimensions.latent), __name__: nn.Linear(8, 1)}

    def objective(self, forward):
        critic = forward.model.further[__name__](forward.z)[:, 0]
        forward = replace(forward, extra={"critic": critic})
        return forward if forward.step > 80 else replace(forward, kl=0 * forward.kl.detach())


def test_what_gets_no_gradient_has_none_and_buffers_and_further_parts_are_as_ever(
    architecture, corpus, replays
):
    found = compared(lambda: with_remedies(architecture, Autoencoder()), corpus, count=80, clip=0.5)
    assert found == (True, None)
    assert len(replays) > 25


def test_a_pass_keeps_its_numbers_when_others_follow(corpus, replays):
    run = make("lstm").run(corpus, captured=True)
    batch = run.draw()
    passes = [run.update(batch) for _ in range(4)]
    copies = [[f.z.clone(), f.kl.clone(), f.q.mean.clone(), f.distortion.clone()] for f in passes]
    run.update(batch)
    assert len(replays) == 4
    for forward, before in zip(passes, copies, strict=True):
        assert same([forward.z, forward.kl, forward.q.mean, forward.distortion], before)
    assert not torch.equal(passes[-1].z, passes[-2].z)
    assert passes[-1].batch is batch


@pytest.mark.parametrize("budget", [1, 333, 4000])
def test_the_budget_ends_at_the_same_token(budget, architecture, corpus, replays):
    runs = [
        make(architecture, CHAIN).train(corpus, budget=budget, captured=captured)
        for captured in (False, True)
    ]
    (plain_run, plain_selection), (run, selection) = runs
    assert run.meter.tokens == plain_run.meter.tokens >= budget
    assert run.state == plain_run.state
    for row, expected in zip(selection.history, plain_selection.history, strict=True):
        assert row | {"seconds": 0} == expected | {"seconds": 0}
    assert same(parameters(run.model), parameters(plain_run.model))
    assert bool(replays) == (budget == 4000)


def test_nothing_is_replayed_beyond_the_budget(corpus, replays):
    run = make("lstm").run(corpus, budget=10**6, captured=True)
    batch = run.draw()
    for _ in range(3):
        run.update(batch)
    run.meter.budget = run.meter.tokens
    before = parameters(run.model)
    with pytest.raises(BudgetSpentError):
        run.update(batch)
    assert (run.meter.tokens, len(replays)) == (3 * batch.tokens, 2)
    assert same(before, parameters(run.model))
    assert run.passes.eager is None


# What a remedy changes


@dataclass(frozen=True)
class ChangingRate(Remedy):
    """Word dropout at another rate in each step, one of `rates`."""

    rates: int = 2

    def build(self, model):
        return make("lstm", {"word_dropout": {"rate": 0.5}}).remedies[0].build(model)

    def step(self, step, run):
        count = [0]

        def changing(batch, **keywords):
            run.model.decoder.rate = (count[0] % self.rates) / self.rates
            count[0] += 1
            return step(batch, **keywords)

        return changing


def test_an_attribute_that_changes_is_never_stale(architecture, corpus, replays):
    build = lambda: with_remedies(architecture, ChangingRate())  # noqa: E731
    assert compared(build, corpus, count=60) == (True, None)
    assert replays


def test_there_is_no_replay_of_what_was_captured_in_another_state(corpus, replays):
    run = make("lstm", ["word_dropout"]).run(corpus, captured=True)
    batch = run.draw()
    for _ in range(3):
        run.update(batch)
    assert len(replays) == 2
    model = run.model
    for change in (
        lambda: setattr(model.decoder, "rate", 0.9),
        lambda: setattr(model.decoder, "told", torch.ones(3)),
        lambda: setattr(model.decoder, "told", torch.ones(3)),
        lambda: model.readout.weight.requires_grad_(False),
        lambda: setattr(model.head, "mean_and_log_variance", nn.Linear(15, 16)),
    ):
        change()
        run.update(batch)
    run.update(batch, only=INFERENCE)
    assert len(replays) == 2
    run.update(batch, only=INFERENCE)
    assert len(replays) == 3
    assert run.passes.eager is None


def test_an_attribute_that_changes_every_time_makes_passes_ordinary(corpus, replays):
    def build():
        return with_remedies("lstm", ChangingRate(1000))

    assert compared(build, corpus, count=150) == (True, "more than 8 values of decoder.rate")
    assert not replays


# What cannot be captured


class Wrapped(nn.Module):
    """A part with something done to what it returns."""

    def __init__(self, part, change):
        super().__init__()
        self.part, self.change = part, change
        self.calls = 0
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, *given):
        return self.change(self, self.part(*given), *given)


def counting(self, found, *given):
    self.calls += 1
    return found


def replacing_a_buffer(self, found, *given):
    self.mean = found.detach().mean()
    return found


def a_number_of_the_host(self, found, batch, z):
    return found * (batch.tokens / 60)


def a_flow(self, q, features, energy):
    return Flow(q, AutoregressiveAffine(lambda y: (torch.zeros_like(y), torch.ones_like(y))))


def hooked(self, found, *given):
    if not self.part._forward_hooks:
        self.part.register_forward_hook(lambda *ignored: None)
    return found


@dataclass(frozen=True)
class Wrapping(Remedy):
    """A slot that does what cannot be captured."""

    slot: str = "decoder"
    change: object = counting

    def __post_init__(self):
        pass

    def build(self, model):
        return {self.slot: Wrapped(getattr(model, self.slot), self.change)}


@pytest.mark.parametrize(
    ("remedy", "why"),
    [
        (Refinement(), "the head asks for the energy, which the objective makes"),
        (Wrapping("decoder", counting), "a pass changes decoder.calls"),
        (Wrapping("decoder", replacing_a_buffer), "a pass changes decoder.mean"),
        (Wrapping("decoder", a_number_of_the_host), "a replay differs from an ordinary pass"),
        (Wrapping("head", a_flow), "a distribution holds tuple"),
        (Wrapping("encoder", hooked), "a replay would not run the hooks of encoder.part"),
    ],
    ids=["energy", "attribute", "buffer", "host", "flow", "hook"],
)
def test_what_cannot_be_captured_says_why_and_trains_as_ever(remedy, why, corpus, replays):
    assert compared(lambda: with_remedies("lstm", remedy), corpus, count=40) == (True, why)
    assert not replays


def derivative_by_parameters(forward):
    (gradient,) = torch.autograd.grad(
        forward.kl.sum(), forward.model.head.mean_and_log_variance.weight, retain_graph=True
    )
    return replace(forward, kl=gradient.norm() * forward.kl)


def derivative_by_z(forward):
    (gradient,) = torch.autograd.grad(forward.distortion.sum(), forward.z, create_graph=True)
    return replace(forward, extra={"slope": gradient.square().sum(1)})


@pytest.mark.parametrize(
    ("then", "why"),
    [
        (derivative_by_parameters, "an objective takes derivatives itself"),
        (derivative_by_z, "RuntimeError: The differentiated Tensor"),
    ],
)
def test_an_objective_with_derivatives_of_its_own_makes_passes_ordinary(then, why, corpus, replays):
    # Only late, when passes have been replayed for long.
    sequence = [{"then": plain}] * 40 + [{"then": then}] * 10
    equal, eager = compared(
        lambda: make("transformer"), corpus, count=50, sequence=sequence, batch=10
    )
    assert equal
    assert eager.startswith(why)
    assert replays


# What a GPU's replay would be held against


class NothingIsReplayed:
    """A graph that captures nothing."""

    def register_generator_state(self, generator):
        pass

    def capture_begin(self, pool):
        pass

    def capture_end(self):
        pass

    def replay(self):
        pass


def test_a_replay_that_leaves_the_results_of_the_capture_is_found_out(corpus, replays, monkeypatch):
    modes = []
    monkeypatch.setattr(torch.cuda, "CUDAGraph", NothingIsReplayed)
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: "default")
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    monkeypatch.setattr(Recorder, "stream", lambda self: nullcontext())
    made = Recorder.__init__

    def on_gpu(self, latent):
        made(self, latent)
        self.on_gpu, self._pool = True, None

    expected, _ = steps(make("lstm"), corpus, 30, captured=False)
    monkeypatch.setattr(Recorder, "__init__", on_gpu)
    found, eager = steps(make("lstm"), corpus, 30, captured=True)
    assert eager == "a replay differs from an ordinary pass"
    assert same(found, expected)
    assert modes == ["error", "default"]
    assert not replays
