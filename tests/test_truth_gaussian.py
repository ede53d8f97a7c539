"""Linear-Gaussian models against brute force and second derivations, and the bench against them."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from collapse_bench.evaluation import evaluate
from collapse_bench.latent_model import Rows, Scored
from collapse_bench.metrics.likelihood import importance_weighted_nll
from collapse_bench.metrics.mutual_information import mutual_information
from collapse_bench.model.distributions.autoregressive import committed_rate
from collapse_bench.truth.gaussian import LinearGaussian, linear_gaussian
from collapse_bench.truth.kalman import linear_dynamics
from collapse_bench.truth.linear import fitted_linear_vae, linear_vae
from collapse_bench.truth.sequence import history_gap, linear_sequence, windowed

SEEDS = range(6)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def normal(g, *shape):
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def spd(g, n, least=0.3):
    root = normal(g, n, n) / math.sqrt(n)
    return root @ root.T + least * torch.eye(n, dtype=torch.float64)


def rotation(g, n):
    return torch.linalg.qr(normal(g, n, n))[0]


def random_model(g, observed, latent, *, correlated=False, strength=0.6):
    """A model whose posterior is on purpose not the best one."""
    best = linear_gaussian(
        strength * normal(g, observed, latent),
        spd(g, observed),
        mean=normal(g, observed),
        prior_covariance=spd(g, latent) if correlated else None,
    )
    return replace(
        best,
        gain=best.gain + 0.15 * normal(g, latent, observed),
        shift=0.3 * normal(g, latent),
        variance=best.variance * (0.4 * normal(g, latent)).exp(),
    )


def random_sequence(g, *, steps=6, width=2, latent=2, lags=2, size=0.5):
    return linear_sequence(
        size * normal(g, lags, width, width), normal(g, width, latent), spd(g, width), steps
    )


def within(values, expected, errors=4.5):
    """The mean of independent values is the expected one, within its standard error."""
    values = torch.as_tensor(values)
    error = float(values.std()) / math.sqrt(len(values))
    assert abs(float(values.mean()) - expected) < errors * error + 1e-9


# Linear-Gaussian models: population values


def test_every_value_in_one_dimension_is_its_integral():
    w, m, noise, prior, a, b, v = torch.tensor(
        [0.9, 0.4, 0.7, 1.3, 0.5, -0.3, 0.4], dtype=torch.float64
    ).unbind()
    model = LinearGaussian(
        loading=w.reshape(1, 1),
        mean=m.reshape(1),
        noise=noise.reshape(1, 1),
        prior_covariance=prior.reshape(1, 1),
        gain=a.reshape(1, 1),
        shift=b.reshape(1),
        variance=v.reshape(1),
    )
    z = torch.linspace(-11, 11, 1101, dtype=torch.float64)
    x = torch.linspace(-13, 13, 1301, dtype=torch.float64)[:, None]
    dz, dx = float(z[1] - z[0]), float(x[1] - x[0])
    p = Normal(0 * prior, prior.sqrt()).log_prob(z)  # [z]
    given = Normal(m + w * z, noise.sqrt()).log_prob(x)  # [x, z]
    of_x = ((p + given).exp().sum(1) * dz)[:, None]  # p(x)
    q = Normal(a * (x - m) + b, v.sqrt()).log_prob(z)
    of_z = (of_x * q.exp()).sum(0) * dx  # q(z)
    joint = of_x * q.exp() * dx * dz

    def mean(of):
        return float((joint * of).sum())

    expected = {
        "nll": -mean(of_x.log()),
        "distortion": -mean(given),
        "kl": mean(q - p),
        "negative_elbo": mean(q - p - given),
        "mutual_information": mean(q - of_z.log()),
        "marginal_kl": mean(of_z.log() - p),
        "dimension_kl": mean(of_z.log() - p),
        "total_correlation": 0.0,
        "useful_rate": mean(given - of_x.log()),
        "mutual_information_model": float(
            ((p + given).exp() * (given - of_x.log())).sum() * dx * dz
        ),
        "shuffle_gap": mean(given) - float((of_x * of_z * given).sum() * dx * dz),
        "active_units": 1.0,
    }
    assert model.exact() == pytest.approx(expected, abs=1e-8)


def test_a_unit_is_active_by_the_variance_of_its_posterior_mean():
    model = random_model(generator(0), 3, 2)
    gain = torch.zeros(2, 3).double()
    for variance, units in [(0.011, 2), (0.009, 0)]:
        gain[:, 0] = math.sqrt(variance) / model.covariance()[0, 0].sqrt()
        assert replace(model, gain=gain).exact()["active_units"] == units


@pytest.mark.parametrize("correlated", [False, True])
def test_values_in_many_dimensions_are_means_over_draws(correlated):
    g = generator(1)
    model = random_model(g, 5, 3, correlated=correlated)
    x = model.draw(60_000, g)
    q = MultivariateNormal(
        (x - model.mean) @ model.gain.T + model.shift, model.variance.diag(), validate_args=False
    )
    z = q.mean + model.variance.sqrt() * normal(g, *q.mean.shape)
    p = MultivariateNormal(torch.zeros(3).double(), model.prior_covariance)
    spread = model.gain @ (model.loading @ model.prior_covariance @ model.loading.T + model.noise)
    aggregate = MultivariateNormal(model.shift, spread @ model.gain.T + model.variance.diag())
    singly = Normal(model.shift, aggregate.variance.sqrt())
    decoder = MultivariateNormal(torch.zeros(5).double(), model.noise)

    def given(z):
        return decoder.log_prob(x - model.mean - z @ model.loading.T)

    of_x = MultivariateNormal(model.mean, model.covariance()).log_prob(x)
    values = {
        "nll": -of_x,
        "distortion": -given(z),
        "kl": q.log_prob(z) - p.log_prob(z),
        "mutual_information": q.log_prob(z) - aggregate.log_prob(z),
        "marginal_kl": aggregate.log_prob(z) - p.log_prob(z),
        "useful_rate": given(z) - of_x,
        "shuffle_gap": given(z) - given(z.roll(1, 0)),
    }
    exact = model.exact()
    if correlated:
        assert "total_correlation" not in exact
        assert "dimension_kl" not in exact
    else:
        each = singly.log_prob(z)
        values["total_correlation"] = aggregate.log_prob(z) - each.sum(1)
        values["dimension_kl"] = each.sum(1) - p.log_prob(z)
    for name, value in values.items():
        within(value, exact[name])


@pytest.mark.parametrize("seed", SEEDS)
def test_identities_between_the_values(seed):
    g = generator(seed)
    model = random_model(g, 4 + seed, 1 + seed % 4)
    e = model.exact()
    scaled = model.gain @ model.covariance() @ model.gain.T / model.variance[:, None]
    information = 0.5 * torch.logdet(torch.eye(len(scaled)) + scaled)
    assert e["mutual_information"] == pytest.approx(float(information))
    assert e["kl"] == pytest.approx(e["mutual_information"] + e["marginal_kl"])
    assert e["kl"] == pytest.approx(
        e["mutual_information"] + e["total_correlation"] + e["dimension_kl"]
    )
    back = model.loading.T @ torch.linalg.inv(model.noise) @ model.loading
    of_model = 0.5 * torch.logdet(torch.eye(len(back)) + back)
    assert e["mutual_information_model"] == pytest.approx(float(of_model))
    assert e["useful_rate"] == pytest.approx(e["kl"] - (e["negative_elbo"] - e["nll"]))
    assert e["nll"] < e["negative_elbo"]
    assert min(e["mutual_information"], e["marginal_kl"], e["total_correlation"]) >= -1e-12
    # H(x) - D <= I_q, and the model's NLL on its own sentences is their entropy.
    assert e["useful_rate"] < e["mutual_information"] < e["kl"]


@pytest.mark.parametrize("seed", SEEDS)
def test_with_the_exact_posterior_rate_information_and_use_are_one(seed):
    g = generator(seed)
    model = random_model(g, 5, 1 + seed % 4)
    exact = model.with_exact_posterior()
    e = exact.exact()
    assert e["nll"] == pytest.approx(model.exact()["nll"])
    assert e["negative_elbo"] == pytest.approx(e["nll"])
    for name in ("kl", "mutual_information", "useful_rate"):
        assert e[name] == pytest.approx(e["mutual_information_model"])
    assert e["marginal_kl"] == pytest.approx(0, abs=1e-12)
    assert e["shuffle_gap"] > e["mutual_information"]
    # x and z under the two orders of drawing are the same joint density.
    gain, covariance = exact.true_posterior()
    torch.testing.assert_close(gain, exact.gain)
    torch.testing.assert_close(covariance, exact.variance.diag())


@pytest.mark.parametrize("correlated", [False, True])
def test_the_true_posterior_is_the_conditional_of_the_joint(correlated):
    model = random_model(generator(3), 4, 3, correlated=correlated)
    gain, covariance = model.true_posterior()
    cross = model.prior_covariance @ model.loading.T
    expected = cross @ torch.linalg.inv(model.covariance())
    torch.testing.assert_close(gain, expected)
    torch.testing.assert_close(covariance, model.prior_covariance - expected @ cross.T)


@pytest.mark.parametrize("correlated", [False, True])
def test_no_diagonal_posterior_is_better_than_the_best(correlated):
    g = generator(4)
    model = random_model(g, 4, 3, correlated=correlated).best_diagonal()
    precision = torch.linalg.inv(model.true_posterior()[1])
    least = model.exact()["negative_elbo"]
    gap = 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision))
    assert least - model.exact()["nll"] == pytest.approx(float(gap))
    for name in ("gain", "shift", "variance"):
        for _ in range(20):
            part = getattr(model, name)
            change = 0.01 * normal(g, *part.shape)
            moved = replace(model, **{name: part + change * (part if name == "variance" else 1)})
            assert moved.exact()["negative_elbo"] > least


def test_values_on_other_data_are_those_of_its_covariance():
    g = generator(5)
    model, other = random_model(g, 4, 2), spd(g, 4)
    x = model.mean + normal(g, 60_000, 4) @ torch.linalg.cholesky(other).T
    exact = model.exact(other)
    within(model.exact_nll(x), exact["nll"])
    within(model.exact_distortion(x), exact["distortion"])
    within(model.exact_kl(x), exact["kl"])
    z = model.posterior(x).mean
    right, wrong = (model.log_likelihood(x, each).sum(1) for each in (z, z.roll(1, 0)))
    within(right - wrong, exact["shuffle_gap"])
    aggregate = torch.cov(z.T) + model.variance.diag()
    information = 0.5 * (torch.logdet(aggregate) - model.variance.log().sum())
    assert exact["mutual_information"] == pytest.approx(float(information), abs=0.02)


def test_an_autoencoder_has_the_least_distortion_and_pays_for_it():
    g = generator(6)
    optimum = random_model(g, 5, 2).best_diagonal()
    data = optimum.covariance()
    model = optimum.autoencoder(spread=5.0, width=0.02)
    e, before = model.exact(data), optimum.exact()
    assert e["distortion"] < before["distortion"]
    assert e["mutual_information"] > before["mutual_information"] + 2
    assert e["marginal_kl"] > 10
    for _ in range(20):
        moved = replace(model, gain=model.gain + 0.05 * normal(g, 2, 5))
        assert moved.exact(data)["distortion"] > e["distortion"]
    codes = 5.0 * torch.linalg.pinv(optimum.loading) @ optimum.loading
    torch.testing.assert_close(model.gain @ optimum.loading, codes)


# Linear-Gaussian models: per sentence


@pytest.mark.parametrize("correlated", [False, True])
def test_values_of_a_sentence(correlated):
    g = generator(7)
    model = random_model(g, 6, 3, correlated=correlated)
    x = model.draw(4, g)
    of_x = MultivariateNormal(model.mean, model.covariance())
    torch.testing.assert_close(model.exact_nll(x), -of_x.log_prob(x))
    q, p = model.posterior(x), model.prior(x)
    full = MultivariateNormal(q.mean, model.variance.diag())
    plain = MultivariateNormal(torch.zeros(3).double(), model.prior_covariance)
    torch.testing.assert_close(model.exact_kl(x), kl_divergence(full, plain))
    z = normal(g, 4, 3)
    torch.testing.assert_close(q.log_prob(z), full.log_prob(z))
    torch.testing.assert_close(p.log_prob(z), plain.log_prob(z))
    given = MultivariateNormal(z @ model.loading.T + model.mean, model.noise)
    torch.testing.assert_close(model.log_likelihood(x, z).sum(1), given.log_prob(x))
    for i in range(4):
        many = x[i].expand(20_000, -1)
        drawn = q.mean[i] + model.variance.sqrt() * normal(g, 20_000, 3)
        within(-model.log_likelihood(many, drawn).sum(1), float(model.exact_distortion(x)[i]))


def test_log_likelihood_is_told_by_position():
    g = generator(8)
    model = replace(random_model(g, 6, 2), positions=3)
    x, z = model.draw(5, g), normal(g, 5, 2)
    nats = model.log_likelihood(x, z)
    mean = z @ model.loading.T + model.mean
    # The density of the first t parts by itself is the sum of their terms.
    for t in range(1, 4):
        first = MultivariateNormal(mean[:, : 2 * t], model.noise[: 2 * t, : 2 * t])
        torch.testing.assert_close(nats[:, :t].sum(1), first.log_prob(x[:, : 2 * t]))


def test_draws_have_the_moments_of_the_model():
    g = generator(9)
    model = random_model(g, 4, 2, correlated=True)
    x = model.draw(40_000, g)
    for i in range(4):
        within(x[:, i], float(model.mean[i]))
        for j in range(4):
            products = (x[:, i] - model.mean[i]) * (x[:, j] - model.mean[j])
            within(products, float(model.covariance()[i, j]))
    assert torch.equal(model.draw(3, generator(1)), model.draw(3, generator(1)))


def test_a_correlated_prior_is_drawn_from_noise():
    g = generator(10)
    model = random_model(g, 4, 2, correlated=True)
    z = model.prior(torch.zeros(40_000, 4)).from_noise(normal(g, 40_000, 2))
    for i in range(2):
        for j in range(2):
            within(z[:, i] * z[:, j], float(model.prior_covariance[i, j]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gain": torch.zeros(2, 3).double()}, "gain"),
        ({"mean": torch.zeros(3).double()}, "mean"),
        ({"noise": torch.eye(4)}, "float64"),
        ({"variance": torch.tensor([1.0, 0.0]).double()}, "positive"),
        ({"positions": 3}, "positions"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(random_model(generator(0), 4, 2), **change)


def test_only_a_standard_prior_may_be_turned():
    with pytest.raises(ValueError, match="turned"):
        random_model(generator(0), 4, 2, correlated=True).with_exact_posterior()


# Linear VAE


def spectrum(g, size):
    return (1.2 * normal(g, size)).exp().sort(descending=True).values


@pytest.mark.parametrize("seed", SEEDS)
def test_linear_vae_has_the_closed_forms_of_its_optimum(seed):
    g = generator(seed)
    x, d = 4 + seed % 3, 1 + seed % 3
    eigenvalues = spectrum(g, x)
    s2 = float(eigenvalues[d:].mean())
    first = eigenvalues[:d]
    model = linear_vae(eigenvalues, d)
    e = model.exact(eigenvalues.diag())
    nll = 0.5 * (x * math.log(2 * math.pi) + float(first.log().sum()) + (x - d) * math.log(s2) + x)
    information = 0.5 * float((first / s2).log().sum())
    assert e["nll"] == pytest.approx(nll)
    assert e["nll"] == pytest.approx(model.exact()["nll"])
    for name in ("kl", "mutual_information", "useful_rate", "mutual_information_model"):
        assert e[name] == pytest.approx(information)
    for name in ("marginal_kl", "total_correlation", "dimension_kl"):
        assert e[name] == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(model.variance, s2 / first)
    means = model.gain @ eigenvalues.diag() @ model.gain.T
    torch.testing.assert_close(means, (1 - s2 / first).diag())
    assert e["active_units"] == (1 - s2 / first > 0.01).sum()


def test_no_decoder_near_it_is_likelier():
    g = generator(11)
    eigenvalues = spectrum(g, 5)
    model = linear_vae(eigenvalues, 2)
    data = eigenvalues.diag()
    least = model.exact(data)["nll"]
    for _ in range(30):
        moved = replace(model, loading=model.loading + 0.05 * normal(g, 5, 2))
        assert moved.exact(data)["nll"] >= least
        assert moved.best_diagonal().exact(data)["negative_elbo"] >= least
        louder = replace(model, noise=model.noise * (0.1 * normal(g, 1)).exp())
        assert louder.exact(data)["nll"] >= least


@pytest.mark.parametrize("seed", SEEDS)
def test_turning_the_latent_costs_the_approximation_gap_and_nothing_else(seed):
    g = generator(seed)
    eigenvalues = spectrum(g, 6)
    turn = rotation(g, 3)
    aligned, turned = linear_vae(eigenvalues, 3), linear_vae(eigenvalues, 3, turn)
    s2 = float(eigenvalues[3:].mean())
    m = turn.T @ eigenvalues[:3].diag() @ turn  # W'W + s^2 I
    gap = 0.5 * float(m.diagonal().log().sum() - eigenvalues[:3].log().sum())
    e = turned.exact()
    assert gap > 0
    assert e["nll"] == pytest.approx(aligned.exact()["nll"])
    assert e["mutual_information_model"] == pytest.approx(aligned.exact()["kl"])
    assert e["negative_elbo"] - e["nll"] == pytest.approx(gap)
    torch.testing.assert_close(turned.variance, s2 / m.diagonal())


def test_linear_vae_of_any_covariance_is_the_one_of_its_axes():
    g = generator(12)
    covariance, mean = spd(g, 5), normal(g, 5)
    model = fitted_linear_vae(covariance, 2, mean)
    aligned = linear_vae(torch.linalg.eigvalsh(covariance).flip(0), 2)
    assert model.exact(covariance) == pytest.approx(aligned.exact(), abs=1e-12)
    assert torch.equal(model.mean, mean)
    # Within the D axes the covariance of the data is met exactly.
    axes = torch.linalg.eigh(covariance)[1][:, -2:]
    torch.testing.assert_close(axes.T @ model.covariance() @ axes, axes.T @ covariance @ axes)


@pytest.mark.parametrize(
    ("eigenvalues", "latent", "message"),
    [
        ([1.0, 2.0], 1, "descending"),
        ([2.0, 0.0], 1, "positive"),
        ([2.0, 1.0], 2, "latent"),
        ([2.0, 1.0], 0, "latent"),
        ([1.0, 1.0], 1, "above"),
    ],
)
def test_a_spectrum_without_an_optimum_is_refused(eigenvalues, latent, message):
    with pytest.raises(ValueError, match=message):
        linear_vae(torch.tensor(eigenvalues, dtype=torch.float64), latent)


# Sequences


def parts_of_a_sequence(seed, size=0.5):
    g = generator(seed)
    return size * normal(g, 2, 2, 2), normal(g, 2, 2), spd(g, 2), 5


def in_order_of_writing(x, steps):
    return x.reshape(len(x), steps, -1)


def test_positions_of_a_sequence_are_its_recursion():
    transitions, loading, noise, steps = parts_of_a_sequence(1)
    model = linear_sequence(transitions, loading, noise, steps)
    g = generator(2)
    x = model.draw(7, g)
    # z is turned: what it turned by is what the first step shows of it.
    turn = torch.linalg.solve(loading, model.loading[:2])
    torch.testing.assert_close(turn @ turn.T, torch.eye(2).double())
    z = normal(g, 7, 2)
    nats = model.log_likelihood(x, z)
    steps_of = in_order_of_writing(x, steps)
    for t in range(steps):
        mean = z @ turn.T @ loading.T
        for j in range(1, min(t, 2) + 1):
            mean = mean + steps_of[:, t - j] @ transitions[j - 1].T
        expected = MultivariateNormal(mean, noise).log_prob(steps_of[:, t])
        torch.testing.assert_close(nats[:, t], expected)


@pytest.mark.parametrize("size", [0.0, 0.3, 0.9, 2.0])
def test_information_does_not_depend_on_the_history(size):
    transitions, loading, noise, steps = parts_of_a_sequence(3, size)
    model = linear_sequence(transitions, loading, noise, steps)
    precision = torch.eye(2) + steps * loading.T @ torch.linalg.inv(noise) @ loading
    e = model.exact()
    for name in ("kl", "mutual_information", "useful_rate", "mutual_information_model"):
        assert e[name] == pytest.approx(0.5 * float(torch.logdet(precision)))
    expected = torch.linalg.eigvalsh(precision)
    torch.testing.assert_close((1 / model.variance).sort().values, expected)
    # Lambda^-1 (1 (x) B)' (I (x) Q^-1) L x, in the turned z.
    x = model.draw(3, generator(4))
    steps_of = in_order_of_writing(x, steps)
    left = torch.stack(
        [
            steps_of[:, t]
            - sum(
                (steps_of[:, t - j] @ transitions[j - 1].T for j in range(1, min(t, 2) + 1)),
                start=torch.zeros(3, 2).double(),
            )
            for t in range(steps)
        ]
    ).sum(0)
    mean = left @ torch.linalg.solve(noise, loading) @ torch.linalg.inv(precision)
    turn = torch.linalg.solve(loading, model.loading[:2])
    torch.testing.assert_close(model.posterior(x).mean, mean @ turn)


def test_a_window_over_all_that_the_model_looks_at_loses_nothing():
    model = random_sequence(generator(5))
    data = model.covariance()
    for window in (2, 3, 6):
        same = windowed(model, window)
        torch.testing.assert_close(same.covariance(), data)
        assert same.exact(data) == pytest.approx(model.exact(), abs=1e-9)


def test_a_shorter_window_costs_likelihood():
    model = replace(random_sequence(generator(6)), mean=normal(generator(6), 12))
    data = model.covariance()
    nlls = [windowed(model, window).exact(data)["nll"] for window in (2, 1, 0)]
    assert nlls[0] == pytest.approx(model.exact()["nll"])
    assert nlls[0] + 0.01 < nlls[1]
    assert nlls[0] + 0.01 < nlls[2]
    # Its posterior is exact for its own density, whatever the sentences are.
    e = windowed(model, 1).exact(data)
    assert e["negative_elbo"] == pytest.approx(e["nll"])
    assert torch.equal(windowed(model, 1).mean, model.mean)


def test_without_a_window_steps_are_independent_given_the_latent():
    model = random_sequence(generator(7))
    alone = windowed(model, 0)
    blocks = [model.noise[i : i + 2, i : i + 2] for i in range(0, 12, 2)]
    torch.testing.assert_close(alone.noise, torch.block_diag(*blocks))
    own = alone.loading @ alone.loading.T
    torch.testing.assert_close(own, model.loading @ model.loading.T)


def test_a_windowed_decoder_sees_its_window_only_and_makes_the_best_of_it():
    g = generator(8)
    model = random_sequence(g)
    short = windowed(model, 1)
    x, z = model.draw(3, g), normal(g, 3, 2)
    changed = x.clone()
    changed[:, :2] += 1  # the first step
    moved = (short.log_likelihood(changed, z) - short.log_likelihood(x, z)).abs() > 1e-9
    assert moved.all(0).tolist() == [True, True, False, False, False, False]
    # Regression of x_4 on x_3 and z, from draws of the model.
    n, now, seen = 200_000, slice(6, 8), slice(4, 6)
    z = normal(g, n, 2)
    noise = normal(g, n, 12) @ torch.linalg.cholesky(model.noise).T
    x = z @ model.loading.T + noise
    seen_and_z = torch.cat([x[:, seen], z], 1)
    solution = torch.linalg.lstsq(seen_and_z, x[:, now]).solution
    left = x[:, now] - seen_and_z @ solution
    found = windowed(model, 1)
    turn = torch.linalg.lstsq(model.loading[:2], found.loading[:2]).solution
    by_draws = MultivariateNormal(torch.zeros(2).double(), left.T @ left / n).log_prob(left)
    by_model = found.log_likelihood(x, z @ turn)[:, 3]
    torch.testing.assert_close(by_model[:50], by_draws[:50], atol=0.05, rtol=0)


@pytest.mark.parametrize("window", [0, 1, 3])
def test_history_gap_is_a_difference_of_entropies(window):
    model = random_sequence(generator(9))
    covariance = model.covariance()

    def entropy(start, stop):
        part = covariance[2 * start : 2 * stop, 2 * start : 2 * stop]
        return float(MultivariateNormal(torch.zeros(len(part)).double(), part).entropy())

    def given(start, t):
        return entropy(start, t + 1) - (entropy(start, t) if t > start else 0.0)

    gap = history_gap(model, window)
    expected = [given(max(0, t - window), t) - given(0, t) for t in range(6)]
    np.testing.assert_allclose(gap, expected, atol=1e-9)
    assert gap[window + 1 :].min() > 0
    assert gap[: window + 1].abs().max() == 0


def test_windows_are_checked():
    model = random_sequence(generator(0))
    with pytest.raises(ValueError, match="window"):
        windowed(model, -1)
    with pytest.raises(ValueError, match="prior"):
        windowed(replace(model, prior_covariance=2 * torch.eye(2).double()), 1)


# Latents that vary in time


def random_dynamics(seed, *, a=0.7, steps=6, observed=3, channels=2):
    g = generator(seed)
    return linear_dynamics(a, normal(g, observed, channels), spd(g, observed), steps)


@pytest.mark.parametrize("a", [0.0, 0.3, 0.95])
def test_the_innovations_are_the_joint_density(a):
    model = random_dynamics(1, a=a)
    x = model.draw(9, generator(2))
    joint = MultivariateNormal(torch.zeros(18).double(), model.flat.covariance())
    torch.testing.assert_close(model.exact_nll(x), -joint.log_prob(x.flatten(1)))
    # The prior is the bench's own, and the joint density was built on it.
    z = normal(generator(3), 9, 6, 2)
    flat = MultivariateNormal(torch.zeros(12).double(), model.flat.prior_covariance)
    torch.testing.assert_close(model.prior(x).log_prob(z), flat.log_prob(z.flatten(1)))


def test_the_best_posterior_has_the_mean_of_the_smoother():
    a, model = 0.7, random_dynamics(4)
    c, r = model.emission, model.observation_noise
    eye = torch.eye(2).double()
    x = model.draw(5, generator(5))
    # Rauch, Tung and Striebel (1965).
    means, covariances, ahead = [], [], []
    mean, covariance = torch.zeros(5, 2).double(), eye
    for t in range(6):
        ahead.append((mean, covariance))
        gain = covariance @ c.T @ torch.linalg.inv(c @ covariance @ c.T + r)
        means.append(mean + (x[:, t] - mean @ c.T) @ gain.T)
        covariances.append((eye - gain @ c) @ covariance)
        mean, covariance = a * means[-1], a**2 * covariances[-1] + (1 - a**2) * eye
    for t in range(4, -1, -1):
        mean, covariance = ahead[t + 1]
        back = a * covariances[t] @ torch.linalg.inv(covariance)
        means[t] = means[t] + (means[t + 1] - mean) @ back.T
        covariances[t] = covariances[t] + back @ (covariances[t + 1] - covariance) @ back.T
    torch.testing.assert_close(model.posterior(x).mean, torch.stack(means, 1))
    marginals = model.flat.true_posterior()[1].diagonal().reshape(6, 2)
    torch.testing.assert_close(marginals, torch.stack([v.diagonal() for v in covariances]))
    # A factorised posterior is narrower than the marginals of the true one.
    assert (model.flat.variance.reshape(6, 2) < marginals).all()


def test_information_of_the_dynamics():
    model = random_dynamics(6)
    information = 0.5 * (
        torch.logdet(model.flat.covariance()) - 6 * torch.logdet(model.observation_noise)
    )
    e = model.exact()
    assert e["mutual_information_model"] == pytest.approx(float(information))
    assert e["nll"] < e["negative_elbo"]
    assert e["useful_rate"] < e["mutual_information"] < e["kl"]


@pytest.mark.parametrize("a", [0.0, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("steps", [2, 3, 20])
def test_the_floor_is_the_committed_rate_and_tells_nothing(a, steps):
    model = random_dynamics(7, a=a, steps=steps).at_floor()
    e = model.exact()
    delta = 2 * committed_rate(a, steps)
    assert e["kl"] == pytest.approx(delta, abs=1e-9)
    assert e["mutual_information"] == pytest.approx(0, abs=1e-12)
    assert e["active_units"] == 0
    assert e["shuffle_gap"] == pytest.approx(0, abs=1e-12)
    inner = (1 - a * a) / (1 + a * a)
    expected = torch.full((steps, 2), inner).double()
    expected[[0, -1]] = 1 - a * a
    torch.testing.assert_close(model.flat.variance.reshape(steps, 2), expected)
    # No factorised posterior is below it, whatever it tells.
    g = generator(8)
    assert model.best_factorised().exact()["kl"] >= delta
    for _ in range(10):
        flat = replace(
            model.flat,
            gain=0.1 * normal(g, *model.flat.gain.shape),
            variance=model.flat.variance * (0.3 * normal(g, 2 * steps)).exp(),
        )
        assert replace(model, flat=flat).exact()["kl"] > delta


@pytest.mark.parametrize(("a", "steps"), [(1.0, 5), (-0.1, 5), (0.5, 1)])
def test_dynamics_are_checked(a, steps):
    with pytest.raises(ValueError, match="a: must"):
        random_dynamics(0, a=a, steps=steps)


# The bench against the truth


def evaluated(model, x, samples, seed=1):
    arrays = evaluate(Scored(model), Rows.of(x), samples=samples, batch=len(x), seed=seed)
    assert {a.dtype for a in arrays.values() if a.dtype.kind == "f"} == {np.dtype(np.float64)}
    return arrays


def distances(model, x, arrays):
    """By how many standard errors every estimate is off: of a bracket, the truth outside of it."""

    def off(values, expected):
        error = np.std(values, ddof=1) / np.sqrt(len(values))
        return (np.mean(values) - expected) / max(error, 1e-9)

    exact = model.exact()
    kl = arrays["kl"].sum(1)
    distortion = arrays["distortion"]
    nll = importance_weighted_nll(arrays["log_weights"], arrays["draws"])
    shuffled = -distortion - arrays["shuffled_log_likelihood"]
    information = mutual_information(
        *(arrays[f"posterior_{part}"] for part in ("sample", "mean", "scale")), arrays["log_prior"]
    )
    below = -off(information.upper, exact["mutual_information"])
    above = off(information.lower, exact["mutual_information"])
    # Of the very sentences, so that only the draws of z are random. The mean weight over p(x) is 1
    # without any bias, where the NLL is an upper bound.
    of_sentence = {
        "distortion given x": off(distortion - model.exact_distortion(x).numpy(), 0),
        "weight over p(x)": off(np.exp(model.exact_nll(x).numpy() - nll), 1),
    }
    if arrays["kl"].shape == arrays["posterior_mean"].shape:
        np.testing.assert_allclose(kl, model.exact_kl(x), rtol=1e-9)
    else:  # no closed form is known to the bench
        of_sentence["kl given x"] = off(kl - model.exact_kl(x).numpy(), 0)
    return {
        "kl": off(kl, exact["kl"]),
        "distortion": off(distortion, exact["distortion"]),
        "nll": off(nll, exact["nll"]),
        "useful_rate": off(nll - distortion, exact["useful_rate"]),
        "shuffle_gap": off(shuffled, exact["shuffle_gap"]),
        "mutual_information": max(below, above, 0.0),
        **of_sentence,
    }


def moderate(exact):
    """Whether some hundred sentences and tens of draws are enough to tell the values at all."""
    gap = exact["negative_elbo"] - exact["nll"]
    return exact["mutual_information"] < 2.5 and exact["kl"] < 5 and gap < 1.0


def test_estimates_of_a_hundred_models_are_within_their_errors():
    g = generator(13)
    found = {}
    models = 0
    while models < 100:
        latent, observed = (int(torch.randint(a, b, (), generator=g)) for a, b in [(1, 7), (2, 11)])
        model = random_model(g, observed, latent, correlated=models % 10 == 0, strength=0.4)
        if not moderate(model.exact()):
            continue
        x = model.draw(400, g)
        for name, distance in distances(
            model, x, evaluated(model, x, samples=64, seed=models)
        ).items():
            found.setdefault(name, []).append(abs(distance))
        models += 1
    for name, values in found.items():
        assert np.mean(np.array(values) <= 3) >= 0.99, name


@pytest.mark.parametrize("floor", [False, True])
def test_estimates_of_the_dynamics_are_within_their_errors(floor):
    g = generator(14)
    model = linear_dynamics(0.6, 0.5 * normal(g, 3, 2), spd(g, 3), 3)
    model = model.at_floor() if floor else model
    x = model.draw(500, g)
    arrays = evaluated(model, x, samples=64)
    if floor:
        np.testing.assert_allclose(arrays["kl"].sum(1), 2 * committed_rate(0.6, 3), rtol=1e-12)
    for name, distance in distances(model, x, arrays).items():
        assert abs(distance) < 4, name
