"""Families of distributions that are not normal: densities, draws from noise, rates."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats
from torch.distributions import AffineTransform, ExpTransform, kl_divergence
from torch.distributions.transforms import SigmoidTransform

from collapse_bench.errors import UserError
from collapse_bench.model import diagonal_normal
from collapse_bench.model.distributions import draw, family_of, rate, shape_of
from collapse_bench.model.distributions.codes import (
    Codebook,
    CodePrior,
    Codes,
    autoregressive,
    independent,
    uniform,
)
from collapse_bench.model.distributions.flow import AutoregressiveAffine, Flow
from collapse_bench.model.distributions.power_spherical import PowerSpherical
from collapse_bench.model.distributions.sphere import UniformOnSphere, VonMisesFisher, log_area

SIGMAS = 4.5


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


# --- sphere


@pytest.mark.parametrize(
    ("dimension", "concentration", "nats"), [(32, 13, 2.17), (32, 30, 7.21), (50, 35, 7.74)]
)
def test_rate_of_vmf_is_the_published_one(dimension, concentration, nats):
    q = VonMisesFisher(normal(4, dimension), concentration)
    kl = rate(q, UniformOnSphere(q.mean), q.mean)
    assert kl.shape == (4, 1)
    assert kl == pytest.approx(np.full((4, 1), nats), abs=0.005)


def test_rate_of_vmf_where_it_is_large():
    q = VonMisesFisher(normal(1, 50), 80)
    assert kl_divergence(q, UniformOnSphere(q.mean)).item() == pytest.approx(19.5, abs=0.05)


@pytest.mark.parametrize(
    ("dimension", "concentration"),
    [(2, 0.01), (2, 5.0), (2, 1e6), (3, 1e-3), (3, 40.0), (10, 3.0), (32, 80.0), (700, 900.0)],
)
def test_vmf_by_bessel_functions(dimension, concentration):
    q = VonMisesFisher(normal(1, dimension), concentration)
    order = dimension / 2 - 1
    log_bessel = math.log(special.ive(order, concentration)) + concentration
    log_c = order * math.log(concentration) - dimension / 2 * math.log(2 * math.pi) - log_bessel
    ratio = special.ive(order + 1, concentration) / special.ive(order, concentration)
    assert q.log_prob(q.direction).item() == pytest.approx(log_c + concentration, rel=1e-12)
    assert q.mean.norm().item() == pytest.approx(ratio, rel=1e-9)
    kl = log_c + concentration * ratio + log_area(dimension)
    assert kl_divergence(q, UniformOnSphere(q.mean)).item() == pytest.approx(kl, abs=1e-9)


def test_rate_of_vmf_beyond_bessel_functions_is_that_of_little_concentration():
    # For small k the rate is k^2 / 2 D; the Bessel function of order 499 underflows.
    q = VonMisesFisher(normal(1, 1000), 1.0)
    kl = kl_divergence(q, UniformOnSphere(q.mean)).item()
    assert kl == pytest.approx(1 / 2000, rel=1e-5)


def test_densities_on_the_circle_and_the_sphere_integrate_to_one():
    circle = VonMisesFisher(normal(1, 2), 3.0)
    sphere = VonMisesFisher(normal(1, 3), 3.0)

    def on_circle(t):
        return circle.log_prob(torch.tensor([[math.cos(t), math.sin(t)]])).exp().item()

    def on_sphere(w, t):
        s = math.sqrt(1 - w * w)
        z = torch.tensor([[s * math.cos(t), s * math.sin(t), w]], dtype=torch.float64)
        return sphere.log_prob(z).exp().item()

    assert integrate.quad(on_circle, 0, 2 * math.pi)[0] == pytest.approx(1, abs=1e-5)
    both = integrate.dblquad(on_sphere, 0, 2 * math.pi, -1, 1, epsabs=1e-4, epsrel=1e-4)[0]
    assert both == pytest.approx(1, abs=1e-4)
    p = UniformOnSphere(normal(1, 3))
    assert p.log_prob(sphere.direction).item() == pytest.approx(-math.log(4 * math.pi))


@pytest.mark.parametrize(("dimension", "concentration"), [(2, 2.0), (3, 8.0), (20, 15.0)])
def test_draws_are_of_the_vmf(dimension, concentration):
    n = 40_000
    mean = normal(dimension, seed=1)
    q = VonMisesFisher(mean.expand(n, -1), concentration)
    p = UniformOnSphere(q.mean)
    z = draw(q, normal(n, dimension, seed=2))
    assert z.norm(dim=1) == pytest.approx(np.ones(n))
    kl = kl_divergence(q, p)[0].item()
    nats = q.log_prob(z) - p.log_prob(z)
    assert abs(nats.mean().item() - kl) < SIGMAS * nats.std().item() / math.sqrt(n)
    mu = (mean / mean.norm()).numpy()
    if dimension > 2:
        other = stats.vonmises_fisher(mu, concentration).rvs(n, random_state=3)
        assert stats.ks_2samp(z.numpy() @ mu, other @ mu).pvalue > 1e-3
        assert stats.ks_2samp(z[:, 0].numpy(), other[:, 0]).pvalue > 1e-3
    # Nothing but mu is a direction of its own.
    off = z - z @ torch.from_numpy(mu)[:, None] * torch.from_numpy(mu)
    assert (off.mean(0).abs() < SIGMAS / math.sqrt(n)).all()


def test_quantiles_are_exact():
    q = VonMisesFisher(torch.tensor([[1.0, 0, 0]], dtype=torch.float64), 7.0)
    e = torch.linspace(-5, 5, 1001, dtype=torch.float64)
    noise = torch.stack([e, e * 0 + 1, e * 0], dim=1)
    w = q.from_noise(noise)[:, 0]
    # On the sphere in 3 dimensions F(w) = (e^(k w) - e^-k) / (e^k - e^-k).
    u = (torch.expm1(7 * (w + 1))) / math.expm1(14)
    assert torch.allclose(u, torch.special.ndtr(e), rtol=1e-8, atol=0)


@pytest.mark.parametrize("family", [VonMisesFisher, PowerSpherical])
@pytest.mark.parametrize("dimension", [2, 3, 32])
def test_draws_in_float32_are_those_in_float64(family, dimension):
    """Which take more steps to a quantile; a concentration that is a number has no other angles."""
    direction = torch.eye(dimension)[:1].expand(5, -1)
    noise = torch.randn(200, 5, dimension, generator=torch.Generator().manual_seed(1))
    k = [0.2, 1.0, 30.0, 900.0, 8000.0]
    q, exact = (
        family(direction.to(k.dtype), k) for k in (torch.tensor(k), torch.tensor(k).double())
    )
    torch.testing.assert_close(
        q.from_noise(noise), exact.from_noise(noise.double()).float(), atol=2e-6, rtol=0
    )
    one = family(direction, 30.0)
    for _ in range(2):
        torch.testing.assert_close(one.from_noise(noise)[:, 2], q.from_noise(noise)[:, 2])


def test_draw_of_vmf_passes_gradients_and_is_a_function_of_its_noise():
    direction = normal(5, 4).requires_grad_()
    noise = normal(5, 4, seed=1)
    assert torch.autograd.gradcheck(lambda m: VonMisesFisher(m, 3.0).from_noise(noise), direction)
    q = VonMisesFisher(direction, 3.0)
    assert torch.equal(draw(q, noise), draw(q, noise))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_direction_on_the_first_axis(sign):
    direction = torch.zeros(1, 4, dtype=torch.float64)
    direction[0, 0] = sign
    direction.requires_grad_()
    z = VonMisesFisher(direction, 1000.0).from_noise(normal(1, 4))
    z.sum().backward()
    assert z[0, 0].item() == pytest.approx(sign, abs=0.02)
    assert direction.grad.isfinite().all()


def test_noise_of_zeros_and_beyond_all_tables_stays_on_the_sphere():
    q = VonMisesFisher(normal(2, 2), 3.0)
    z = q.from_noise(torch.tensor([[0.0, 0.0], [40.0, -1.0]]))
    assert z.norm(dim=1) == pytest.approx(np.ones(2))


def test_sphere_in_float32():
    q = VonMisesFisher(normal(6, 32).float(), 30.0)
    z = draw(q, torch.randn(6, 32))
    assert z.dtype == torch.float32
    assert q.log_prob(z).dtype == torch.float32
    exact = VonMisesFisher(q.direction.double(), 30.0).log_prob(z.double())
    assert torch.allclose(q.log_prob(z).double(), exact, atol=1e-4)


@pytest.mark.parametrize("concentration", [0.0, -1.0, math.nan, math.inf, 1e5])
def test_concentration_that_cannot_be(concentration):
    with pytest.raises(UserError, match=r"concentration: must be above 0 and at most 8389"):
        VonMisesFisher(torch.ones(2, 3), concentration)


def test_sphere_of_one_dimension():
    with pytest.raises(UserError, match="at least 2 dimensions, not 1"):
        VonMisesFisher(torch.ones(2, 1), 1.0)


# --- flow


def conditioner(weights):
    lower = weights.tril(-1)

    def of(y):
        shift = y @ lower.T
        return shift, 1 + torch.sin(shift)

    return of


def flow(sentences=6, latent=3, seed=0):
    source = diagonal_normal(
        normal(sentences, latent, seed=seed), 0.5 + normal(sentences, latent, seed=seed + 1) ** 2
    )
    return Flow(
        source,
        AutoregressiveAffine(conditioner(normal(latent, latent, seed=seed + 2))),
        AffineTransform(normal(sentences, latent, seed=seed + 3), 0.7),
        ExpTransform(),
    )


def inverted(distribution, z):
    """Log density without what a draw has left."""
    return distribution.log_prob(z.clone())


def test_density_of_a_flow_is_that_of_its_noise_over_the_jacobian():
    q = flow(sentences=1)
    noise = normal(1, 3, seed=9)
    jacobian = torch.autograd.functional.jacobian(lambda e: q.from_noise(e[None])[0], noise[0])
    of_noise = torch.distributions.Normal(0.0, 1.0).log_prob(noise).sum()
    expected = of_noise - torch.linalg.slogdet(jacobian).logabsdet
    z = q.from_noise(noise)
    assert q.log_prob(z).item() == pytest.approx(expected.item(), abs=1e-10)
    assert inverted(q, z).item() == pytest.approx(expected.item(), abs=1e-10)


def test_density_of_a_flow_integrates_to_one():
    source = diagonal_normal(torch.zeros(1, 2).double(), torch.ones(1, 2).double())
    weights = torch.tensor([[0.0, 0.0], [0.8, 0.0]], dtype=torch.float64)
    q = Flow(source, AutoregressiveAffine(conditioner(weights)))
    line = torch.linspace(-8, 8, 401, dtype=torch.float64)
    z = torch.cartesian_prod(line, line)
    mass = q.log_prob(z[:, None]).exp().sum() * (line[1] - line[0]) ** 2
    assert mass.item() == pytest.approx(1, abs=1e-6)


def test_single_axis_flow_is_the_log_normal():
    mean, scale = normal(4, 1), normal(4, 1, seed=1).abs() + 0.3
    q = Flow(diagonal_normal(mean, scale), ExpTransform())
    z = normal(4, 1, seed=2).exp()
    expected = stats.lognorm(s=scale[:, 0], scale=mean[:, 0].exp()).logpdf(z[:, 0])
    assert q.log_prob(z) == pytest.approx(expected)


def test_flow_of_a_latent_sequence():
    source = diagonal_normal(normal(5, 2, 3), torch.ones(5, 2, 3, dtype=torch.float64))
    q = Flow(source, AutoregressiveAffine(conditioner(normal(3, 3))), AffineTransform(1.0, 2.0))
    z = draw(q, normal(5, 2, 3, seed=1))
    assert z.shape == shape_of(q) == (5, 2, 3)
    assert inverted(q, z) == pytest.approx(q.log_prob(z))
    assert q.mean.shape == (5, 2, 3)
    assert q.log_prob(z[:, None]).diagonal() == pytest.approx(q.log_prob(z))


def test_autoregressive_map_depends_on_what_is_before():
    transform = AutoregressiveAffine(conditioner(normal(4, 4)))
    y = normal(4, seed=1)
    jacobian = torch.autograd.functional.jacobian(transform, y)
    assert torch.equal(jacobian, jacobian.tril())
    log_det = transform.log_abs_det_jacobian(y, transform(y))
    assert jacobian.diagonal().log().sum().item() == pytest.approx(log_det.item())
    assert transform.inv(transform(y)) == pytest.approx(y)


def test_gradients_pass_through_a_flow():
    mean = normal(3, 2).requires_grad_()
    weights = normal(2, 2, seed=1).requires_grad_()
    source = diagonal_normal(mean, torch.ones_like(mean))
    q = Flow(source, AutoregressiveAffine(conditioner(weights)))
    z = draw(q, normal(3, 2, seed=2))
    (rate(q, source, z).sum() + z.square().sum()).backward()
    assert mean.grad.abs().min() > 0
    assert weights.grad[1, 0].abs() > 0


def test_mean_of_a_flow_is_that_of_its_draws():
    q = Flow(flow().source, *flow().transforms[:2])  # the third has no mean to speak of
    mean = q.mean
    assert torch.equal(mean, q.mean)
    z = torch.stack([draw(q, normal(6, 3, seed=s)) for s in range(2000)])
    error = z.std(0) / math.sqrt(128)
    assert ((z.mean(0) - mean).abs() < SIGMAS * error).all()
    linear = Flow(diagonal_normal(normal(2, 3), torch.ones(2, 3).double()), AffineTransform(1.0, 3))
    assert linear.mean == pytest.approx(1 + 3 * normal(2, 3))


def test_overflow_at_the_draws_of_others_is_no_density():
    def steep(y):
        shift = 200 * y.cumsum(-1).roll(1, -1) * (torch.arange(y.shape[-1]) > 0)
        return shift, -shift.abs()

    source = diagonal_normal(torch.zeros(1, 5), torch.ones(1, 5))
    q = Flow(source, AutoregressiveAffine(steep))
    z = torch.tensor([[50.0, -3.0, 8.0, 1e30, 1e38]])
    assert q.log_prob(z).tolist() == [-math.inf]
    assert q.log_prob(torch.zeros(1, 5)).isfinite().all()
    outside = Flow(source, SigmoidTransform())
    assert outside.log_prob(torch.full((1, 5), 0.5)).isfinite().all()
    assert q.log_prob(torch.full((1, 5), math.nan)).isnan().all()


# --- codes


def codebook(n=3, k=4, d=2, seed=0):
    return normal(n, k, d, seed=seed)


def all_codes(n=3, k=4):
    return torch.cartesian_prod(*[torch.arange(k)] * n).reshape(-1, n)


def test_codes_are_certain():
    vectors = codebook()
    codes = torch.tensor([[0, 1, 2], [3, 3, 3], [0, 1, 2]])
    q = Codes(codes, vectors)
    assert torch.equal(q.mean[1, 0], vectors[0, 3])
    z = draw(q, normal(3, 3, 2))
    assert torch.equal(z, q.mean)
    assert q.log_prob(z).tolist() == [0, 0, 0]
    inf = math.inf
    assert q.log_prob(z[:, None]).tolist() == [[0, -inf, 0], [-inf, 0, -inf], [0, -inf, 0]]


def test_one_code_a_sentence():
    vectors = codebook()[0]
    q = Codes(torch.tensor([[2], [0]]), vectors)
    p = CodePrior(uniform(vectors), vectors, 2)
    assert q.mean.shape == shape_of(q) == shape_of(p) == (2, 2)
    z = draw(q, normal(2, 2))
    assert torch.equal(z, vectors[[2, 0]])
    assert q.log_prob(z[:, None]).tolist() == [[0, -math.inf], [-math.inf, 0]]
    assert p.log_prob(z[:, None]) == pytest.approx(np.full((2, 2), -math.log(4)))
    assert rate(q, p, z) == pytest.approx(np.full((2, 1), math.log(4)))


def test_straight_through_gradient_and_rounding():
    vectors = (100 * codebook()).float()
    encoded = (vectors[torch.arange(3), torch.tensor([[1, 0, 3]])] + 0.3).requires_grad_()
    codes = Codebook(vectors).codes_of(encoded)
    assert codes.tolist() == [[1, 0, 3]]
    passed = encoded + (Codebook(vectors).vectors_of(codes) - encoded).detach()
    q = Codes(codes, vectors, passed)
    z = draw(q, torch.zeros(1, 3, 2))
    z.sum().backward()
    assert torch.equal(encoded.grad, torch.ones(1, 3, 2))
    assert q.log_prob(z).tolist() == [0]


def test_code_whose_vector_another_has():
    vectors = codebook()[0]
    vectors[3] = vectors[1]
    q = Codes(torch.tensor([[3], [1], [0]]), vectors)
    assert q.log_prob(q.mean).tolist() == [0, 0, 0]


PRIORS = {
    "uniform": lambda: uniform(codebook()),
    "independent": lambda: independent(normal(3, 4, seed=5)),
    "autoregressive": lambda: autoregressive(normal(4, 4, 4, seed=5)),
}


@pytest.mark.parametrize("name", PRIORS)
def test_prior_over_codes(name):
    vectors = codebook()
    conditional = PRIORS[name]()
    codes = all_codes()
    z = Codebook(vectors).vectors_of(codes)
    p = CodePrior(conditional, vectors, 5)
    log_p = p.log_prob(z[:, None])
    assert log_p.shape == (64, 5)
    assert log_p[:, 0].exp().sum().item() == pytest.approx(1)
    q, priors = Codes(codes, vectors), CodePrior(conditional, vectors, 64)
    kl = rate(q, priors, z)
    assert kl.shape == (64, 3)
    assert kl.sum(1) == pytest.approx(-log_p[:, 0])
    n = 40_000
    many = CodePrior(conditional, vectors, n)
    noise = normal(n, 3, 2, seed=3)
    drawn = draw(many, noise)
    assert torch.equal(drawn, draw(many, noise))
    places = Codebook(vectors).codes_of(drawn) @ torch.tensor([16, 4, 1])
    counts = torch.bincount(places, minlength=64)
    assert stats.chisquare(counts, n * log_p[:, 0].exp() / log_p[:, 0].exp().sum()).pvalue > 1e-3


def test_autoregressive_table_is_its_joint():
    logits = normal(4, 4, 4, seed=5)
    p = CodePrior(autoregressive(logits), codebook(), 64)
    log_p = p.by_place(all_codes()).sum(1)
    assert log_p == pytest.approx(logits.flatten().log_softmax(0))


def test_gradient_passes_to_a_learnt_prior_only():
    logits = normal(4, 4, 4).requires_grad_()
    p = CodePrior(autoregressive(logits), codebook(), 2)
    q = Codes(torch.tensor([[0, 1, 2], [1, 1, 1]]), codebook())
    rate(q, p, q.mean).sum().backward()
    assert logits.grad.abs().sum() > 0


def test_code_of_no_probability_is_never_drawn():
    logits = torch.tensor([[-math.inf, 0.0, 0.0, -math.inf]], dtype=torch.float64)
    p = CodePrior(independent(logits), codebook()[0], 4)
    z = draw(p, torch.tensor([[-40.0, 0], [40.0, 0], [9.0, 0], [0.0, 0]]))
    assert Codebook(codebook()[0]).codes_of(z).flatten().tolist() == [1, 2, 2, 2]


# --- what all have in common

FAMILIES = {
    "sphere": lambda: VonMisesFisher(normal(6, 3), 4.0),
    "flow": flow,
    "codes": lambda: Codes(all_codes()[:6], codebook()),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_family_offers(family):
    q = FAMILIES[family]()
    assert family_of(q) == family
    noise = normal(*shape_of(q), seed=4)
    z = draw(q, noise)
    assert z.shape == shape_of(q) == q.mean.shape
    assert torch.equal(z, draw(FAMILIES[family](), noise))
    pairs = q.log_prob(z.unsqueeze(1))
    assert pairs.shape == (6, 6)
    assert pairs.diagonal() == pytest.approx(q.log_prob(z))
    rows = torch.stack([q.log_prob(one.expand(z.shape)) for one in z])
    assert pairs == pytest.approx(rows)
