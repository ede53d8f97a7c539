"""The widened posterior, and the NLL whose proposal has it, where p(x) is known."""

import math
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.distributions import (
    ExpTransform,
    Independent,
    MultivariateNormal,
    Normal,
    TransformedDistribution,
)

from collapse_bench.evaluation import evaluate
from collapse_bench.latent_model import Rows, Scored
from collapse_bench.metrics.likelihood import importance_weighted_nll, monte_carlo_errors
from collapse_bench.model import diagonal_normal
from collapse_bench.model.distributions import base, widened
from collapse_bench.model.distributions.autoregressive import AutoregressiveNormal
from collapse_bench.model.distributions.sphere import UniformOnSphere, VonMisesFisher
from collapse_bench.model.distributions.widened import EVIDENCE
from collapse_bench.truth.kalman import linear_dynamics
from collapse_bench.truth.linear import linear_vae
from collapse_bench.truth.sphere import nodes, spherical
from collapse_bench.truth.words import LinearWords

evaluate_module = sys.modules[evaluate.__module__]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def of_a_sequence(sentences=4, steps=5, channels=2, a=0.7, evidence=2.0, seed=0):
    """A factorised posterior under an autoregressive prior, the best one of its family: normal
    likelihoods of precision `evidence` would have it; and that true posterior, by channel."""
    g = torch.Generator().manual_seed(seed)
    mean = torch.randn(sentences, steps, channels, generator=g, dtype=torch.float64)
    p = AutoregressiveNormal(mean.shape, a)
    time = torch.arange(steps, dtype=torch.float64)
    precision = torch.linalg.inv(torch.tensor(a, dtype=torch.float64) ** abs(time[:, None] - time))

    def with_evidence(nats):
        return MultivariateNormal(
            mean.transpose(1, 2), precision_matrix=precision + nats * torch.eye(steps)
        )

    scale = (precision.diagonal() + evidence).rsqrt()[:, None].expand_as(mean)
    return diagonal_normal(mean, scale), p, with_evidence


def test_precision_of_the_autoregressive_prior():
    p = AutoregressiveNormal(torch.Size((1, 6, 3)), 0.8)
    time = torch.arange(6, dtype=torch.float64)
    exact = torch.linalg.inv(torch.tensor(0.8, dtype=torch.float64) ** abs(time[:, None] - time))
    diagonal, beside = p.precision()
    found = diagonal.diag() + beside * (torch.ones(5).diag(1) + torch.ones(5).diag(-1))
    torch.testing.assert_close(found, exact)


def test_widened_under_an_autoregressive_prior_keeps_its_correlations_and_some_evidence():
    q, p, with_evidence = of_a_sequence(evidence=2.0)
    wide = widened(q, p)
    expected = with_evidence(2.0 * EVIDENCE)
    z = torch.randn(7, *q.mean.shape, dtype=torch.float64)
    torch.testing.assert_close(wide.log_prob(z), expected.log_prob(z.transpose(-1, -2)).sum(-1))
    torch.testing.assert_close(wide.mean, q.mean)
    # The draws: a linear map of the noise whose covariance is that of the density.
    unit = torch.eye(5, dtype=torch.float64)[:, None, :, None].expand(5, 4, 5, 2)
    columns = torch.stack([wide.from_noise(each) - q.mean for each in unit])[:, 0, :, 0]
    torch.testing.assert_close(columns.T @ columns, expected.covariance_matrix[0, 0])


def test_widened_at_the_floor_is_the_prior_around_the_mean_of_the_posterior():
    q, p, _ = of_a_sequence(evidence=0.0)
    wide, noise = widened(q, p), torch.randn(q.mean.shape, dtype=torch.float64)
    z = wide.from_noise(noise)
    torch.testing.assert_close(wide.log_prob(z), p.log_prob(z - q.mean))
    # A posterior that is wider than any exact one has no evidence either.
    wider = widened(diagonal_normal(q.mean, 3 * q.stddev), p)
    torch.testing.assert_close(wider.log_prob(z), wide.log_prob(z))


