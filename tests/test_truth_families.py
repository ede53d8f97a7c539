"""The exact models with posteriors that are not normal, against brute force."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from collapse_bench.model.distributions import draw, family_of, rate
from collapse_bench.model.distributions.codes import Codebook, autoregressive, independent, uniform
from collapse_bench.model.distributions.power_spherical import PowerSpherical
from collapse_bench.model.distributions.sphere import VonMisesFisher
from collapse_bench.model.distributions.spherical_cauchy import SphericalCauchy
from collapse_bench.truth.codes import coded
from collapse_bench.truth.flow import Pushed, bent
from collapse_bench.truth.linear import linear_vae
from collapse_bench.truth.sphere import MOST, SphericalStrings, nodes, spherical
from collapse_bench.truth.words import LinearWords

SIGMAS = 4.5


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def words(latent, length=3, vocabulary=3, seed=0):
    return LinearWords(
        normal(length, vocabulary, seed=seed), 1.5 * normal(length, vocabulary, latent, seed=seed)
    )


def codebook(n=3, k=4, d=2, seed=7):
    return normal(n, k, d, seed=seed)


def moved(model):
    direction = model.direction + 0.4 * normal(*model.direction.shape, seed=4)
    return replace(model, direction=direction, concentration=1.4 * model.concentration)


MODELS = {
    "circle": lambda: spherical(words(2)),
    "circle, mis-set": lambda: moved(spherical(words(2))),
    "sphere": lambda: spherical(words(3)),
    "sphere, mis-set": lambda: moved(spherical(words(3))),
    "circle, power spherical": lambda: spherical(words(2), PowerSpherical),
    "sphere, spherical Cauchy, each its own": lambda: replace(
        spherical(words(3), SphericalCauchy),
        concentration=torch.linspace(0.1, 0.7, 27, dtype=torch.float64),
    ),
    "one code": lambda: coded(words(2), codebook()[0], uniform(codebook()[0])),
    "three codes, independent": lambda: coded(
        words(6), codebook(), independent(normal(3, 4, seed=3))
    ),
    "three codes, learned": lambda: coded(
        words(6), codebook(), autoregressive(normal(4, 4, 4, seed=3))
    ),
}
FAMILY = {"circle": "sphere", "sphere": "sphere", "one code": "codes", "three codes": "codes"}


@pytest.fixture(scope="module", params=MODELS)
def case(request):
    return request.param, MODELS[request.param]()


def near(values, exact):
    """Whether the mean of independent values is what it should be."""
    error = max(values.std().item() / math.sqrt(len(values)), 1e-10)
    return abs(values.mean().item() - exact) < SIGMAS * error


def test_exact_values_by_drawing(case):
    name, model = case
    exact = model.exact()
    n = 20_000
    x = model.draw(n, torch.Generator().manual_seed(5))
    q, p = model.posterior(x), model.prior(x)
    assert family_of(q) == family_of(p) == FAMILY[name.split(",")[0]]
    noise = torch.randn(n, *q.event_shape, generator=torch.Generator().manual_seed(6))
    z = draw(q, noise)
    likelihood = model.log_likelihood(x, z)
    assert likelihood.shape == x.shape
    assert near(-likelihood.sum(1), exact["distortion"])
    assert near(q.log_prob(z) - p.log_prob(z), exact["kl"])
    assert near(rate(q, p, z).sum(1), exact["kl"])
    others = -model.log_likelihood(x, z.roll(1, 0)).sum(1)
    assert near(others + likelihood.sum(1), exact["shuffle_gap"])
    strings = model.decoder.strings()
    log_p = log_evidence(model, strings)
    assert log_p.exp().sum().item() == pytest.approx(1, abs=2e-3)
    # The aggregate posterior of all strings, at each draw.
    pairs = model.posterior(strings).log_prob(z[:2000].unsqueeze(1))
    aggregate = (pairs + log_p).logsumexp(1)
    information = model.posterior(x[:2000]).log_prob(z[:2000]) - aggregate
    assert abs(information.mean().item() - exact["mutual_information"]) < SIGMAS * (
        information.std().item() / math.sqrt(2000) + 1e-3
    )


def log_evidence(model, strings):
    """log p(x) by draws from the prior, all strings with the same z."""
    n = 20_000
    p = model.prior(strings[:1].expand(n, -1))
    z = draw(p, torch.randn(n, *p.event_shape, generator=torch.Generator().manual_seed(8)))
    table = model.decoder.log_likelihood_by_point(strings, z)
    return table.logsumexp(1) - math.log(n)


def test_evidence(case):
    _, model = case
    strings = model.decoder.strings()
    log_p = log_evidence(model, strings)
    assert -(log_p.exp() * log_p).sum().item() == pytest.approx(model.exact()["nll"], abs=0.02)
    x = model.draw(20_000, torch.Generator().manual_seed(5))
    assert near(-log_p[model.decoder.rows(x)], model.exact()["nll"])


def test_exact_values_hold_together(case):
    _, model = case
    exact = model.exact()
    assert exact["kl"] == pytest.approx(exact["mutual_information"] + exact["marginal_kl"])
    assert exact["negative_elbo"] == pytest.approx(exact["distortion"] + exact["kl"])
    assert exact["negative_elbo"] >= exact["nll"]
    assert exact["useful_rate"] == pytest.approx(exact["nll"] - exact["distortion"])
    assert exact["mutual_information"] >= 0
    assert exact["marginal_kl"] >= -1e-9
    # Nothing that a posterior tells of x is more than the model's own joint has, in use.
    assert exact["useful_rate"] <= exact["mutual_information"] + 1e-9


def test_rate_on_the_sphere_is_that_of_the_quadrature():
    for name in ("circle", "sphere, mis-set", "circle, power spherical"):
        model = MODELS[name]()
        x = model.decoder.strings()[:1]
        q, p = model.posterior(x), model.prior(x)
        assert rate(q, p, q.mean).item() == pytest.approx(model.exact()["kl"], abs=1e-9)


def test_nodes_are_of_the_uniform_distribution():
    for dimension in (2, 3):
        z, mass = nodes(dimension)
        assert z.norm(dim=1) == pytest.approx(np.ones(len(z)))
        assert mass.sum().item() == pytest.approx(1)
        moment = torch.einsum("c,ci,cj->ij", mass, z, z)
        assert moment == pytest.approx(np.eye(dimension) / dimension, abs=1e-12)


def test_matched_direction_is_better_than_another():
    model = spherical(words(3))
    assert model.exact()["negative_elbo"] < moved(model).exact()["negative_elbo"]


def test_blind_decoder_gains_nothing_from_the_sphere():
    decoder = words(3)
    model = spherical(decoder)
    blind = replace(model, decoder=replace(decoder, slope=0 * decoder.slope))
    exact = blind.exact()
    assert exact["useful_rate"] == pytest.approx(0, abs=1e-12)
    assert exact["mutual_information_model"] == pytest.approx(0, abs=1e-12)
    assert exact["shuffle_gap"] == pytest.approx(0, abs=1e-12)
    assert exact["kl"] == pytest.approx(model.exact()["kl"])


def test_spherical_model_that_does_not_fit_together():
    decoder = words(3)
    with pytest.raises(ValueError, match=r"direction: must be \[27, D\]"):
        SphericalStrings(decoder, normal(27, 2), 1.0)
    with pytest.raises(
        ValueError, match=f"concentration: must be above 0 and at most {MOST[VonMisesFisher]}"
    ):
        SphericalStrings(decoder, normal(27, 3), 100.0)
    with pytest.raises(ValueError, match=r"concentration: .*, one or \[27\]"):
        SphericalStrings(decoder, normal(27, 3), torch.ones(3))


def test_codes_under_a_uniform_prior():
    model = coded(words(6), codebook(), uniform(codebook()))
    exact = model.exact()
    assert model.log_prior().exp().sum().item() == pytest.approx(1)
    assert len(model.log_prior()) == 64
    assert exact["kl"] == pytest.approx(3 * math.log(4))
    strings = model.decoder.strings()
    z = Codebook(codebook()).vectors_of(model.sequences())
    p = model.decoder.log_likelihood_by_point(strings, z).exp().mean(1)
    assert p.sum().item() == pytest.approx(1)
    assert -(p * p.log()).sum().item() == pytest.approx(exact["nll"])
    mass = {}
    for codes, chance in zip(model.codes.tolist(), p.tolist(), strict=True):
        mass[tuple(codes)] = mass.get(tuple(codes), 0) + chance
    entropy = -sum(m * math.log(m) for m in mass.values())
    assert exact["mutual_information"] == pytest.approx(entropy)
    singles = 0.0
    for t in range(3):
        alone = [sum(m for c, m in mass.items() if c[t] == k) for k in range(4)]
        singles -= sum(m * math.log(m) for m in alone if m)
    assert exact["total_correlation"] == pytest.approx(singles - entropy)
    assert exact["dimension_kl"] == pytest.approx(3 * math.log(4) - singles)
    assert exact["active_units"] == 6


def test_likeliest_codes_are_the_best():
    model = MODELS["three codes, learned"]()
    best = model.exact()["negative_elbo"]
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        other = torch.randint(4, model.codes.shape, generator=generator)
        assert best < replace(model, codes=other).exact()["negative_elbo"]


def test_one_code_for_all_tells_nothing():
    model = MODELS["three codes, learned"]()
    exact = replace(model, codes=torch.ones_like(model.codes)).exact()
    assert exact["mutual_information"] == pytest.approx(0)
    assert exact["shuffle_gap"] == pytest.approx(0)
    assert exact["active_units"] == 0
    assert exact["kl"] > 0.5


def test_pushed_model_is_its_source_with_another_latent():
    source = linear_vae(torch.tensor([6.0, 3.0, 2.0, 1.0, 1.0, 1.0], dtype=torch.float64), 3)
    source = replace(source, shift=source.shift + 0.3, variance=1.5 * source.variance)
    model = Pushed(source, bent(normal(3, 3)))
    x = model.draw(300, torch.Generator().manual_seed(1))
    q, p = model.posterior(x), model.prior(x)
    assert family_of(q) == family_of(p) == "flow"
    noise = normal(300, 3, seed=2)
    y, z = draw(source.posterior(x), noise), draw(q, noise)
    assert (y - z).abs().max() > 0.1
    expected = source.posterior(x).log_prob(y) - source.prior(x).log_prob(y)
    assert rate(q, p, z)[:, 0] == pytest.approx(expected)
    assert model.log_likelihood(x, z) == pytest.approx(source.log_likelihood(x, y))
    pairs = q.log_prob(z[:, None])
    of_source = source.posterior(x).log_prob(y[:, None])
    # The Jacobian of a draw is the same under every posterior.
    off = pairs - of_source
    assert off == pytest.approx(off[:, :1].expand_as(off), abs=1e-6)
    exact, known = model.exact(), source.exact()
    assert "total_correlation" not in exact
    assert exact == {name: known[name] for name in exact}
