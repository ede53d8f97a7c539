"""What the remedies promise that aim at a rate, beyond the laws of all: rule, target, chain."""

import math
from types import SimpleNamespace

import pytest
import torch
from conftest import make

from collapse_bench.model import GENERATIVE, INFERENCE, SLOTS, Forward, diagonal_normal, plain
from collapse_bench.model.control import RunningMean
from collapse_bench.model.distributions import rate
from collapse_bench.remedies.objective.capacity_target import CapacityTarget
from collapse_bench.remedies.objective.control_vae import ControlVae
from collapse_bench.remedies.objective.geco import Geco
from collapse_bench.remedies.objective.mdr import Mdr
from collapse_bench.remedies.objective.soft_free_bits import SoftFreeBits
from collapse_bench.remedies.training.aggressive_inference import AggressiveInference


def pass_of(rates, distortion=0.0, progress=1.0, left=1.0):
    """A pass of sentences with these rates; `left` is what other remedies left of them."""
    mean = (2 * torch.tensor(rates, dtype=torch.float64)).sqrt()[:, None].requires_grad_()
    q, p = (diagonal_normal(each, torch.ones_like(mean)) for each in (mean, torch.zeros_like(mean)))
    distortion = torch.full((len(rates),), distortion, dtype=torch.float64)
    kl = left * rate(q, p, mean)  # of N(m, 1) from N(0, 1), m^2 / 2
    return Forward(None, 0, progress, None, None, None, q, mean, p, None, distortion, kl)


class FakeRun:
    """Updates on passes that it is given in place of batches."""

    def __init__(self, remedy):
        self.model = SimpleNamespace(
            further={name: part.double() for name, part in remedy.build(None).items()}
        )
        (self.memory,) = self.model.further.values()
        self.step = remedy.step(self.update, self)

    def update(self, forward, *, only=SLOTS, then=plain):
        return then(forward)


# The rules by hand


def test_the_weight_of_soft_free_bits_by_hand():
    run = FakeRun(SoftFreeBits(target=4.0, increment=0.25, start=0.4))
    seen = [0.4]
    for rates in ([1, 5], [4, 4], [4, 4.2], [4, 4.6], [9, 9], [9, 9], [9, 9], [9, 9], [0, 1]):
        forward = run.step(pass_of(rates))
        assert forward.kl[:, 0].tolist() == pytest.approx([seen[-1] * each for each in rates])
        seen.append(float(run.memory.weight))
    # 3 is below; 4 and 4.1 are within 5 %; 4.3 and 9 are above, up to a weight of 1; 0.5 is below.
    expected = [0.32, 0.32, 0.32, 0.4, 0.5, 0.625, 0.78125, 0.9765625, 0.78125]
    assert seen[1:] == pytest.approx(expected)
    for rates, bound in (([0.0], 1e-4), ([9.0], 1.0)):
        for _ in range(60):
            run.step(pass_of(rates))
        assert float(run.memory.weight) == pytest.approx(bound)


@pytest.mark.parametrize(
    ("settings", "points"),
    [
        ({"end": 8.0}, {0: 0, 0.125: 4, 0.25: 8, 1: 8}),
        ({"end": 8.0, "start": 2.0, "rise": 0.5}, {0: 2, 0.25: 5, 0.5: 8}),
        ({"end": 8.0, "rise": 0.0}, {0: 8, 1: 8}),
    ],
)
def test_the_capacity_by_hand(settings, points):
    for progress, capacity in points.items():
        assert CapacityTarget(**settings).capacity(progress) == pytest.approx(capacity)


@pytest.mark.parametrize(
    ("per", "expected"),
    [
        ("sentence", [6.0, 4.0]),  # 2 |1 - 4| and 2 |6 - 4|
        ("batch", [6.0, -4.0]),  # the mean is 3.5, below 4: 2 (4 - 1) and 2 (4 - 6)
        ("recent batches", [-6.0, 4.0]),  # 0.9 * 9 + 0.1 * 3.5 is above 4
    ],
)
def test_the_three_forms_of_a_capacity_target_by_hand(per, expected):
    run = FakeRun(CapacityTarget(end=4.0, weight=2.0, per=per))
    first = run.step(pass_of([9.0, 9.0]))
    assert first.per_sentence().tolist() == pytest.approx([10.0, 10.0])
    forward = run.step(pass_of([1.0, 6.0]))
    assert forward.per_sentence().tolist() == pytest.approx(expected)
    if per == "batch":
        assert float(forward.loss().detach()) == pytest.approx(2 * abs(3.5 - 4))


