"""Densities that are learned as priors: mixtures of normals, and masked autoregressive flows."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import (
    Categorical,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
)

from collapse_bench.model import diagonal_normal
from collapse_bench.model.autoregressive_flow import (
    STEEPEST,
    AutoregressiveFlow,
    MaskedNetwork,
    SequenceFlow,
    SequenceNetwork,
)
from collapse_bench.model.distributions import draw, family_of, shape_of
from collapse_bench.model.distributions.autoregressive import AutoregressiveNormal
from collapse_bench.model.distributions.flow import Flow, MaskedAffine
from collapse_bench.model.distributions.mixture import NormalMixture

SIGMAS = 4.5


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def jacobian_density(distribution, noise):
    """log N(e) - log |det dz/de| of the draw of one sentence, [1, ...], by autograd."""
    of_noise = Normal(0.0, 1.0).log_prob(noise).sum()
    size = noise.numel()
    jacobian = torch.autograd.functional.jacobian(distribution.from_noise, noise)
    return of_noise - torch.linalg.slogdet(jacobian.reshape(size, size)).logabsdet


def mass_on_a_grid(log_prob, reach, points):
    """Integral over the plane of a density, z [M, 1, 2] to [M, 1]."""
    line = torch.linspace(-reach, reach, points, dtype=torch.float64)
    z = torch.cartesian_prod(line, line)
    return (log_prob(z[:, None]).exp().sum() * (line[1] - line[0]) ** 2).item()


# --- mixture


def mixture(parts=4, event=(3,), sentences=5, spread=2.0):
    mean = spread * normal(parts, *event, seed=1)
    return NormalMixture(mean, 0.3 + normal(parts, *event, seed=2).square(), sentences)


@pytest.mark.parametrize("event", [(3,), (2, 3)])
@pytest.mark.parametrize("parts", [1, 4])
def test_the_density_of_a_mixture_is_that_of_torch(parts, event):
    p = mixture(parts, event)
    components = Independent(Normal(p._mean, p._scale), len(event))
    other = MixtureSameFamily(Categorical(probs=torch.ones(parts).double()), components)
    z = 2 * normal(6, 1, *event, seed=3)
    assert p.log_prob(z).shape == (6, 5)
    torch.testing.assert_close(p.log_prob(z), other.log_prob(z).expand(6, 5))
    torch.testing.assert_close(p.log_prob(z[:5, 0]), other.log_prob(z[:5, 0]))
    torch.testing.assert_close(p.mean, other.mean.expand(5, *event))
    torch.testing.assert_close(p.variance, other.variance.expand(5, *event))


def test_the_density_of_a_mixture_integrates_to_one():
    p = mixture(event=(2,), sentences=1)
    assert mass_on_a_grid(p.log_prob, 20, 401) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("event", [(3,), (2, 2)])
def test_draws_are_of_the_mixture(event):
    n, parts = 30_000, 5
    p = mixture(parts, event, n, spread=1.0)
    z = draw(p, normal(n, *event, seed=4))
    mean, scale = p._mean.flatten(1).numpy(), p._scale.flatten(1).numpy()
    for d in range(mean.shape[1]):

        def below(x, d=d):
            return stats.norm.cdf(x[:, None], mean[:, d], scale[:, d]).mean(1)

        assert stats.kstest(z.flatten(1)[:, d].numpy(), below).pvalue > 1e-3
    rng = np.random.default_rng(5)  # and not only its marginals
    part = rng.integers(parts, size=n)
    other = torch.from_numpy(mean[part] + scale[part] * rng.standard_normal(mean[part].shape))
    nats = [p.log_prob(each.view(n, *event)).numpy() for each in (z, other)]
    assert stats.ks_2samp(*nats).pvalue > 1e-3


def test_the_remainder_of_the_choice_is_noise_whatever_the_part():
    n, parts = 40_000, 4
    far = NormalMixture(
        100 * torch.arange(parts)[:, None].expand(-1, 2).double(), torch.ones(parts, 2).double(), n
    )
    z = draw(far, normal(n, 2, seed=6))
    part = (z[:, 0] / 100).round()
    assert stats.chisquare(torch.bincount(part.long(), minlength=parts)).pvalue > 1e-3
    for each in range(parts):
        left = (z - 100 * each)[part == each]
        assert stats.kstest(left[:, 0].numpy(), "norm").pvalue > 1e-3
        assert abs(np.corrcoef(left.T)[0, 1]) < SIGMAS / math.sqrt(len(left))


def test_the_change_of_variables_gives_the_density_of_the_part_that_was_drawn():
    p = mixture(sentences=1)
    for seed in range(6):
        noise = normal(1, 3, seed=seed)
        z = p.from_noise(noise)
        parts = Normal(p._mean, p._scale).log_prob(z).sum(1) - math.log(4)
        of_draw = jacobian_density(p, noise)
        assert (parts - of_draw).abs().min() < 1e-6
        assert p.log_prob(z).item() >= of_draw.item()


def test_one_standard_part_is_the_standard_normal():
    p = NormalMixture(torch.zeros(1, 3), torch.ones(1, 3), 7)
    noise = torch.randn(7, 3, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(draw(p, noise), noise, rtol=1e-5, atol=1e-6)
    standard = diagonal_normal(torch.zeros(7, 3), torch.ones(7, 3))
    torch.testing.assert_close(p.log_prob(noise), standard.log_prob(noise))


def test_draws_at_the_edges_of_parts_are_finite_and_in_place():
    p = NormalMixture(torch.tensor([[-50.0], [50.0]]), torch.ones(2, 1), 5)
    z = draw(p, torch.tensor([[-40.0], [-1e-7], [0.0], [1e-7], [40.0]]))[:, 0]
    assert ((z[:2] + 50).abs() < 8).all()
    assert ((z[2:] - 50).abs() < 8).all()


def test_narrow_parts_keep_their_digits_in_float32():
    mean = 5 + normal(3, 32)
    z = mean[:2] + 1e-3 * normal(2, 32, seed=1)
    exact = NormalMixture(mean, torch.full_like(mean, 1e-3), 2)
    rounded = NormalMixture(mean.float(), torch.full((3, 32), 1e-3), 2)
    shift = z.float().double()  # the same places, so that only the arithmetic differs
    exact = NormalMixture(mean.float().double(), exact._scale, 2)
    torch.testing.assert_close(
        rounded.log_prob(z.float()).double(), exact.log_prob(shift), rtol=0, atol=1e-3
    )


# --- masked autoregressive flow


def rough(network, size=1.0, seed=0):
    """The same network with weights that make a difference."""
    torch.manual_seed(seed)
    for parameter in network.parameters():
        torch.nn.init.uniform_(parameter, -size, size)
    return network.double()


def standard(*shape):
    return diagonal_normal(torch.zeros(*shape).double(), torch.ones(*shape).double())


@pytest.mark.parametrize(("latent", "hidden"), [(1, 4), (2, 1), (5, 4), (5, 30)])
def test_a_masked_network_sees_all_coordinates_before_and_no_other(latent, hidden):
    network = rough(MaskedNetwork(latent, hidden))
    for part in (0, 1):
        jacobian = torch.autograd.functional.jacobian(
            lambda z, part=part: network(z)[part], normal(latent)
        )
        assert torch.equal(jacobian != 0, torch.ones(latent, latent).tril(-1) > 0)


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("event", [(3,), (2, 3)])
def test_the_density_of_the_flow_is_that_of_its_noise_over_the_jacobian(depth, event):
    flow = rough(AutoregressiveFlow(math.prod(event), depth, 12), 0.5)
    p = flow(standard(1, *event))
    noise = normal(1, *event, seed=3)
    z = draw(p, noise)
    assert z.shape == noise.shape
    expected = jacobian_density(p, noise).item()
    assert p.log_prob(z).item() == pytest.approx(expected, abs=1e-9)
    assert p.log_prob(z.clone()).item() == pytest.approx(expected, abs=1e-9)


def test_the_density_of_the_flow_integrates_to_one():
    flow = rough(AutoregressiveFlow(2, 2, 8), 0.4)
    assert mass_on_a_grid(flow(standard(1, 2)).log_prob, 12, 301) == pytest.approx(1, abs=1e-4)


def test_draws_are_of_the_flow():
    """The mean of r/p over draws of p is the mass of r, where r is the narrower."""
    n = 20_000
    p = rough(AutoregressiveFlow(3, 2, 12), 0.3)(standard(n, 3))
    z = draw(p, normal(n, 3, seed=2))
    r = diagonal_normal(z.mean(0).expand(n, 3), 0.5 * z.std(0).expand(n, 3))
    ratio = (r.log_prob(z) - p.log_prob(z.clone())).exp()
    assert abs(ratio.mean().item() - 1) < SIGMAS * ratio.std().item() / math.sqrt(n)
    assert ratio.std() / math.sqrt(n) < 0.05


@pytest.mark.parametrize("depth", [1, 2])
def test_a_flow_without_weights_is_its_source(depth):
    flow = AutoregressiveFlow(6, depth, 8)
    for parameter in flow.parameters():
        torch.nn.init.zeros_(parameter)
    for source in (standard(4, 6), AutoregressiveNormal(torch.Size((4, 3, 2)), 0.6)):
        noise = normal(*shape_of(source), seed=1)
        z = draw(flow.double()(source), noise)
        assert torch.equal(z, draw(source, noise))
        assert torch.equal(flow(source).log_prob(z), source.log_prob(z))


def test_a_flow_begins_near_its_source():
    torch.manual_seed(0)
    flow = AutoregressiveFlow(32, 2, 256)
    source = diagonal_normal(torch.zeros(500, 32), torch.ones(500, 32))
    z = torch.randn(500, 32)
    assert (source.log_prob(z) - flow(source).log_prob(z)).mean().abs() < 0.05


def test_every_coordinate_of_a_deep_flow_depends_on_every_other():
    p = rough(AutoregressiveFlow(5, 2, 12))(standard(1, 5))
    jacobian = torch.autograd.functional.jacobian(p.from_noise, normal(1, 5))[0, :, 0]
    assert (jacobian != 0).all()


def test_log_scales_are_bounded_whatever_the_weights():
    flow = rough(AutoregressiveFlow(8, 2, 12), 10.0).float()
    _, log_scale = flow.networks[0](1000 * torch.randn(50, 8))
    assert log_scale.abs().max().item() == pytest.approx(STEEPEST, rel=1e-5)
    p = flow(diagonal_normal(torch.zeros(50, 8), torch.ones(50, 8)))
    assert p.log_prob(torch.randn(50, 8)).isfinite().all()


def test_a_flow_broadcasts_as_every_family_does():
    p = rough(AutoregressiveFlow(3, 2, 8))(standard(5, 3))
    assert family_of(p) == "flow"
    z = normal(6, 1, 3, seed=1)
    assert p.log_prob(z).shape == (6, 5)
    torch.testing.assert_close(p.log_prob(z)[:5, 0], p.log_prob(z[:5, 0]))


# --- flow along a sequence

NETWORKS = pytest.mark.parametrize("network", ["lstm", "self_attention"])


@NETWORKS
def test_a_network_along_a_sequence_sees_all_vectors_before_and_no_other(network):
    reads = rough(SequenceNetwork(6, 3, network), 0.5)
    before = torch.ones(3, 3).tril(-1).repeat_interleave(2, 0).repeat_interleave(2, 1)
    for part in (0, 1):
        jacobian = torch.autograd.functional.jacobian(
            lambda z, part=part: reads(z)[part], normal(6)
        )
        assert torch.equal(jacobian != 0, before > 0)


@NETWORKS
@pytest.mark.parametrize(("event", "length"), [((6,), 3), ((3, 2), 3), ((3, 2), 6)])
def test_the_density_of_a_flow_along_a_sequence_is_that_of_its_draws(network, event, length):
    flow = rough(SequenceFlow(6, length, network), 0.3)
    for source in (standard(1, *event), AutoregressiveNormal(torch.Size((1, 3, 2)), 0.6)):
        if shape_of(source)[1:] != event:
            continue
        p, noise = flow(source), normal(1, *event, seed=3)
        z = draw(p, noise)
        expected = jacobian_density(p, noise).item()
        assert p.log_prob(z).item() == pytest.approx(expected, abs=1e-9)
        assert p.log_prob(z.clone()).item() == pytest.approx(expected, abs=1e-9)
        assert p.log_prob(z[None].expand(4, 1, *event)).shape == (4, 1)


@NETWORKS
def test_the_density_along_a_sequence_integrates_to_one(network):
    flow = rough(SequenceFlow(2, 2, network), 0.4)
    assert mass_on_a_grid(flow(standard(1, 2)).log_prob, 12, 301) == pytest.approx(1, abs=1e-4)


@NETWORKS
def test_a_flow_along_a_sequence_begins_near_its_source(network):
    torch.manual_seed(0)
    flow = SequenceFlow(32, 8, network)
    source = diagonal_normal(torch.zeros(500, 32), torch.ones(500, 32))
    z = torch.randn(500, 32)
    assert (source.log_prob(z) - flow(source).log_prob(z)).mean().abs() < 0.05


def test_vectors_that_are_linear_in_those_before_are_the_dense_normal():
    """z_t = sum_{s<t} L_ts z_s + S_t y_t, y of the AR(1) prior: z is (1 - L)^-1 S y."""
    n, d, a = 4, 2, 0.6
    blocks = torch.ones(n, n).tril(-1).repeat_interleave(d, 0).repeat_interleave(d, 1)
    slope, log_scale = 0.5 * blocks * normal(n * d, n * d), 0.3 * normal(n * d, seed=1)

    def conditioner(z):
        return z @ slope.T, log_scale.expand(z.shape)

    source = AutoregressiveNormal(torch.Size((6, n, d)), a)
    p = Flow(source, MaskedAffine(conditioner, 2, at_once=d))
    place = torch.arange(n)
    along = a ** (place[:, None] - place).abs().double()
    of_source = torch.kron(along, torch.eye(d).double())
    map_ = torch.linalg.solve(torch.eye(n * d).double() - slope, log_scale.exp().diag())
    dense = MultivariateNormal(torch.zeros(n * d).double(), map_ @ of_source @ map_.T)
    z = normal(6, n, d, seed=2)
    torch.testing.assert_close(p.log_prob(z), dense.log_prob(z.flatten(1)), rtol=1e-9, atol=1e-9)
    noise = normal(6, n, d, seed=3)
    expected = source.from_noise(noise).flatten(1) @ map_.T
    torch.testing.assert_close(draw(p, noise).flatten(1), expected, rtol=1e-9, atol=1e-9)
