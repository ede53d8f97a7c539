"""What the remedies promise that refine each sentence's posterior, beyond the laws of all."""

import math

import pytest
import torch
from conftest import make, needs_bfloat16, noise_of
from torch.distributions import kl_divergence

from collapse_bench.evaluation.noise import SentenceNoise
from collapse_bench.laws.bench import tiny_batch
from collapse_bench.model.distributions import diagonal_normal, draw, shape_of
from collapse_bench.model.lstm import LSTM, twice_differentiable
from collapse_bench.model.refinement import Descent, gradients_of, normal_of, parameters_of
from collapse_bench.precision import products_in

W, S = 1.5, 0.7
"""A linear Gaussian model: x = W z + S e, z and e standard normal."""


def linear_gaussian(x):
    """The expected energy of a normal q of z given each x [B, D], in closed form."""

    def energy(q):
        mean, variance = q.mean, q.stddev**2
        distortion = 0.5 * (((x - W * mean) ** 2 + W**2 * variance) / S**2)
        rate = 0.5 * (mean**2 + variance - variance.log() - 1)
        return (distortion + rate).sum(1)

    return energy


def slopes(x, mean, log_variance):
    """Derivatives of that energy by mean and log variance, by hand."""
    variance = log_variance.exp()
    return -W * (x - W * mean) / S**2 + mean, 0.5 * (W**2 * variance / S**2 + variance - 1)


def starts(sentences=3, dimensions=2):
    generator = torch.Generator().manual_seed(1)
    x, mean, log_variance = torch.randn(
        3, sentences, dimensions, dtype=torch.float64, generator=generator
    )
    return x, [mean, log_variance]


# The descent


def test_two_steps_by_hand():
    x, start = starts()
    ends = Descent(2, 0.1, 0.5, 1e9)(start, linear_gaussian(x))
    first = slopes(x, *start)
    after_one = [each - 0.1 * g for each, g in zip(start, first, strict=True)]
    second = slopes(x, *after_one)
    by_hand = [
        each - 0.1 * (0.5 * g + h) for each, g, h in zip(after_one, first, second, strict=True)
    ]
    for end, expected in zip(ends, by_hand, strict=True):
        torch.testing.assert_close(end, expected, rtol=1e-12, atol=1e-12)


def test_many_steps_lead_to_the_posterior():
    x, start = starts()
    mean, log_variance = Descent(300, 0.1, 0.5, 28.0)(start, linear_gaussian(x))
    torch.testing.assert_close(mean, W * x / (W**2 + S**2))
    torch.testing.assert_close(
        log_variance, torch.full_like(x, math.log(S**2 / (W**2 + S**2)))
    )  # fmt: skip


def test_a_step_is_no_longer_than_the_clip_allows_in_each_sentence():
    x, start = starts()
    x[0] *= 1e6
    ends = Descent(1, 0.1, 0.5, 0.5)(start, linear_gaussian(x))
    for end, begin, slope in zip(ends, start, slopes(x, *start), strict=True):
        length, steepness = (end - begin).norm(dim=1), slope.norm(dim=1)
        torch.testing.assert_close(length, 0.1 * steepness.clamp(max=0.5))
        assert (steepness > 0.5).any()


def test_a_sentence_is_refined_as_if_it_were_alone():
    x, start = starts()
    together = Descent(5, 0.1, 0.5, 0.5)(start, linear_gaussian(x))
    for i in range(len(x)):
        alone = Descent(5, 0.1, 0.5, 0.5)(
            [each[i : i + 1] for each in start], linear_gaussian(x[i : i + 1])
        )
        assert torch.equal(torch.cat(alone), torch.cat([each[i : i + 1] for each in together]))


@pytest.mark.parametrize("clip", [0.5, 28.0])
def test_the_gradient_passes_through_the_steps(clip):
    x, start = starts()
    energy = linear_gaussian(x)

    def refined(*start):
        return energy(normal_of(Descent(4, 0.1, 0.5, clip)([*start], energy, through=True)))

    assert torch.autograd.gradcheck(refined, [each.requires_grad_() for each in start])


