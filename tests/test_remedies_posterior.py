"""What the remedies promise that say which posteriors there can be, beyond the laws of all."""

import math
from dataclasses import replace

import pytest
import torch
from conftest import make, noise_of

from collapse_bench.errors import UserError
from collapse_bench.model import INFERENCE, diagonal_normal
from collapse_bench.model.distributions import base
from collapse_bench.remedies.posterior.delta_vae_vector import CommittedHead, variances_at
from collapse_bench.remedies.posterior.fixed_variance import FixedVarianceHead
from collapse_bench.remedies.posterior.scale_vae import ScaledHead


class Raw(torch.nn.Module):
    """A head whose means and log-variances are the features."""

    def forward(self, features, energy):
        mean, log_variance = features.chunk(2, dim=-1)
        return diagonal_normal(mean, (0.5 * log_variance).exp())


def features_of(*shape, spread=1.0, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(*shape, dtype=torch.float64, generator=generator)


def rates(q):
    """KL to a standard normal prior of each dimension, nats."""
    return 0.5 * (q.mean**2 + q.stddev**2 - 2 * q.stddev.log() - 1)


# A fixed variance


@pytest.mark.parametrize("shape", [(5, 16), (5, 4, 4)])
def test_the_variance_is_fixed_and_the_means_are_the_heads(shape):
    features = features_of(*shape)
    q = FixedVarianceHead(Raw(), 0.3)(features, None)
    assert torch.equal(q.mean, Raw()(features, None).mean)
    torch.testing.assert_close(q.variance, torch.full_like(q.mean, 0.3))


@pytest.mark.parametrize("variance", [0.2, 0.5, 1.0, 3.0])
def test_the_rate_of_a_fixed_variance_in_closed_form(variance, batch, architecture):
    forward = make(architecture, {"fixed_variance": {"variance": variance}}).model(
        batch, noise_of(1)
    )
    floor = 8 * (variance - math.log(variance) - 1) / 2
    expected = forward.q.mean.square().sum(1) / 2 + floor
    torch.testing.assert_close(forward.kl.sum(1), expected, rtol=1e-5, atol=1e-5)
    assert (forward.kl.sum(1) >= floor - 1e-5).all()


# The committed rate of a vector


@pytest.mark.parametrize(
    ("delta", "least", "most"), [(0.1, 0.493, 1.772), (0.15, 0.411, 1.986), (0.25, 0.302, 2.358)]
)
def test_the_variances_at_published_points(delta, least, most):
    assert variances_at(delta) == (pytest.approx(least, abs=6e-4), pytest.approx(most, abs=6e-4))


@pytest.mark.parametrize("delta", [0.001, 0.15, 0.6, 5.0, 40.0])
def test_the_variances_are_those_at_which_a_mean_of_zero_is_delta_away(delta):
    for variance in variances_at(delta):
        assert 0.5 * (variance - math.log(variance) - 1) == pytest.approx(delta, rel=1e-9)


@pytest.mark.parametrize("delta", [0.01, 0.15, 0.6, 5.0])
@pytest.mark.parametrize("shape", [(200, 16), (50, 4, 8)])
def test_no_dimension_is_nearer_to_the_prior_than_delta(delta, shape):
    for seed, spread in enumerate((0.01, 1.0, 10.0, 1000.0)):
        features = features_of(*shape, spread=spread, seed=seed)
        kl = rates(CommittedHead(Raw(), delta)(features, None))
        assert (kl >= delta - 1e-9).all()
        # It is delta where the raw mean is below zero, and half of that above it elsewhere.
        expected = delta + features.chunk(2, dim=-1)[0].clamp(min=0) / 2
        torch.testing.assert_close(kl, expected, rtol=1e-6, atol=1e-6)
        narrow = rates(CommittedHead(Raw(), delta)(features.float(), None))
        assert (narrow >= delta - 3e-6 * (1 + delta)).all()


def test_the_ends_of_the_deviations_need_no_mean():
    features = torch.tensor([[-1.0, -1.0, -1e3, 1e3]], dtype=torch.float64)
    q = CommittedHead(Raw(), 0.15)(features, None)
    torch.testing.assert_close(q.variance[0], torch.tensor(variances_at(0.15)).double())
    torch.testing.assert_close(q.mean, torch.full_like(q.mean, 1e-3), rtol=1e-3, atol=0)
    torch.testing.assert_close(rates(q), torch.full_like(q.mean, 0.15), rtol=0, atol=1e-6)


def test_gradients_are_finite_where_the_means_are_at_zero():
    features = torch.tensor([[-1.0, -1.0, -80.0, 80.0]], requires_grad=True)
    q = CommittedHead(Raw(), 0.15)(features, None)
    (q.mean.sum() + q.stddev.sum()).backward()
    assert features.grad.isfinite().all()


@pytest.mark.parametrize("delta", [0.1, 4.8, 80.0])
def test_the_rate_of_a_model_never_falls_below_delta(delta, corpus, architecture):
    built = make(architecture, {"delta_vae_vector": {"delta": delta}})
    built.steps(corpus, 3)
    kl = built.evaluate(corpus.train)["kl"].sum(1)
    assert (kl >= delta * (1 - 1e-5) - 1e-5).all()


def test_training_on_the_rate_alone_ends_at_delta(corpus):
    built = make("lstm", ["delta_vae_vector"])
    run = built.run(corpus, budget=10**9, learning_rate=0.02)
    batch = run.draw()

    for _ in range(100):
        forward = run.update(
            batch, only=INFERENCE, then=lambda f: replace(f, distortion=0 * f.distortion)
        )
    found = forward.kl.detach().sum(1)
    assert found.min() >= 4.8 - 1e-5
    assert found.max() < 4.8 + 0.02
    assert (forward.q.mean > 0).all()  # the sign is lost


def test_a_delta_out_of_reach_is_told_to_the_user():
    with pytest.raises(UserError, match="delta must be 320 at most for 8 latent dimensions"):
        make("lstm", {"delta_vae_vector": {"delta": 321.0}})
    make("lstm", {"delta_vae_vector": {"delta": 320.0}})


# Scaled means


@pytest.mark.parametrize("shape", [(64, 16), (64, 4, 4)])
def test_the_means_are_scaled_to_the_deviation_that_is_wanted(shape):
    head = ScaledHead(Raw(), shape[-1] // 2 * math.prod(shape[1:-1]), 0.7).double().train()
    features = features_of(*shape) * torch.linspace(0.001, 3, shape[-1]).double() + 0.2
    raw, q = Raw()(features, None), head(features, None)
    assert torch.equal(q.stddev, raw.stddev)
    means, scaled = raw.mean.flatten(1), q.mean.flatten(1)
    factor = 0.7 / means.std(0, correction=0)  # one batch is all that was seen
    torch.testing.assert_close(scaled, factor * means, rtol=1e-6, atol=1e-9)


def test_the_factor_is_that_of_recent_batches_of_all_lengths():
    head = ScaledHead(Raw(), 1, 1.0).double().train()
    signs = torch.randint(2, (1000,), generator=torch.Generator().manual_seed(1)) * 2 - 1
    variances = []
    for batch, sign in enumerate(signs):
        # Batches differ by more than what is in them, and come in random order: as lengths do.
        head(features_of(32, 2, seed=batch) + 3 * sign, None)
        variances.append(float(head.factor()) ** -2)
    assert sum(variances) / len(variances) == pytest.approx(1 + 9, rel=0.1)
    before = [buffer.clone() for buffer in head.buffers()]
    q = head.eval()(features_of(7, 2), None)
    torch.testing.assert_close(q.mean, head.factor() * Raw()(features_of(7, 2), None).mean)
    assert all(map(torch.equal, before, head.buffers()))


def test_the_rate_that_is_measured_is_that_of_the_scaled_means(batch, corpus):
    built = make("lstm", ["scale_vae"])
    built.steps(corpus, 3)
    forward = built.model.eval()(batch, noise_of(1))
    torch.testing.assert_close(forward.kl, rates(forward.q), rtol=1e-4, atol=1e-4)
    assert (forward.kl > 2 * built.remedy.objective(forward).kl).any()


@pytest.mark.parametrize("chain", [["scale_vae"], ["delta_vae", "scale_vae"]])
def test_the_objective_has_the_rate_of_the_means_before_they_were_scaled(chain, batch, corpus):
    built = make("lstm", chain)
    built.steps(corpus, 3)
    model = built.model.eval()
    forward = model(batch, noise_of(1))
    original = model.head.head(forward.features, None)
    shape = original.mean.shape
    factor = model.head.factor().view(shape[1:])
    torch.testing.assert_close(forward.q.mean, factor * original.mean)
    found = built.remedies[-1].objective(forward).kl.sum(1)
    expected = torch.distributions.kl_divergence(original.base_dist, base(forward.p))
    torch.testing.assert_close(found, expected.flatten(1).sum(1), rtol=1e-4, atol=1e-4)


def test_a_later_remedy_may_wrap_the_scaled_head(batch):
    built = make("lstm", ["scale_vae", "fixed_variance"])
    forward = built.model(batch, noise_of(1))
    assert built.remedy.objective(forward).kl.isfinite().all()


@pytest.mark.parametrize("name", ["fixed_variance", "delta_vae_vector", "scale_vae"])
def test_a_latent_sequence_keeps_its_shape(name, batch, architecture):
    forward = make(architecture, ["delta_vae", name]).model(batch, noise_of(1))
    assert forward.z.shape == forward.q.mean.shape == (5, 4, 2)