def test_the_running_mean_by_hand():
    mean = RunningMean(0.9).double()
    for number, expected in ((5.0, 5.0), (3.0, 4.8), (4.8, 4.8)):
        assert float(mean.after(torch.tensor(number, dtype=torch.float64))) == expected
        mean.learn(torch.tensor(number, dtype=torch.float64))
        assert float(mean.mean) == pytest.approx(expected)


def test_the_multiplier_of_mdr_is_that_of_an_rmsprop_of_its_own():
    """It crosses 0 on the way, where |w| turns and w does not stop."""
    run = FakeRun(Mdr(target=4.0, start=0.05, learning_rate=0.02))
    w = torch.nn.Parameter(torch.tensor([0.05], dtype=torch.float64))
    rmsprop = torch.optim.RMSprop([w], lr=0.02, maximize=True)
    signs = set()
    for rates in ([6, 8], [5, 4], [5, 5], [9, 1], [1, 2], [0, 0], [3, 4]):
        given = pass_of(rates, distortion=7.0)
        forward = run.step(given)
        u = float(w.detach().abs())
        expected = [7 + each + u * (4 - each) for each in rates]
        assert forward.per_sentence().tolist() == pytest.approx(expected)
        rmsprop.zero_grad()
        (w.abs() * (4 - given.kl.detach().sum(1).mean())).sum().backward()
        rmsprop.step()
        assert float(run.memory.multiplier) == pytest.approx(float(w.detach()))
        signs.add(bool(w.detach() > 0))
    assert signs == {True, False}


def test_the_multiplier_of_mdr_is_no_parameter_that_adam_could_move():
    assert not list(make("lstm", ["mdr"]).model.further.parameters())


@pytest.mark.parametrize("constraint", ["distortion", "rate"])
def test_the_multiplier_of_geco_by_hand(constraint):
    run = FakeRun(Geco(constraint=constraint, target=4.0, decay=0.5, speed=0.1))
    multiplier, average = 1.0, None
    for rates, distortion in (([2, 4], 8.0), ([6, 6], 6.0), ([5, 9], 2.0), ([0, 1], 5.0)):
        forward = run.step(pass_of(rates, distortion))
        if constraint == "distortion":
            expected = [each + multiplier * (distortion - 4) for each in rates]
            off = distortion / 4 - 1
        else:
            expected = [distortion + multiplier * (each - 4) for each in rates]
            off = sum(rates) / 2 / 4 - 1
        assert forward.per_sentence().tolist() == pytest.approx(expected)
        average = off if average is None else 0.5 * average + 0.5 * off
        multiplier *= math.exp(0.1 * average)
        assert float(run.memory.multiplier) == pytest.approx(multiplier)


def test_the_multiplier_of_geco_stays_finite_when_its_target_is_out_of_reach():
    run = FakeRun(Geco(target=1.0, speed=1.0))
    for _ in range(3):
        run.step(pass_of([1.0], distortion=1e4))
    assert float(run.memory.multiplier) == 1e6


def test_the_controller_of_control_vae_by_hand():
    run = FakeRun(ControlVae(target=3.0, kp=0.1, ki=0.02, least=0.2))
    weight, integral = 0.2, 0.0
    for rates in ([9, 11], [7, 3], [3, 3], [1, 2], [2, 6]):
        forward = run.step(pass_of(rates))
        assert forward.kl[:, 0].tolist() == pytest.approx([weight * each for each in rates])
        error = 3 - sum(rates) / 2
        integral -= 0.02 * error
        weight = 0.2 + 0.1 / (1 + math.exp(error)) + integral
        assert float(run.memory.weight) == pytest.approx(weight)
        assert float(run.memory.integral) == pytest.approx(integral)