def test_without_a_way_through_nothing_has_a_gradient():
    x, start = starts()
    weight = torch.ones((), requires_grad=True)
    energy = linear_gaussian(x)
    ends = Descent(2, 0.1, 0.5, 1.0)(
        [each.requires_grad_() for each in start], lambda q: weight * energy(q)
    )
    assert not any(each.requires_grad for each in ends)
    assert weight.grad is None


def test_an_energy_that_does_not_depend_on_the_posterior_moves_nothing():
    _, start = starts()
    weight = torch.ones(3, requires_grad=True, dtype=torch.float64)
    ends = Descent(2, 0.1, 0.5, 1.0)(start, lambda q: weight)
    for end, begin in zip(ends, start, strict=True):
        assert torch.equal(end, begin)


def test_the_noise_of_each_step_is_another_and_always_the_same():
    batch, noise = tiny_batch(), SentenceNoise(60, 3)
    shape = torch.Size([5, 4])
    first, again = noise.of_refinement(batch), SentenceNoise(60, 3).of_refinement(batch)
    drawn = [first(shape) for _ in range(3)]
    assert all(torch.equal(each, again(shape)) for each in drawn)
    measured = [noise.of(batch, n)(shape) for n in range(3)]
    different = [*drawn, *measured]
    assert len({float(each[0, 0]) for each in different}) == len(different)


def test_where_a_second_derivative_is_needed_the_lstm_is_that_of_torchs_cells():
    lstm, inputs = LSTM(6, 4), torch.randn(5, 7, 6)
    before = torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled
    expected = lstm(inputs)
    with twice_differentiable():
        torch.testing.assert_close(lstm(inputs), expected)
        assert LSTM.by_cells
        assert not torch.backends.cudnn.enabled
        assert torch.backends.mkldnn.enabled == before[0]  # but for the LSTM itself
    assert not LSTM.by_cells
    assert (torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled) == before


# Through a whole model

SETTINGS = {"steps": 3, "step_size": 0.2}


def loss_of(model, batch):
    return model(batch, noise_of(5)).loss()


@pytest.mark.parametrize("clip", [0.3, 28.0])
def test_the_gradient_of_the_refined_loss_is_that_of_finite_differences(clip, architecture, batch):
    built = make(architecture, {"semi_amortised": SETTINGS | {"clip": clip}}, dropout=0.0)
    model = built.model.double().train()
    loss_of(model, batch).backward()
    parts = {
        "encoder": model.encoder.embedding.weight,
        "head": model.head.head.mean_and_log_variance.weight,
        "decoder": model.decoder.embedding.weight,
        "readout": model.readout.weight,
    }
    for name, weight in parts.items():
        steepest = weight.grad.abs().argmax()
        place = tuple(int(i) for i in torch.unravel_index(steepest, weight.shape))
        with torch.no_grad():
            losses = []
            for step in (1e-5, -1e-5):
                weight[place] += step
                with torch.enable_grad():
                    losses.append(loss_of(model, batch).item())
                weight[place] -= step
        difference = (losses[0] - losses[1]) / 2e-5
        assert difference == pytest.approx(float(weight.grad[place]), rel=1e-6), name
        assert abs(difference) > 1e-4, name


@pytest.mark.parametrize("precision", ["float32", pytest.param("bfloat16", marks=needs_bfloat16)])
def test_with_fewer_digits_it_is_about_the_same_gradient(precision, architecture, batch):
    found = {}
    for kind in ("float64", precision):
        built = make(architecture, {"semi_amortised": SETTINGS}, dropout=0.0)
        model = (built.model.double() if kind == "float64" else built.model).train()
        with products_in("bfloat16" if kind == "bfloat16" else "float32", "cpu"):
            loss = loss_of(model, batch)
        loss.backward()
        gradients = [p.grad.double().flatten() for p in model.parameters_of(("encoder", "head"))]
        found[kind] = torch.cat(gradients)
    exact, rounded = found.values()
    within = {"float32": 1e-4, "bfloat16": 0.1}[precision]
    assert float((rounded - exact).norm() / exact.norm()) < within


