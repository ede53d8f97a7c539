"""Posteriors on the sphere: densities, draws and rates, with a concentration for each sentence."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch.distributions import kl_divergence

from collapse_bench.errors import UserError
from collapse_bench.model.distributions import draw, family_of, rate, widened
from collapse_bench.model.distributions.power_spherical import PowerSpherical
from collapse_bench.model.distributions.sphere import (
    LARGEST_ERROR,
    UniformOnSphere,
    VonMisesFisher,
    largest_concentration,
    log_area,
)
from collapse_bench.model.distributions.spherical_cauchy import (
    SphericalCauchy,
    from_curvature,
    most_concentrated,
)
from collapse_bench.truth.sphere import nodes

SIGMAS = 4.5

CONCENTRATIONS = {
    VonMisesFisher: (1e-3, 0.5, 30.0, 3000.0),
    PowerSpherical: (1e-3, 0.5, 30.0, 3000.0),
    SphericalCauchy: (1e-3, 0.3, 0.7, 0.95),
}
families = pytest.mark.parametrize("family", CONCENTRATIONS)


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def row(*values):
    return torch.tensor(values, dtype=torch.float64)


def on_axis(family, dimension, concentration):
    """One sentence, the first axis."""
    return family(torch.eye(dimension, dtype=torch.float64)[:1], row(concentration))


def at_angles(angles, dimension):
    """z [M, 1, D] at angles [M] from the first axis."""
    z = torch.zeros(len(angles), 1, dimension, dtype=torch.float64)
    z[:, 0, 0] = torch.from_numpy(np.cos(angles))
    z[:, 0, 1] = torch.from_numpy(np.sin(angles))
    return z


def density_of_angle(q, angles):
    """Of q around the first axis, by angle in place of area."""
    dimension = q.event_shape[0]
    of_z = q.log_prob(at_angles(angles, dimension))[:, 0].exp().numpy()
    return of_z * math.exp(log_area(dimension - 1)) * np.sin(angles) ** (dimension - 2)


def expected(q, of):
    """The mean of a function of angles by quadrature of the density, in pieces of all sizes."""
    edges = np.concatenate([[0.0], np.geomspace(1e-9, math.pi / 2, 50)])
    edges = np.concatenate([edges, math.pi - edges[-2::-1]])
    pieces = (
        integrate.fixed_quad(lambda t: density_of_angle(q, t) * of(t), low, high, n=30)[0]
        for low, high in itertools.pairwise(edges)
    )
    return sum(pieces)


# --- density


@pytest.mark.parametrize("dimension", [2, 3, 8, 33])
@families
def test_mass_mean_and_rate_which_is_the_entropy_by_quadrature(family, dimension):
    for concentration in CONCENTRATIONS[family]:
        q = on_axis(family, dimension, concentration)
        assert expected(q, np.ones_like) == pytest.approx(1, abs=1e-8)
        assert q.mean[0, 0].item() == pytest.approx(expected(q, np.cos), abs=1e-8)
        assert not q.mean[0, 1:].any()

        def surprise(angles, q=q):
            nats = q.log_prob(at_angles(angles, q.event_shape[0]))[:, 0].numpy()
            return -np.nan_to_num(nats, neginf=0.0)  # where the density is 0

        found = kl_divergence(q, UniformOnSphere(q.mean)).item()
        entropy = expected(q, surprise)
        assert found == pytest.approx(log_area(dimension) - entropy, abs=1e-7, rel=1e-8)


@pytest.mark.parametrize("dimension", [2, 3])
@families
def test_densities_integrate_to_one_over_the_points_of_circle_and_sphere(family, dimension):
    concentration = row(0.3, 0.6) if family is SphericalCauchy else row(5.0, 12.0)
    q = family(normal(2, dimension), concentration)
    z, mass = nodes(dimension)
    density = (q.log_prob(z[:, None]) + log_area(dimension)).exp()
    torch.testing.assert_close((mass[:, None] * density).sum(0), torch.ones(2).double())
    torch.testing.assert_close((mass[:, None] * density).T @ z, q.mean)


def test_spherical_cauchy_in_closed_form():
    for r in (0.01, 0.5, 0.9):
        circle, sphere = on_axis(SphericalCauchy, 2, r), on_axis(SphericalCauchy, 3, r)
        # The wrapped Cauchy.
        angle = 0.7
        wrapped = stats.wrapcauchy(r).logpdf(angle)
        z = torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=torch.float64)
        assert circle.log_prob(z).item() == pytest.approx(wrapped)
        assert circle.mean[0, 0].item() == pytest.approx(r)
        uniform = UniformOnSphere(circle.mean)
        assert kl_divergence(circle, uniform).item() == pytest.approx(-math.log1p(-r * r))
        # E log |u + r mu|^2 over the sphere, where mu'u is uniform on [-1, 1].
        h = (2 * (1 + r) ** 2 * math.log1p(r) - 2 * (1 - r) ** 2 * math.log1p(-r)) / (4 * r) - 1
        found = kl_divergence(sphere, UniformOnSphere(sphere.mean)).item()
        assert found == pytest.approx(2 * (h - math.log1p(-r * r)), abs=1e-6)


@families
def test_one_concentration_for_all_is_that_for_each(family):
    k = CONCENTRATIONS[family][2]
    direction, noise = normal(6, 5), normal(6, 5, seed=1)
    one, each = family(direction, k), family(direction, torch.full((6,), k).double())
    p = UniformOnSphere(direction)
    torch.testing.assert_close(one.from_noise(noise), each.from_noise(noise))
    torch.testing.assert_close(one.mean, each.mean)
    torch.testing.assert_close(rate(one, p, noise), rate(each, p, noise))
    z = draw(one, noise)[:, None]
    assert one.log_prob(z).shape == (6, 6)
    torch.testing.assert_close(one.log_prob(z), each.log_prob(z))
    torch.testing.assert_close(one.log_prob(z).diagonal(), one.log_prob(z[:, 0]))
    assert family_of(one) == "sphere"


# --- draws


@pytest.mark.parametrize("dimension", [2, 3, 8])
@families
def test_draws_are_of_the_density(family, dimension):
    n = 5_000
    for concentration in CONCENTRATIONS[family][1:3]:
        mu = torch.nn.functional.normalize(normal(dimension, seed=1), dim=0)
        q = family(mu.expand(n, -1), torch.full((n,), concentration).double())
        z = draw(q, normal(n, dimension, seed=2))
        torch.testing.assert_close(z.norm(dim=1), torch.ones(n).double())
        angles = torch.acos((z @ mu).clamp(-1, 1)).numpy()
        places = np.linspace(0, math.pi, 20_001)
        density = density_of_angle(on_axis(family, dimension, concentration), places)
        below = integrate.cumulative_simpson(density, x=places, initial=0)
        assert stats.kstest(angles, lambda t, x=places, y=below: np.interp(t, x, y)).pvalue > 1e-3
        # Nothing but mu is a direction of its own.
        off = z - (z @ mu)[:, None] * mu
        assert (off.mean(0).abs() < SIGMAS / math.sqrt(n)).all()
        ratio = q.log_prob(z) - UniformOnSphere(z).log_prob(z)
        found = kl_divergence(q, UniformOnSphere(z))[0]
        assert (ratio.mean() - found).abs() < SIGMAS * ratio.std() / math.sqrt(n)


@pytest.mark.parametrize("dimension", [2, 3, 12])
def test_angles_of_the_power_spherical_are_quantiles_of_the_beta(dimension):
    k = torch.tensor([0.8, 5.0, 900.0], dtype=torch.float64)
    q = PowerSpherical(torch.eye(dimension, dtype=torch.float64)[:1].expand(3, -1), k)
    noise = torch.ones(201, 3, dimension, dtype=torch.float64)
    noise[..., 0] = torch.linspace(-5, 5, 201, dtype=torch.float64)[:, None]
    w = q.from_noise(noise)[..., 0]
    b = (dimension - 1) / 2
    found = stats.beta(b + k.numpy(), b).cdf(((1 + w) / 2).numpy())
    # 1 - w has lost digits where it is small.
    np.testing.assert_allclose(found, torch.special.ndtr(noise[..., 0]), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dimension", [2, 3, 5])
@families
def test_gradients_of_draws_and_rates_are_those_of_differences(family, dimension):
    direction = normal(4, dimension).requires_grad_()
    noise = normal(4, dimension, seed=1).requires_grad_()
    values = (0.05, 0.4, 0.8, 0.95) if family is SphericalCauchy else (0.3, 2.0, 60.0, 3000.0)
    k = row(*values).requires_grad_()
    p = UniformOnSphere(direction.detach())
    assert torch.autograd.gradcheck(
        lambda m, k, e: family(m, k).from_noise(e), (direction, k, noise), atol=1e-6, rtol=1e-4
    )
    assert torch.autograd.gradcheck(
        lambda k: rate(family(direction.detach(), k), p, direction), (k,), eps=1e-4, rtol=1e-4
    )
    z = draw(family(direction, k), noise).detach()
    assert torch.autograd.gradcheck(
        lambda m, k: family(m, k).log_prob(z), (direction, k), eps=1e-6, atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("family", [VonMisesFisher, PowerSpherical])
def test_a_second_derivative_of_a_draw_is_refused_and_not_wrong(family):
    k = row(3.0).requires_grad_()
    z = family(normal(1, 4), k).from_noise(normal(1, 4, seed=1))
    (slope,) = torch.autograd.grad(z.square().sum() + z.exp().sum(), k, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        slope.backward()


# --- extremes


def extremes(family, dimension):
    """The largest concentration in float32 and next to none."""
    largest = largest_concentration(torch.float32)
    if family is SphericalCauchy:
        largest = most_concentrated(dimension, torch.float32)
    return torch.tensor([1e-6, largest], dtype=torch.float32) * torch.tensor([1, 1 - 1e-6])


@pytest.mark.parametrize("dimension", [2, 3, 32, 500])
@families
def test_extremes_in_float32(family, dimension):
    n, k = 400, extremes(family, dimension)
    direction = normal(2, dimension).float()
    q = family(direction, k.requires_grad_())
    noise = normal(n, 2, dimension, seed=1).float()
    noise[0, :, 0], noise[1, :, 0], noise[2] = 40.0, -40.0, 0.0
    z = q.from_noise(noise)
    assert z.dtype == torch.float32
    torch.testing.assert_close(z.norm(dim=-1), torch.ones(n, 2))
    p = UniformOnSphere(q.mean)
    kl = rate(q, p, z)[:, 0]
    assert (kl > -1e-5).all()
    assert kl[0] < 1e-4
    (z.sum() + kl.sum()).backward()
    assert k.grad.isfinite().all()
    exact = family(q.direction.double(), k.detach().double())
    own = z[3:].detach()
    off = q.log_prob(own).double() - exact.log_prob(own.double())
    assert off.abs().max() < 4 * LARGEST_ERROR
    others = q.log_prob(z.detach().flip(1))
    assert not others.isnan().any()
    assert (others < math.inf).all()


@families
def test_opposite_to_the_direction_there_is_no_nan(family):
    q = family(torch.ones(1, 3), torch.tensor([0.5]))
    z = -torch.nn.functional.normalize(torch.ones(1, 3), dim=1)
    nats = q.log_prob(z * (1 + 1e-7))
    assert not nats.isnan().any()
    if family is PowerSpherical:
        assert nats.item() < -5  # half the logarithm of next to nothing


@families
def test_a_concentration_that_is_no_number_is_none_in_the_loss_and_stops_nothing(family):
    q = family(normal(2, 3), row(math.nan, 0.5))
    z = draw(q, normal(2, 3, seed=1))
    p = UniformOnSphere(z)
    assert rate(q, p, z)[:, 0].isnan().tolist() == [True, False]
    assert z.isnan().any(1).tolist() == [True, False]


@families
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf, 1e5])
def test_concentrations_that_cannot_be(family, value):
    direction = torch.ones(2, 8)
    with pytest.raises(UserError, match="concentration: must be above 0 and at most"):
        family(direction, value)
    if not math.isnan(value):
        with pytest.raises(UserError, match="concentration: must be above 0 and at most"):
            family(direction, torch.tensor([0.5, value]))
    with pytest.raises(UserError, match="at least 2 dimensions, not 1"):
        family(torch.ones(2, 1), 0.5)


# --- less of it


@families
def test_a_softened_posterior_has_a_share_of_the_curvature(family):
    direction = normal(3, 6)
    values = row(0.2, 0.5, 0.8) if family is SphericalCauchy else row(2.0, 30.0, 500.0)
    q = family(direction, values)
    wide = widened(q, UniformOnSphere(direction))
    assert type(wide) is family
    assert widened(q, q) is None

    def curvature(q):
        axis = torch.nn.functional.normalize(normal(3, 6, seed=2), dim=1)
        tangent = axis - (axis * q.direction).sum(1, keepdim=True) * q.direction
        tangent = torch.nn.functional.normalize(tangent, dim=1)
        step = 1e-3
        near = math.cos(step) * q.direction + math.sin(step) * tangent
        return 2 * (q.log_prob(q.direction) - q.log_prob(near)) / step**2

    torch.testing.assert_close(curvature(wide), curvature(q) / 3, rtol=1e-3, atol=0)


def test_a_spherical_cauchy_by_its_curvature():
    k = row(1e-6, 1.0, 40.0, 8000.0)
    r = from_curvature(k, 7)
    torch.testing.assert_close(2 * 6 * r / (1 - r) ** 2, k)
