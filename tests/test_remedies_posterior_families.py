"""What the remedies promise whose posterior is no normal, beyond the laws of all."""

import math
from dataclasses import replace

import pytest
import torch
from conftest import make, noise_of
from torch.distributions import kl_divergence

from collapse_bench.errors import UserError
from collapse_bench.model import diagonal_normal
from collapse_bench.model.autoregressive_flow import MaskedNetwork
from collapse_bench.model.distributions import draw, shape_of
from collapse_bench.model.distributions.sphere import VonMisesFisher, largest_concentration
from collapse_bench.model.spherical import SphericalHead, bounded
from collapse_bench.remedies.posterior.iaf import FlowHead

SPHERES = ["vmf", "power_spherical", "spherical_cauchy"]


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


# On the sphere


@pytest.mark.parametrize(
    ("name", "concentration"), [("vmf", 30.0), ("power_spherical", 9.0), ("spherical_cauchy", 0.4)]
)
def test_one_concentration_for_all_is_one_rate_for_all(name, concentration, batch, architecture):
    built = make(architecture, {name: {"concentration": concentration}})
    forward = built.model(batch, noise_of(1))
    assert forward.kl.shape == (5, 1)
    assert (forward.kl == forward.kl[0]).all()
    assert forward.kl[0] > 0.1
    torch.testing.assert_close(forward.z.norm(dim=1), torch.ones(5))


@pytest.mark.parametrize("name", SPHERES)
def test_a_learned_concentration_is_of_each_sentence_and_falls_where_only_the_rate_counts(
    name, corpus
):
    built = make("lstm", {name: {"concentration": "learned"}})
    run = built.run(corpus, budget=10**9, learning_rate=0.05)
    batch = run.draw()
    rates = []
    for _ in range(25):
        forward = run.update(batch, then=lambda f: replace(f, distortion=0 * f.distortion))
        rates.append(forward.kl.detach()[:, 0])
    assert len(set(rates[0].tolist())) == len(batch.lengths)
    assert (rates[-1] < 0.8 * rates[0]).all()


def test_a_learned_concentration_is_never_beyond_what_float32_bears():
    raw = torch.tensor([-1e4, 0.0, 30.0, 1e4, 1e30])
    k = bounded(raw)
    assert k[0].item() == pytest.approx(1, rel=1e-3)
    assert k[1].item() == pytest.approx(1 + math.log(2), rel=1e-3)
    assert k[2].item() == pytest.approx(31, rel=0.005)
    VonMisesFisher(torch.ones(5, 3), k)  # which would refuse one that is too large
    assert k[-1] > 0.99 * largest_concentration(torch.float32)


@pytest.mark.parametrize("name", SPHERES)
def test_a_concentration_that_cannot_be_is_told_before_training(name):
    with pytest.raises(UserError, match="concentration: must be above 0 and at most"):
        make("lstm", {name: {"concentration": 1e5}})
    with pytest.raises(UserError, match="concentration"):
        make("lstm", {name: {"concentration": 0.0}})
    with pytest.raises(UserError, match="concentration"):
        make("lstm", {name: {"concentration": "learnt"}})


def test_a_sphere_has_no_latent_sequence():
    head = SphericalHead(6, 4, VonMisesFisher, 3.0)
    with pytest.raises(UserError, match="over one vector a sentence"):
        head(torch.zeros(2, 3, 6), None)


@pytest.mark.parametrize("name", SPHERES)
def test_a_concentration_of_nearly_nothing_or_of_most_that_can_be_gives_numbers(name, batch):
    """From the uniform distribution, whose rate is 0, to what float32 bears."""
    most = 0.9 if name == "spherical_cauchy" else 0.99 * largest_concentration(torch.float32)
    for concentration in (1e-30, most):
        model = make("lstm", {name: {"concentration": concentration}}).model
        q = model.posterior(batch, noise_of(1))
        rate = kl_divergence(q, model.prior(q, batch))
        z = q.from_noise(torch.randn(shape_of(q)))
        assert all(each.isfinite().all() for each in (z, q.log_prob(z), q.mean, rate))
        assert (rate > 1).all() if concentration == most else (rate.abs() < 1e-6).all()