def test_widened_under_a_diagonal_prior():
    mean, scale = torch.tensor([[1.0, -2.0, 0.5, 9.0]]), torch.tensor([[0.5, 2.0, 3.0, 1e-30]])
    q = diagonal_normal(mean, scale)
    wide = widened(q, diagonal_normal(torch.zeros(1, 4), torch.tensor([[1.0, 2.0, 1.0, 1.0]])))
    torch.testing.assert_close(wide.mean, mean)
    # A third of 4 - 1 and 1 make 2; with no evidence it has the prior's; of 1e60 a third is left.
    expected = torch.tensor([[2**-0.5, 2.0, 1.0, 3**0.5 * 1e-30]])
    torch.testing.assert_close(base(wide).scale, expected, atol=0, rtol=1e-6)


def test_widened_on_the_sphere_has_a_third_of_the_concentration():
    direction = normal(6, 4)
    wide = widened(VonMisesFisher(direction, 9.0), UniformOnSphere(direction))
    assert wide.concentration == 9.0 * EVIDENCE
    torch.testing.assert_close(wide.direction, torch.nn.functional.normalize(direction, dim=-1))


def test_what_has_no_widened_posterior():
    source = Independent(Normal(torch.zeros(6, 3), torch.ones(6, 3)), 1)
    flow = TransformedDistribution(source, [ExpTransform()])
    plain = diagonal_normal(torch.zeros(6, 3), torch.ones(6, 3))
    assert widened(flow, plain) is None
    correlated = MultivariateNormal(torch.zeros(6, 3), torch.eye(3))
    assert widened(plain, correlated) is None
    assert widened(UniformOnSphere(normal(6, 3)), UniformOnSphere(normal(6, 3))) is None


@pytest.mark.parametrize("a", [0.0, 0.9, 1 - 1e-6])
def test_widened_in_float32_is_finite_and_has_no_gradient_to_pass(a):
    q = diagonal_normal(normal(4, 8, 2).float(), torch.full((4, 8, 2), 1e-6))
    wide = widened(q, AutoregressiveNormal(q.mean.shape, a))
    z = wide.from_noise(torch.randn(4, 8, 2))
    assert z.dtype == wide.log_prob(z).dtype == torch.float32
    assert torch.isfinite(wide.log_prob(z)).all()


# Where p(x) is known


def linear(narrow=1.0, shift=0.0):
    """Four dimensions in use; the posterior's scale and mean are off by so many true scales."""
    model = linear_vae(torch.tensor([9.0, 7.0, 5.0, 4.0, 1.0, 1.0], dtype=torch.float64), 4)
    return replace(
        model, variance=narrow**2 * model.variance, shift=shift / 2 * model.variance.sqrt()
    )


def dynamics(shift=0.0, emission=0.4, a=0.7):
    """A latent sequence under the delta-VAE's prior, with the best posterior or one beside it."""
    g = torch.Generator().manual_seed(3)
    emission = emission * torch.randn(3, 2, generator=g, dtype=torch.float64)
    model = linear_dynamics(a, emission, torch.eye(3, dtype=torch.float64), 6)
    flat = replace(model.flat, shift=shift / math.sqrt(12) * model.flat.variance.sqrt())
    return replace(model, flat=flat)


MODELS = {
    "exact": linear,
    "narrow": lambda: linear(narrow=0.5),
    "wide": lambda: linear(narrow=1.5),
    "beside": lambda: linear(shift=1.5),
    "dynamics": dynamics,
    "dynamics, beside": lambda: dynamics(shift=1.0),
    "dynamics, encoder at the floor": lambda: dynamics().at_floor(),
    "dynamics, correlated": lambda: dynamics(a=0.9, emission=1.0),
}


def evaluated(model, x, samples, seed=1, batch=500):
    return evaluate(
        Scored(model), Rows.of(x), samples=samples, batch=batch, seed=seed, shuffled=False
    )


