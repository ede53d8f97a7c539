"""What posteriors tell: parts of the rate, units, attributes and probes, against closed forms."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, norm

from collapse_bench.metrics.active_units import (
    THRESHOLDS,
    active_units,
    effective_units,
    relative_active_units,
    variance_shares,
    whitened_active_units,
)
from collapse_bench.metrics.labels import entropy, information_about
from collapse_bench.metrics.mutual_information import (
    batched_mutual_information,
    decomposition,
    dimension_information,
    moment_kl,
    mutual_information,
)
from collapse_bench.metrics.pairs import normal_pairs
from collapse_bench.metrics.probe import probe_information


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def posteriors(rng, n=17, d=3, spread=1.0):
    """A draw from each of n posteriors, their means and scales."""
    mean = spread * rng.normal(size=(n, d))
    scale = np.exp(0.3 * rng.normal(size=(n, d)))
    return mean + scale * rng.normal(size=(n, d)), mean, scale


def told(z, mean, scale):
    """Terms of the lower bound on I."""
    return mutual_information(z, mean, scale, np.zeros(len(z))).lower


def within_error(terms, exact, bias=0.0):
    """The mean of the terms is the exact number to four standard errors and a bias."""
    return abs(terms.mean() - exact) <= 4 * terms.std(ddof=1) / math.sqrt(len(terms)) + bias


# Single dimensions, and what the rate is made of


def test_each_dimension_of_a_gaussian_channel_tells_its_own(rng):
    n, noise = 1200, np.array([0.5, 1.0, 4.0])
    mean = rng.normal(size=(n, 3))
    scale = np.tile(noise, (n, 1))
    terms = dimension_information(mean + scale * rng.normal(size=(n, 3)), mean, scale)
    for j, exact in enumerate(0.5 * np.log1p(noise**-2)):
        # The mixture of 1,200 posteriors is not quite the aggregate.
        assert within_error(terms[:, j], exact, bias=0.01)


def test_a_dimension_is_scored_as_if_it_were_alone(rng):
    z, mean, scale = posteriors(rng, n=30, d=2)
    terms = dimension_information(z, mean, scale)
    matrix = norm.logpdf(z[:, None], mean, scale)  # [N, N, D]
    own = matrix[np.arange(30), np.arange(30)]
    brute_force = own - logsumexp(matrix, axis=1) + math.log(30)
    np.testing.assert_allclose(terms, brute_force, atol=1e-10)


def test_total_correlation_of_a_rotated_gaussian_is_that_of_its_correlations(rng):
    n, noise, angle = 2500, 0.6, 0.7
    x = rng.normal(size=(n, 2)) * [1.5, 0.4]
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    mean, scale = x @ rotation.T, np.full((n, 2), noise)
    z = mean + scale * rng.normal(size=(n, 2))
    covariance = rotation @ np.diag([1.5**2, 0.4**2]) @ rotation.T + noise**2 * np.eye(2)
    correlation = covariance[0, 1] / math.sqrt(covariance[0, 0] * covariance[1, 1])
    rate = 0.5 * (mean**2 + scale**2 - 2 * np.log(scale) - 1).sum(axis=1)
    parts = decomposition(rate, told(z, mean, scale), dimension_information(z, mean, scale))
    variance = np.diag(covariance)
    exact = (
        0.5 * (np.trace(covariance) - 2 - np.linalg.slogdet(covariance).logabsdet),
        -0.5 * math.log(1 - correlation**2),
        0.5 * (variance - 1 - np.log(variance)).sum(),
    )
    assert exact[1] > 0.2
    for terms, expected in zip(parts, exact, strict=True):
        assert within_error(terms, expected, bias=0.02)


@given(seed=st.integers(0, 99), d=st.integers(0, 4), n=st.integers(1, 12))
def test_the_parts_of_the_rate_add_up_sentence_by_sentence_and_in_the_mean(seed, d, n):
    rng = np.random.default_rng(seed)
    arrays = posteriors(rng, n, d)
    rate, information = rng.gamma(2, size=n), told(*arrays)
    dimensions = dimension_information(*arrays)
    assert dimensions.shape == (n, d)
    terms = decomposition(rate, information, dimensions)
    np.testing.assert_allclose(
        information + terms.total_correlation + terms.dimension_kl, rate, atol=1e-12
    )
    np.testing.assert_allclose(
        terms.total_correlation + terms.dimension_kl, terms.marginal_kl, atol=1e-12
    )
    means = decomposition(rate.mean(), information.mean(), dimensions.mean(axis=0))
    np.testing.assert_allclose(means, [part.mean() for part in terms], atol=1e-12)


def test_two_copies_of_a_dimension_tell_it_twice(rng):
    z, mean, scale = posteriors(rng, n=50, d=1)
    z, mean, scale = (np.hstack([array, array]) for array in (z, mean, scale))
    dimensions = dimension_information(z, mean, scale)
    np.testing.assert_array_equal(dimensions[:, 0], dimensions[:, 1])


# Moments of the aggregate posterior


def test_moment_kl_is_that_of_two_normals(rng):
    n, d = 6, 3
    _, mean, scale = posteriors(rng, n, d, spread=2.0)
    m, second = mean.mean(axis=0), scale**2 + mean**2
    covariance = np.cov(mean.T, ddof=0) + np.diag((scale**2).mean(axis=0))
    # Under a standard normal prior the expectation of log p(z) is known.
    log_prior = -0.5 * (second + math.log(2 * math.pi)).sum(axis=1)
    exact = 0.5 * (np.trace(covariance) + m @ m - d - math.log(np.linalg.det(covariance)))
    assert moment_kl(mean, scale, log_prior) == pytest.approx(exact, rel=1e-10)


def test_moment_kl_under_a_dependent_prior_is_zero_where_it_is_met(rng):
    # Posteriors of an exact linear-Gaussian model, x given z being z and noise of variance 1.
    n, prior = 4000, np.array([[1.0, 0.9], [0.9, 1.0]])
    gain = prior @ np.linalg.inv(prior + 0.5 * np.eye(2))
    z = rng.multivariate_normal(np.zeros(2), prior, size=n)
    mean = z @ gain.T
    # The best diagonal one leaves out some covariance: what is left over is all there is to see.
    scale = np.tile(np.sqrt(np.diag(prior - gain @ prior)), (n, 1))
    draws = mean + scale * rng.normal(size=(n, 2))
    aggregate = gain @ prior @ gain.T + np.diag(scale[0] ** 2)
    ratio = np.linalg.solve(prior, aggregate)
    exact = 0.5 * (np.trace(ratio) - 2 - math.log(np.linalg.det(ratio)))
    log_prior = multivariate_normal.logpdf(draws, np.zeros(2), prior)
    assert moment_kl(mean, scale, log_prior) == pytest.approx(exact, abs=0.06)
    assert moment_kl(mean, scale, np.full(n, log_prior.mean())) == pytest.approx(
        moment_kl(mean, scale, log_prior), rel=1e-9
    )


def test_moment_kl_is_below_the_marginal_kl_of_two_far_groups():
    # Half of the posteriors at 4 and half at -4: by quadrature, under a standard normal prior.
    mean, scale = np.array([[4.0], [-4.0]]), np.full((2, 1), 0.5)

    def integrand(z):
        density = norm.pdf(z, mean, scale).mean()
        return density * (math.log(density) - norm.logpdf(z))

    exact = sum(quad(integrand, at - 3.5, at + 3.5, limit=200)[0] for at in (4.0, -4.0))
    log_prior = -0.5 * (mean**2 + scale**2 + math.log(2 * math.pi)).sum(axis=1)
    bound = moment_kl(mean, scale, log_prior)
    assert 0 < bound < exact - 0.5


def test_moment_kl_of_one_sentence_is_its_rate_and_of_no_latent_nothing(rng):
    mean, scale = np.array([[1.0, -2.0]]), np.array([[0.5, 2.0]])
    log_prior = -0.5 * (mean**2 + scale**2 + math.log(2 * math.pi)).sum(axis=1)
    rate = 0.5 * (mean**2 + scale**2 - 2 * np.log(scale) - 1).sum()
    assert moment_kl(mean, scale, log_prior) == pytest.approx(rate)
    assert moment_kl(np.ones((5, 0)), np.ones((5, 0)), np.zeros(5)) == 0


# Mutual information in batches


def test_batches_cap_what_the_full_sum_sees(rng):
    n, d, noise = 1500, 8, 0.3
    mean, scale = rng.normal(size=(n, d)), np.full((n, d), noise)
    z = mean + scale * rng.normal(size=(n, d))
    batched = batched_mutual_information(z, mean, scale, rng.integers(5, 9, size=n))
    error = 4 * batched.std() / math.sqrt(n)
    assert batched.mean() <= math.log(32) + error
    # The posteriors hardly meet: all but the last batch of a length are at their cap.
    assert batched.mean() > math.log(32) - 0.2 - error
    assert told(z, mean, scale).mean() > batched.mean() + 3


def test_batches_are_of_one_length_and_in_order(rng):
    z, mean, scale = posteriors(rng, n=9, d=2)
    tokens = np.array([4, 7, 4, 4, 7, 4, 3, 4, 7])
    terms = batched_mutual_information(z, mean, scale, tokens, batch=3)
    for rows in ([6], [0, 2, 3], [5, 7], [1, 4, 8]):
        for i in rows:
            matrix = norm.logpdf(z[i], mean[rows], scale[rows]).sum(axis=1)
            entropy_of_q = norm.entropy(mean[i], scale[i]).sum()
            expected = -entropy_of_q - (logsumexp(matrix) - math.log(len(rows)))
            assert terms[i] == pytest.approx(expected, abs=1e-10)


def test_batches_of_one_length_cannot_see_the_length(rng):
    tokens = np.repeat([5, 6, 7, 8], 64)
    mean, scale = tokens[:, None] * 10.0, np.ones((256, 1))
    z = mean + rng.normal(size=(256, 1))
    assert within_error(batched_mutual_information(z, mean, scale, tokens), 0.0)
    assert told(z, mean, scale).mean() == pytest.approx(math.log(4), abs=1e-4)


# Active units


def test_the_share_of_a_channel_is_its_information(rng):
    n, noise = 20_000, np.array([0.5, 1.0, 4.0])
    mean, scale = rng.normal(size=(n, 3)), np.tile(noise, (n, 1))
    shares = variance_shares(mean, scale)
    np.testing.assert_allclose(-0.5 * np.log1p(-shares), 0.5 * np.log1p(noise**-2), rtol=0.05)


def test_units_by_hand():
    # Variances of the means with N - 1: 2, 0.02 and 0; of the draws around them 2, 1.98 and 1.
    mean = np.array([[1.0, 0.1, 3.0], [-1.0, -0.1, 3.0]])
    scale = np.sqrt([[1.0, 1.98, 1.0], [3.0, 1.98, 1.0]])
    np.testing.assert_allclose(variance_shares(mean, scale), [0.5, 0.01, 0])
    counts = [relative_active_units(mean, scale, t) for t in (0.009, 0.011, 0.49, 0.51)]
    assert counts == [2, 1, 1, 0]
    assert active_units(mean) == 2
    # Two sentences differ in one direction only.
    assert whitened_active_units(mean, scale) == 1
    assert list(THRESHOLDS) == sorted(THRESHOLDS)


@given(seed=st.integers(0, 99), exponent=st.floats(-60, 60))
def test_units_do_not_change_with_the_scale_of_z(seed, exponent):
    rng = np.random.default_rng(seed)
    _, mean, scale = posteriors(rng, n=30, d=4)
    mean *= [1.0, 0.2, 0.05, 0.0]
    factors = 10.0 ** (exponent * rng.uniform(-1, 1, size=4))
    np.testing.assert_allclose(
        variance_shares(mean * factors, scale * factors), variance_shares(mean, scale), rtol=1e-9
    )
    for count in (relative_active_units, whitened_active_units):
        for threshold in THRESHOLDS:
            assert count(mean * factors, scale * factors, threshold) == count(
                mean, scale, threshold
            )


def test_whitened_units_do_not_change_with_rotation_where_plain_ones_do(rng):
    n, d = 400, 6
    mean = np.zeros((n, d))
    mean[:, :2] = rng.normal(size=(n, 2))
    # The same scale in every direction, so that rotated posteriors are still diagonal.
    scale = np.tile(rng.uniform(0.3, 0.7, size=(n, 1)), d)
    rotation = np.linalg.qr(rng.normal(size=(d, d))).Q
    assert active_units(mean) == whitened_active_units(mean, scale) == 2
    assert active_units(mean @ rotation) == relative_active_units(mean @ rotation, scale) == d
    assert whitened_active_units(mean @ rotation, scale) == 2


def test_the_share_of_an_oblique_direction_is_that_of_the_whitened_z():
    # Means of variance 2 along (1, 1) / sqrt(2), draws of variance 1 all around: 2 of 3.
    mean, scale = np.array([[1.0, 1.0], [-1.0, -1.0]]) / math.sqrt(2), np.ones((2, 2))
    assert [whitened_active_units(mean, scale, t) for t in (0.66, 0.67)] == [1, 0]


def test_whitened_units_count_copies_once(rng):
    mean = rng.normal(size=(300, 2))
    mean = np.hstack([mean, mean, 3 * mean])
    assert relative_active_units(mean, np.ones((300, 6))) == 6
    assert whitened_active_units(mean, np.ones((300, 6))) == 2


@pytest.mark.parametrize("shape", [(1, 4), (5, 0), (1, 0)])
def test_where_nothing_can_vary_no_unit_is_active(shape):
    ones = np.ones(shape)
    np.testing.assert_array_equal(variance_shares(ones, ones), np.zeros(shape[1]))
    assert relative_active_units(ones, ones) == whitened_active_units(ones, ones) == 0


def test_equal_sentences_have_no_unit():
    mean, scale = np.full((50, 3), 1e6 + 0.1), np.full((50, 3), 1e-3)
    assert relative_active_units(mean, scale) == whitened_active_units(mean, scale) == 0


def test_effective_units_by_hand():
    assert effective_units(np.array([0.7] * 5)) == pytest.approx(5)
    assert effective_units(np.array([2.0, 0.0, -0.5])) == pytest.approx(1)
    halves = math.exp(0.5 * math.log(2) + 0.5 * math.log(4))
    assert effective_units(np.array([1.0, 0.5, 0.5])) == pytest.approx(halves)
    assert effective_units(np.array([4e-4, 5e-4, -1.0])) == 0
    assert effective_units(np.array([6e-4, 6e-4])) == pytest.approx(2)
    assert effective_units(np.zeros(0)) == 0


# Attributes


@pytest.mark.parametrize("noise", [0.5, 1.0, 2.0])
def test_a_noisy_label_is_told_as_quadrature_says(rng, noise):
    labels = np.repeat(["no", "yes", "yes", "yes"], 300)
    mean = (labels == "yes").astype(float)[:, None]
    scale = np.full(mean.shape, noise)
    terms = information_about(
        {"answer": labels}, normal_pairs(mean + noise * rng.normal(size=mean.shape), mean, scale)
    )["answer"]

    def integrand(z, at):
        own = norm.pdf(z, at, noise)
        return own * np.log(own / (0.25 * norm.pdf(z, 0, noise) + 0.75 * norm.pdf(z, 1, noise)))

    parts = [quad(integrand, at - 12 * noise, at + 12 * noise, args=(at,))[0] for at in (0, 1)]
    assert within_error(terms, 0.25 * parts[0] + 0.75 * parts[1], bias=0.002)


@pytest.mark.parametrize("power", [1.0, 0.25])
def test_attributes_equal_the_brute_force(rng, monkeypatch, power):
    z, mean, scale = posteriors(rng, n=12, d=2)
    labels = {
        "three": np.array(list("abcabcabcabc")),
        "uneven": np.array([5, 5, 5, 5, 5, 5, 5, 2, 2, 9, 1, 5]),
    }
    monkeypatch.setattr("collapse_bench.metrics.labels.POWERS", (power,))
    got = information_about(labels, normal_pairs(z, mean, scale))
    assert list(got) == ["three", "uneven"]
    matrix = power * norm.logpdf(z[:, None], mean, scale).sum(axis=2)
    for name, values in labels.items():
        for i in range(12):
            others = np.arange(12) != i
            same = others & (values == values[i])
            expected = 0.0
            if same.any():
                expected = (logsumexp(matrix[i, same]) - math.log(same.sum())) - (
                    logsumexp(matrix[i, others]) - math.log(11)
                )
            assert got[name][i] == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize(("noise", "d"), [(0.5, 8), (0.5, 16), (0.2, 8)])
def test_what_else_a_rich_latent_tells_does_not_drown_the_label(rng, monkeypatch, noise, d):
    n = 800
    code = rng.integers(2, size=n)
    mean, scale = rng.normal(size=(n, d)), np.full((n, d), noise)
    mean[:, 0] = 3.0 * code
    arrays = mean + noise * rng.normal(size=(n, d)), mean, scale
    labels = {"told": code, "untold": rng.integers(2, size=n)}
    known, unknown = information_about(labels, normal_pairs(*arrays)).values()
    assert 0.2 < known.mean() < math.log(2) + 0.01
    assert abs(unknown.mean()) < 0.05
    # Bayes' rule alone would have it far below zero.
    monkeypatch.setattr("collapse_bench.metrics.labels.POWERS", (1.0,))
    assert information_about(labels, normal_pairs(*arrays))["untold"].mean() < -0.3


def test_labels_that_posteriors_hold_apart_are_told_whole():
    values = np.repeat(np.arange(4), 25)
    mean = 1e4 * values[:, None].astype(float)
    terms = information_about({"a": values}, normal_pairs(mean, mean, np.ones((100, 1))))["a"]
    np.testing.assert_allclose(terms, math.log(99 / 24), rtol=1e-9)
    assert entropy(values) == pytest.approx(math.log(4))


def test_labels_whose_posteriors_vanish_beside_another_are_looked_at_alone(monkeypatch):
    monkeypatch.setattr("collapse_bench.metrics.labels.POWERS", (1.0,))
    # The sentence at 0 has its label's only other one at 100, and a stranger at 1.
    mean, ones = np.array([[0.0], [100.0], [1.0]]), np.ones((3, 1))
    terms = information_about({"a": np.array([0, 0, 1])}, normal_pairs(mean, mean, ones))["a"]
    of_all = logsumexp([-5000.0, -0.5]) - math.log(2)
    assert terms[0] == pytest.approx(-5000 - of_all, rel=1e-9)
    assert terms[2] == 0


def test_labels_that_tell_nothing_are_exactly_zero(rng):
    n = 40
    arrays = posteriors(rng, n=n, d=2)
    labels = {"same": np.full(n, "x"), "unique": np.arange(n)}
    for terms in information_about(labels, normal_pairs(*arrays)).values():
        np.testing.assert_array_equal(terms, np.zeros(n))
    assert entropy(labels["same"]) == 0
    assert entropy(labels["unique"]) == pytest.approx(math.log(n))


def test_equal_posteriors_tell_nothing_of_any_label(rng):
    mean, scale = np.full((30, 2), 0.3), np.full((30, 2), 0.7)
    z = mean + scale * rng.normal(size=(30, 2))
    terms = information_about({"a": rng.integers(3, size=30)}, normal_pairs(z, mean, scale))["a"]
    np.testing.assert_allclose(terms, 0, atol=1e-12)


def test_the_number_of_rows_at_once_changes_nothing(rng, monkeypatch):
    arrays = posteriors(rng, n=17)
    labels = {"a": rng.integers(3, size=17)}
    whole = information_about(labels, normal_pairs(*arrays))["a"]
    for rows in (1, 16, 18):
        monkeypatch.setattr("collapse_bench.metrics.labels.ROWS", rows)
        np.testing.assert_allclose(
            information_about(labels, normal_pairs(*arrays))["a"], whole, atol=1e-12
        )


# The probe


def sentences(rng, n):
    """Lengths and first words; the third position has rare words only."""
    words = rng.integers(2, 5, size=(n, 3))
    words[:, 2] = rng.integers(0, n, size=n)
    return rng.integers(3, 30, size=n), words


def test_the_probe_finds_a_linear_gaussian_channel(rng):
    n = 4000
    tokens, words = sentences(rng, n)
    signal = np.stack([0.1 * tokens, 1.0 * (words[:, 0] == 2), 0.005 * tokens**2], axis=1)
    noise = np.array([0.6, 0.4, 0.9])
    z = signal + noise * rng.normal(size=(n, 3))
    # Known moments: the normal with and without the features differ by their covariances.
    covariance = np.cov(signal.T) + np.diag(noise**2)
    exact = 0.5 * (np.linalg.slogdet(covariance).logabsdet - 2 * np.log(noise).sum())
    assert exact > 1
    assert probe_information(z, tokens, words).mean() == pytest.approx(exact, rel=0.03)


def test_the_probe_learns_nothing_where_nothing_is_known(rng):
    n = 1500
    terms = probe_information(rng.normal(size=(n, 16)), *sentences(rng, n))
    assert abs(terms.mean()) < 0.05


def test_the_probe_is_blind_to_what_is_not_linear(rng):
    n = 1500
    tokens, words = sentences(rng, n)
    # The word is in the variance, and the interaction of two words in the mean.
    parity = (-1.0) ** ((words[:, 0] == 2) ^ (words[:, 1] == 2))
    z = np.stack([np.where(words[:, 0] == 3, 3.0, 0.1) * rng.normal(size=n), parity], axis=1)
    z -= z.mean(axis=0)
    z[:, 1] -= _explained(z[:, 1], words)
    assert abs(probe_information(z, tokens, words).mean()) < 0.05


def _explained(values, words):
    columns = [words[:, p] == w for p in (0, 1) for w in (2, 3, 4)]
    features = np.stack(columns, axis=1).astype(float)
    return features @ np.linalg.lstsq(features, values, rcond=None)[0]


def test_rare_words_have_no_coefficient(rng):
    n = 400
    tokens, words = np.full(n, 9), np.zeros((n, 3), dtype=int)
    words[:, 1] = np.arange(n) // 20  # some ten of each in either half
    z = (words[:, 1] % 2)[:, None] + 0.1 * rng.normal(size=(n, 1))
    np.testing.assert_array_equal(probe_information(z, tokens, words), np.zeros(n))
    # The same, of words that are frequent.
    words[:, 1] %= 2
    assert probe_information(z, tokens, words).mean() > 1


def test_the_probe_does_not_change_with_the_scale_of_z(rng):
    tokens, words = sentences(rng, 300)
    z = 0.1 * tokens[:, None] + rng.normal(size=(300, 3))
    terms = probe_information(z, tokens, words)
    scaled = probe_information(z * [1e-9, 1.0, 1e9] + [5e-8, -1.0, 0.0], tokens, words)
    np.testing.assert_allclose(scaled, terms, atol=1e-6)
    assert (probe_information(z, tokens, words, seed=1) != terms).any()


def test_the_probe_judges_no_sentence_by_itself(rng):
    # An outlier would be explained by a probe that had seen it.
    tokens, words = sentences(rng, 200)
    z = rng.normal(size=(200, 1))
    tokens[7], z[7] = 5000, 40.0
    assert probe_information(z, tokens, words)[7] < 0.5


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7])
def test_the_probe_of_few_sentences_is_finite(rng, n):
    terms = probe_information(rng.normal(size=(n, 3)), *sentences(rng, n))
    assert terms.shape == (n,)
    assert np.isfinite(terms).all()
    if n < 4:
        np.testing.assert_array_equal(terms, np.zeros(n))


def test_a_latent_that_does_not_vary_is_not_probed(rng):
    tokens, words = sentences(rng, 60)
    constant = np.full((60, 2), 0.1)
    np.testing.assert_array_equal(probe_information(constant, tokens, words), np.zeros(60))
    varying = 0.1 * tokens[:, None] + rng.normal(size=(60, 1))
    np.testing.assert_array_equal(
        probe_information(np.hstack([constant, varying]), tokens, words),
        probe_information(varying, tokens, words),
    )


# All of them


@given(seed=st.integers(0, 99), n=st.integers(2, 20), d=st.integers(1, 4))
def test_the_order_of_the_sentences_does_not_matter(seed, n, d):
    rng = np.random.default_rng(seed)
    z, mean, scale = posteriors(rng, n, d)
    labels = rng.integers(3, size=n)
    # Sentences of one length come in batches by their order: not more than fit into one.
    tokens = rng.integers(2, 5, size=n)
    order = rng.permutation(n)

    def metrics(rows):
        arrays = z[rows], mean[rows], scale[rows]
        per_sentence = [
            dimension_information(*arrays)[:, 0],
            information_about({"a": labels[rows]}, normal_pairs(*arrays))["a"],
            batched_mutual_information(*arrays, tokens[rows]),
        ]
        whole = [
            *variance_shares(*arrays[1:]),
            whitened_active_units(*arrays[1:]),
            moment_kl(*arrays[1:], np.zeros(n)),
        ]
        return np.stack(per_sentence), whole

    before, after = metrics(np.arange(n)), metrics(order)
    np.testing.assert_allclose(after[0], before[0][:, order], atol=1e-9)
    np.testing.assert_allclose(after[1], before[1], atol=1e-9)


@pytest.mark.parametrize(("n", "d"), [(1, 3), (1, 1), (1, 0), (6, 0)])
def test_one_sentence_or_no_latent_tells_nothing(rng, n, d):
    arrays = posteriors(rng, n, d)
    tokens, words = sentences(rng, n)
    labels = {"a": np.arange(n) % 2}
    np.testing.assert_array_equal(dimension_information(*arrays), np.zeros((n, d)))
    np.testing.assert_array_equal(batched_mutual_information(*arrays, tokens), np.zeros(n))
    np.testing.assert_array_equal(
        information_about(labels, normal_pairs(*arrays))["a"], np.zeros(n)
    )
    np.testing.assert_array_equal(probe_information(arrays[0], tokens, words), np.zeros(n))


def test_single_precision_arrays_are_scored_in_double(rng):
    arrays = [array.astype(np.float32) for array in posteriors(rng, n=40)]
    tokens, words = sentences(rng, 40)
    for measure, inputs in [
        (dimension_information, arrays),
        (lambda *a: batched_mutual_information(*a, tokens), arrays),
        (lambda *a: information_about({"a": tokens}, normal_pairs(*a))["a"], arrays),
        (variance_shares, arrays[1:]),
        (lambda z: probe_information(z, tokens, words), arrays[:1]),
    ]:
        exact = measure(*[array.astype(np.float64) for array in inputs])
        assert measure(*inputs).dtype == np.float64
        np.testing.assert_array_equal(measure(*inputs), exact)
