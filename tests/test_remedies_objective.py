"""What the remedies promise that weigh the terms of the objective, beyond the laws of all."""

from dataclasses import replace

import pytest
import torch
from conftest import make, noise_of

from collapse_bench.errors import UserError
from collapse_bench.remedies.objective.beta_vae import BetaVae
from collapse_bench.remedies.objective.cyclical_annealing import CyclicalAnnealing
from collapse_bench.remedies.objective.free_bits import FreeBits
from collapse_bench.remedies.objective.kl_annealing import KlAnnealing

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


def test_a_logistic_annealing_has_no_start():
    with pytest.raises(UserError, match="start belongs to the linear shape"):
        KlAnnealing(shape="logistic", start=0.5)


# A constant weight


@pytest.mark.parametrize("beta", [0.0, 0.4, 3.0])
def test_beta_weighs_the_rate_and_nothing_else(beta, batch):
    plain = make("lstm").model.eval()(batch, noise_of(1), progress=0.5)
    forward = BetaVae(beta).objective(plain)
    assert torch.equal(forward.kl, beta * plain.kl)
    assert replace(forward, kl=plain.kl) == plain
    torch.testing.assert_close(forward.per_sentence(), plain.distortion + beta * plain.kl.sum(1))


# Free bits

KL = [[0.1, 2.0], [0.7, 0.2]]
"""Two sentences and two dimensions; with a target of 1 the floor is 0.5 a dimension."""

FORMS = {
    # max(0.5, .) of each entry: 0.5 + 2 and 0.7 + 0.5
    "sentence and dimension": ([2.5, 1.2], [[0, 1], [1, 0]]),
    # means over the batch are 0.4 and 1.1: the first is free
    "dimension": ([2.5, 0.7], [[0, 1], [0, 1]]),
    # sums are 2.1 and 0.9: the second is free
    "sentence": ([2.1, 1.0], [[1, 1], [0, 0]]),
    # the mean of the sums is 1.5: nothing is free
    "batch": ([2.1, 0.9], [[1, 1], [1, 1]]),
}


def with_rate(kl, forward):
    return replace(forward, kl=kl, distortion=torch.zeros(len(kl)))


@pytest.fixture
def pass_(batch):
    return make("lstm").model.eval()(batch, noise_of(1))


@pytest.mark.parametrize("per", FORMS)
def test_the_four_forms_of_free_bits_by_hand(per, pass_):
    expected, gradient = FORMS[per]
    kl = torch.tensor(KL, requires_grad=True)
    forward = FreeBits(target=1.0, per=per).objective(with_rate(kl, pass_))
    each = forward.per_sentence()
    torch.testing.assert_close(each, torch.tensor(expected))
    each.sum().backward()
    torch.testing.assert_close(kl.grad, torch.tensor(gradient, dtype=torch.float32))


def maximum(kl, target, per):
    """The loss over a batch, as its formula has it."""
    floor = target / kl.shape[1]
    return {
        "sentence and dimension": kl.clamp(min=floor).sum(1).mean(),
        "dimension": kl.mean(0).clamp(min=floor).sum(),
        "sentence": kl.sum(1).clamp(min=target).mean(),
        "batch": kl.sum(1).mean().clamp(min=target),
    }[per]


@pytest.mark.parametrize("per", FORMS)
@pytest.mark.parametrize("target", [0.5, 3.0, 40.0])
def test_the_mask_has_loss_and_gradient_of_the_maximum(target, per, pass_):
    generator = torch.Generator().manual_seed(3)
    values = torch.rand(6, 4, dtype=torch.float64, generator=generator) * 3
    masked, plain = values.clone().requires_grad_(), values.clone().requires_grad_()
    loss = FreeBits(target=target, per=per).objective(with_rate(masked, pass_)).loss()
    expected = maximum(plain, target, per)
    torch.testing.assert_close(loss, expected)
    for each in (loss, expected):
        if each.requires_grad:
            each.backward()
    nothing = torch.zeros_like(values)
    gradients = [nothing if each.grad is None else each.grad for each in (masked, plain)]
    torch.testing.assert_close(*gradients)
    assert (target < 40) == bool(gradients[0].any())


@pytest.mark.parametrize("per", FORMS)
def test_nothing_is_free_at_a_target_of_zero(per, pass_):
    assert FreeBits(target=0.0, per=per).objective(pass_) is pass_