def excess(model, x, samples, seed=1):
    """NLL less the true one, [N]."""
    arrays = evaluated(model, x, samples, seed)
    nll = importance_weighted_nll(arrays["log_weights"], arrays["draws"])
    return nll - model.exact_nll(x).numpy()


@pytest.mark.parametrize("samples", [3, 8, 32])
@pytest.mark.parametrize("name", MODELS)
def test_the_mean_weight_is_that_of_the_sentence(name, samples):
    """It is so for any number of draws, where the NLL, its logarithm, is an upper bound."""
    model = MODELS[name]()
    x = model.draw(3000, torch.Generator().manual_seed(1))
    off = excess(model, x, samples)
    weight = np.exp(-off)
    assert abs(weight.mean() - 1) < 4.5 * weight.std() / math.sqrt(len(weight))
    assert off.mean() > -4.5 * off.std() / math.sqrt(len(off))
    assert evaluated(model, x[:2], samples)["strata"] == 3


@pytest.mark.parametrize(
    ("name", "samples", "old", "new"),
    [
        ("narrow", 32, 0.2, 0.1),
        ("dynamics, beside", 8, 0.3, 0.1),
        ("dynamics, encoder at the floor", 32, 0.3, 0.2),
        ("dynamics, correlated", 8, 0.6, 0.15),
        ("dynamics, correlated", 32, 0.3, 0.05),
    ],
)
def test_it_takes_most_of_the_bias_of_a_posterior_that_is_off(monkeypatch, name, samples, old, new):
    model = MODELS[name]()
    x = model.draw(3000, torch.Generator().manual_seed(2))
    with_widened = excess(model, x, samples).mean()
    monkeypatch.setattr(evaluate_module, "strata_of", lambda q, p: [q, p])
    without = excess(model, x, samples).mean()
    assert without > old
    assert with_widened < new


@pytest.mark.parametrize("name", ["narrow", "beside", "dynamics, correlated"])
def test_the_error_that_is_told_is_the_spread_of_the_nll(name):
    model = MODELS[name]()
    x = model.draw(1, torch.Generator().manual_seed(5))
    x = x.expand(3000, *x.shape[1:])
    arrays = evaluated(model, x, 256)
    nll = importance_weighted_nll(arrays["log_weights"], arrays["draws"])
    told = monte_carlo_errors(arrays["log_weights"], arrays["draws"], 3)
    assert math.sqrt((told**2).mean()) == pytest.approx(nll.std(), rel=0.15)


@pytest.mark.parametrize("name", ["beside", "dynamics, correlated"])
def test_a_sentence_has_the_same_weights_in_any_batch(name):
    model = MODELS[name]()
    x = model.draw(30, torch.Generator().manual_seed(6))
    together, single = (evaluated(model, x, 16, batch=size)["log_weights"] for size in (30, 1))
    np.testing.assert_allclose(together, single, rtol=1e-12)


def test_on_the_sphere_the_mean_weight_is_that_of_the_sentence_and_a_narrow_posterior_no_bias():
    model = spherical(LinearWords(normal(3, 3), 1.5 * normal(3, 3, 3, seed=1)))
    model = replace(model, concentration=6 * model.concentration)
    x = model.draw(2000, torch.Generator().manual_seed(1))
    points, mass = nodes(3)
    of_points = torch.stack(
        [
            model.log_likelihood(x, z.expand(len(x), 3)).sum(1) + part.log()
            for z, part in zip(points, mass, strict=True)
        ]
    )
    arrays = evaluated(model, x, 16)
    assert arrays["strata"] == 3
    nll = importance_weighted_nll(arrays["log_weights"], arrays["draws"])
    weight = np.exp(-nll - torch.logsumexp(of_points, 0).numpy())
    assert abs(weight.mean() - 1) < 4.5 * weight.std() / math.sqrt(len(weight))
    assert abs(np.log(weight).mean()) < 0.05