@pytest.mark.parametrize(
    ("chosen", "decoded"),
    [
        ({"semi_amortised": {"steps": 3}}, 4),
        ({"svi": {"steps": 3}}, 5),  # and at the encoder's own posterior
        ({"svi": {"steps": 3, "encoder": "refined posterior"}}, 4),
    ],
)
def test_every_step_is_paid_for(chosen, decoded, corpus):
    run = make("lstm", chosen).run(corpus)
    tokens = run.update(run.draw()).batch.tokens
    assert run.meter.tokens == decoded * tokens


@pytest.mark.parametrize("name", ["semi_amortised", "svi"])
def test_evaluation_measures_a_posterior_with_a_better_bound(name, architecture, batch):
    built = make(architecture, {name: {"steps": 8, "step_size": 0.2}}, dropout=0.0)
    model = built.model.eval()
    plain = make(architecture).model.eval()
    with torch.no_grad():
        for noise in (torch.zeros, torch.ones):  # the same in each step, so that each one helps
            refined, amortised = (each(batch, noise).per_sentence() for each in (model, plain))
            assert (refined < amortised).all()


# What the encoder is taught by


def svi_gradients(architecture, batch, encoder):
    """The model after a backward pass, and mean and log variance before and after the steps."""
    chosen = {"svi": SETTINGS | {"encoder": encoder}}
    model = make(architecture, chosen, dropout=0.0).model.double().train()
    forward = model(batch, noise_of(5))
    forward.loss().backward()
    features = model.pool(model.encoder(batch), batch.mask)
    return model, parameters_of(model.head.head(features, None)), forward.q


def noises(number, q):
    """The noise of the draw of that number since the pass began."""
    noise = noise_of(5)
    return [noise(shape_of(q)) for _ in range(number + 1)][-1]


def same_gradients(model, slots, loss):
    wanted = model.parameters_of(slots)
    expected = torch.autograd.grad(loss, wanted)
    for parameter, gradient in zip(wanted, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("encoder", ["bound", "refined posterior"])
def test_the_decoder_is_trained_at_the_refined_posterior(encoder, architecture, batch):
    model, start, q = svi_gradients(architecture, batch, encoder)
    assert not torch.allclose(q.mean, start[0], atol=1e-3)
    z = draw(
        diagonal_normal(q.mean.detach(), q.stddev.detach()), noises(3 + (encoder == "bound"), q)
    )
    same_gradients(model, ("decoder", "readout"), -model.log_likelihood(batch, z).mean())


def test_the_encoder_is_trained_at_its_own_posterior(architecture, batch):
    model, start, refined = svi_gradients(architecture, batch, "bound")
    q = normal_of(start)
    rate = kl_divergence(q, model.prior(q, batch))
    distortion = -model.log_likelihood(batch, draw(q, noises(3, refined)))
    same_gradients(model, ("encoder", "head"), (rate + distortion).mean())


def test_or_towards_the_refined_one(architecture, batch):
    model, start, refined = svi_gradients(architecture, batch, "refined posterior")
    still = diagonal_normal(refined.mean.detach(), refined.stddev.detach())
    same_gradients(model, ("encoder", "head"), kl_divergence(normal_of(start), still).mean())


def test_gradients_of_a_sentence_are_by_its_own_parameters():
    x, start = starts()
    leaf = [each.requires_grad_() for each in start]
    for found, expected in zip(
        gradients_of(linear_gaussian(x), leaf), slopes(x, *start), strict=True
    ):
        torch.testing.assert_close(found, expected)