@pytest.mark.parametrize(
    "name", ["bn_vae", "du_vae", "scale_vae", "fixed_variance", "delta_vae_vector", "iaf"]
)
@pytest.mark.parametrize("family", ["vmf", "spherical_cauchy", "iaf"])
def test_what_changes_means_and_scales_says_what_it_needs(family, name, batch):
    if family == name:
        pytest.skip("the first of two flows is around a normal head")
    with pytest.raises(UserError, match="needs a diagonal normal, got a "):
        make("lstm", [family, name]).model(batch, noise_of(1))


# Inverse autoregressive flow


class Features(torch.nn.Module):
    """A head whose means are the features' first entries, with scales of their own."""

    def __init__(self, *event):
        super().__init__()
        self.event = event

    def forward(self, features, energy):
        mean = features.flatten(1)[:, : math.prod(self.event)].view(-1, *self.event)
        return diagonal_normal(mean, 0.5 + mean.square())


def flow(*event, depth=2, gated=True, size=0.5, context=9):
    """A head with weights that make a difference."""
    torch.manual_seed(0)
    networks = [MaskedNetwork(math.prod(event), 12, context, scales=gated) for _ in range(depth)]
    head = FlowHead(Features(*event), networks)
    for parameter in head.parameters():
        torch.nn.init.uniform_(parameter, -size, size)
    return head.double()


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("event", [(4,), (2, 3)])
def test_the_density_of_the_posterior_is_that_of_its_noise_over_the_jacobian(event, depth, gated):
    features = normal(1, *([2] if len(event) == 2 else []), 9)
    q = flow(*event, depth=depth, gated=gated)(features, None)
    noise = normal(1, *event, seed=3)
    jacobian = torch.autograd.functional.jacobian(q.from_noise, noise)
    size = noise.numel()
    of_noise = torch.distributions.Normal(0.0, 1.0).log_prob(noise).sum()
    nats = of_noise - torch.linalg.slogdet(jacobian.reshape(size, size)).logabsdet
    z = draw(q, noise)
    assert z.shape == noise.shape
    assert q.log_prob(z).item() == pytest.approx(nats.item(), abs=1e-9)
    assert q.log_prob(z.clone()).item() == pytest.approx(nats.item(), abs=1e-8)
    assert (jacobian.view(size, size) != 0).all() == (depth > 1)  # maps begin at either end


def test_the_density_of_the_posterior_integrates_to_one():
    q = flow(2)(normal(1, 9), None)
    line = torch.linspace(-10, 10, 301, dtype=torch.float64)
    z = torch.cartesian_prod(line, line)
    mass = q.log_prob(z[:, None]).exp().sum() * (line[1] - line[0]) ** 2
    assert mass.item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("gated", [True, False])
def test_maps_see_the_features(gated):
    head = flow(4, gated=gated)
    features = normal(1, 9).repeat(2, 1)
    features[1, 4:] += 1  # which the normal does not depend on
    q = head(features, None)
    z = draw(q, normal(1, 4, seed=1).repeat(2, 1))
    assert (z[0] != z[1])[1:].all()
    pairs = q.log_prob(z[:, None])
    torch.testing.assert_close(pairs.diagonal(), q.log_prob(z.clone()))
    assert pairs[0, 1] != pairs[0, 0]


def test_maps_without_gates_preserve_volume():
    q = flow(4, gated=False)(normal(3, 9), None)
    noise = normal(3, 4, seed=1)
    of_source = q.source.log_prob(draw(q.source, noise))
    torch.testing.assert_close(q.log_prob(draw(q, noise)), of_source)
    assert (draw(q, noise) != draw(q.source, noise)).any(1).all()


def test_maps_begin_near_the_identity(batch):
    q = make("lstm", {"iaf": {"hidden": 24, "gated": False}}).model.posterior(batch, noise_of(1))
    noise = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
    assert (draw(q, noise) - draw(q.source, noise)).abs().max() < 0.05


@pytest.mark.parametrize("size", [3.0, 30.0])
@pytest.mark.parametrize("gated", [True, False])
def test_strong_maps_give_no_nan_at_the_draws_of_others(size, gated):
    head = flow(8, depth=4, gated=gated, size=size).float()
    q = head(10 * normal(20, 9).float(), None)
    z = draw(q, normal(20, 8, seed=1).float())
    pairs = q.log_prob(z[:, None])
    assert not pairs.isnan().any()
    assert (pairs < math.inf).all()
    assert q.log_prob(z).isfinite().all()