def test_the_integral_of_control_vae_does_not_wind_up_at_either_bound():
    run = FakeRun(ControlVae(target=3.0, kp=0.01, ki=0.1))
    for _ in range(50):
        run.step(pass_of([8.0]))  # e = -5: the integral grows by 0.5 as long as there is room
    assert float(run.memory.integral) == pytest.approx(0.5)
    run.step(pass_of([2.0]))  # at once down by 0.1; a wound integral of 25 would take 240 updates
    assert float(run.memory.weight) == pytest.approx(0.4 + 0.01 / (1 + math.e))
    for _ in range(50):
        run.step(pass_of([0.0]))
    assert float(run.memory.integral) == pytest.approx(0.1)
    run.step(pass_of([4.0]))
    assert float(run.memory.weight) == pytest.approx(0.2 + 0.01 / (1 + math.exp(-1)))


# The target is met


class LinearVAE:
    """x ~ N(0, diag(4, 2)), p(x|z) = N(w z, 1), q(z|x) = N(v x, s^2), from the plain optimum.

    Four points have those moments, and all terms are exact. The beta-VAE has w_i^2 = lambda_i -
    beta, R = ln(8 / beta^2) / 2 and D = ln(2 pi) + beta (Lucas et al. 2019).
    """

    def __init__(self, remedy, updates, learning_rate):
        spread = torch.tensor([4.0, 2.0], dtype=torch.float64)
        signs = torch.tensor([[1, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)
        self.x = signs * spread.sqrt()
        self.w = (spread - 1).sqrt().requires_grad_()
        self.v = (self.w.detach() / spread).requires_grad_()
        self.log_s = (-0.5 * spread.log()).requires_grad_()
        self.adam = torch.optim.Adam([self.w, self.v, self.log_s], lr=learning_rate)
        self.run = FakeRun(remedy)
        step = remedy.step(self.update, self.run)
        self.rates, self.distortions = [], []
        for update in range(updates):
            step(update / updates)

    def update(self, progress, *, only=SLOTS, then=plain):
        mean, s = self.v * self.x, self.log_s.exp()
        q = diagonal_normal(mean, s.expand_as(mean))
        p = diagonal_normal(torch.zeros_like(mean), torch.ones_like(mean))
        squared = (self.x - self.w * mean).square() + (self.w * s).square()
        distortion = 0.5 * (math.log(2 * math.pi) + squared).sum(1)
        kl = rate(q, p, mean)
        forward = then(
            Forward(None, 0, progress, None, None, None, q, mean, p, None, distortion, kl)
        )
        self.adam.zero_grad()
        forward.loss().backward()
        self.adam.step()
        self.rates.append(float(kl.detach().sum(1).mean()))
        self.distortions.append(float(distortion.detach().mean()))
        return forward


BETA = math.sqrt(8) * math.exp(-2)
"""The slope of the rate-distortion curve where the rate is 2."""

GECO = Geco(target=math.log(2 * math.pi) + BETA, decay=0.5, speed=0.05)
GECO_OF_RATE = Geco(constraint="rate", target=2.0, decay=0.9, speed=0.03)

AIMED = {
    "capacity, recent batches": (CapacityTarget(end=2.0), 400, 0.003, None),
    "capacity, batch": (CapacityTarget(end=2.0, per="batch"), 300, 0.003, None),
    "mdr": (Mdr(target=2.0, start=0.1, learning_rate=0.003), 350, 0.01, ("multiplier", 1 - BETA)),
    "geco, distortion": (GECO, 400, 0.01, ("multiplier", 1 / BETA)),
    "geco, rate": (GECO_OF_RATE, 300, 0.01, ("multiplier", BETA)),
    "control_vae": (ControlVae(target=2.0, ki=4e-3), 400, 0.01, ("weight", BETA)),
}
"""Remedy, updates, learning rate, and what its multiplier has to come to."""


@pytest.mark.parametrize("name", AIMED)
def test_the_rate_comes_to_its_target_and_the_multiplier_to_the_slope_there(name):
    remedy, updates, learning_rate, multiplier = AIMED[name]
    model = LinearVAE(remedy, updates, learning_rate)
    assert model.rates[0] == pytest.approx(0.5 * math.log(8))
    last = model.rates[-updates // 5 :]
    assert sum(last) / len(last) == pytest.approx(2, rel=0.05)
    assert model.distortions[-1] == pytest.approx(math.log(2 * math.pi) + BETA, rel=0.05)
    if multiplier:
        number, value = multiplier
        assert float(getattr(model.run.memory, number)) == pytest.approx(value, rel=0.05)
        expected = [4 - BETA, 2 - BETA]
        assert model.w.detach().square().tolist() == pytest.approx(expected, rel=0.02)


def test_a_target_below_the_plain_rate_leaves_the_plain_vae():
    for remedy in CapacityTarget(end=0.5), Mdr(target=0.5, start=0.05, learning_rate=0.003):
        model = LinearVAE(remedy, 100, 0.01)
        assert model.rates[-1] == pytest.approx(0.5 * math.log(8), rel=0.01)


# In a chain

REMEDIES = {
    "soft_free_bits": SoftFreeBits(target=1.0),
    "capacity_target": CapacityTarget(start=1.0),
    "mdr": Mdr(),
    "geco": Geco(constraint="rate", target=2.0),
    "control_vae": ControlVae(),
}
INNER_LOOP = AggressiveInference(window=50, longest=3)

every_controller = pytest.mark.parametrize("name", REMEDIES)


@every_controller
def test_what_is_looked_at_is_the_rate_itself_and_what_is_weighed_what_is_left_of_it(name):
    terms, numbers = {}, {}
    for left in (1.0, 0.25):
        run = FakeRun(REMEDIES[name])
        for rates in ([6.0, 1.0], [3.0, 2.0], [2.0, 1.0]):
            forward = run.step(pass_of(rates, left=left))
        terms[left] = forward.per_sentence().tolist()
        numbers[left] = [float(buffer) for buffer in run.memory.buffers()]
    assert numbers[0.25] == numbers[1.0]
    assert terms[0.25] != terms[1.0]


def test_the_constraint_of_mdr_is_on_the_rate_itself():
    """So a warm-up beside it, whose weight is 0 at first, does not take it away."""
    forward = FakeRun(Mdr(target=4.0, start=0.5)).step(pass_of([1.0, 6.0], left=0.0))
    assert forward.per_sentence().tolist() == pytest.approx([1.5, -1.0])


class Spy:
    """The updates of a run: their slots, and whether what came to each was weighed."""

    def __init__(self, corpus, *remedies):
        self.built = make("lstm")
        self.built.remedies = list(remedies)
        self.built.model = self.built.remedy.build(self.built.model)
        self.run = self.built.run(corpus)
        self.step = self.built.remedy.step(self.update, self.run)
        self.updates = []

    def update(self, batch, *, only=SLOTS, then=plain):
        def spied(forward):
            weighed = then(forward)
            same = torch.equal(weighed.per_sentence(), forward.per_sentence())
            self.updates.append((only, not same))
            return weighed

        return self.run.update(batch, only=only, then=spied)

    def remembered(self):
        return [float(buffer) for buffer in self.built.model.further.buffers()]


@every_controller
@pytest.mark.parametrize("outermost", ["the inner loop", "the controller"])
def test_every_update_of_an_inner_loop_is_weighed(name, outermost, corpus):
    chain = [REMEDIES[name], INNER_LOOP]
    spy = Spy(corpus, *(chain if outermost == "the inner loop" else reversed(chain)))
    spy.step(spy.run.draw())
    assert spy.updates == [(INFERENCE, True)] * 3 + [(GENERATIVE, True)]


@pytest.mark.parametrize("votes", [4, 1])
def test_a_controller_inside_an_inner_loop_learns_from_each_update_and_outside_once(votes, corpus):
    chain = [SoftFreeBits(), INNER_LOOP]
    spy = Spy(corpus, *(chain if votes == 4 else reversed(chain)))
    spy.step(spy.run.draw())
    assert spy.remembered() == [pytest.approx(0.1 / 1.1**votes)]


@every_controller
def test_a_call_for_some_slots_is_one_update_that_is_weighed_and_learned_from(name, corpus):
    spy = Spy(corpus, REMEDIES[name])
    before = spy.remembered()
    spy.step(spy.run.draw(), only=("head",))
    assert spy.updates == [(("head",), True)]
    assert spy.remembered() != before


@every_controller
def test_what_a_controller_remembers_leaves_passes_captured(name, corpus):
    """What lasts is changed in place: a new tensor each time would be a new state of the model."""
    run = make("lstm", [name]).steps(corpus, 12, captured=True)
    assert run.passes.eager is None
    assert run.passes._passes
