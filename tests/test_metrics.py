"""Information, likelihood and units against closed forms, brute force and numbers by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import logsumexp
from scipy.stats import norm
from torch.distributions import Independent, Normal

from collapse_bench.metrics.active_units import active_units
from collapse_bench.metrics.likelihood import (
    effective_sample_size,
    importance_weighted_nll,
    monte_carlo_error,
    perplexity,
    proposal_draws,
)
from collapse_bench.metrics.mutual_information import mutual_information
from collapse_bench.metrics.pairs import log_density_matrix


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def posteriors(rng, n=17, d=3, spread=1.0):
    """A draw from each of n posteriors, their means and scales."""
    mean = spread * rng.normal(size=(n, d))
    scale = np.exp(0.5 * rng.normal(size=(n, d)))
    return mean + scale * rng.normal(size=(n, d)), mean, scale


def under(prior, z):
    """log p(z) of draws under a normal of this scale."""
    return norm.logpdf(z, 0, prior).sum(axis=1)


# Mutual information


@pytest.mark.parametrize("d", [1, 2, 33])
@pytest.mark.parametrize("n", [2, 64, 700])
def test_equal_posteriors_carry_no_information(rng, n, d):
    mean = np.broadcast_to(rng.normal(size=d), (n, d))
    scale = np.broadcast_to(np.exp(rng.normal(size=d)), (n, d))
    z = mean + scale * rng.normal(size=(n, d))
    # Under a prior that is the aggregate posterior; zero draw by draw, and not only in the mean.
    information = mutual_information(z, mean, scale, norm.logpdf(z, mean, scale).sum(axis=1))
    np.testing.assert_allclose(information.lower, 0, atol=1e-11)
    np.testing.assert_allclose(information.upper, 0, atol=1e-11)
    # Of any other prior the upper bound has but its part in the mixture.
    information = mutual_information(z, mean, scale, under(1.0, z))
    assert (information.upper <= -math.log1p(-1 / n) + 1e-11).all()


@pytest.mark.parametrize("n", [2, 100, 513])
def test_posteriors_that_never_meet_carry_log_n(n):
    mean = np.arange(n, dtype=np.float64)[:, None] * [100.0, -50.0]
    z, ones = mean + 0.5, np.ones((n, 2))
    information = mutual_information(z, mean, ones, under(100.0 * n, z))
    np.testing.assert_allclose(information.lower, math.log(n), rtol=1e-12)
    assert (information.upper > math.log(n)).all()
    ratio = log_density_matrix(z[:1], mean[:1], ones[:1])[0, 0] - under(100.0 * n, z)
    assert (information.upper <= ratio + math.log(n) + 1e-5).all()


def test_two_groups_of_equal_posteriors_carry_one_bit():
    mean = np.repeat([[0.0], [1000.0]], 32, axis=0)
    information = mutual_information(mean, mean, np.ones((64, 1)), np.full(64, -1e9))
    np.testing.assert_allclose(information.lower, math.log(2), rtol=1e-12)
    # Leave-one-out alone would say log(63 / 31); a prior that is nowhere takes its 1/64.
    np.testing.assert_allclose(information.upper, math.log(64 / 31), rtol=1e-12)


@given(
    n=st.integers(2, 40), d=st.integers(1, 5), spread=st.floats(0, 100), seed=st.integers(0, 99)
)  # fmt: skip
def test_each_term_keeps_within_its_bounds(n, d, spread, seed):
    z, mean, scale = posteriors(np.random.default_rng(seed), n, d, spread)
    own, prior = norm.logpdf(z, mean, scale).sum(axis=1), under(1.0, z)
    information = mutual_information(z, mean, scale, prior)
    assert (information.lower <= math.log(n) + 1e-9).all()
    # The prior in place of oneself: higher wherever one's own density is the higher one.
    assert (information.upper >= information.lower - 1e-9)[own >= prior].all()
    assert (information.upper <= own - prior + math.log(n) + 1e-9).all()


@pytest.mark.parametrize("noise", [0.3, 1.0, 3.0])
def test_a_linear_gaussian_channel_lies_between_the_bounds(rng, noise):
    n, d = 1500, 2
    mean = rng.normal(size=(n, d))
    scale = np.full((n, d), noise)
    z = mean + scale * rng.normal(size=(n, d))
    information = mutual_information(z, mean, scale, under(1.0, z))
    true = 0.5 * d * math.log(1 + noise**-2)
    lower, upper = (
        (terms.mean(), 4 * terms.std(ddof=1) / math.sqrt(n)) for terms in information
    )  # fmt: skip
    assert lower[0] - lower[1] <= true <= upper[0] + upper[1]
    assert upper[0] - lower[0] < 0.2
    assert lower[0] == pytest.approx(true, abs=lower[1] + 0.1)


def brute_force(z, mean, scale, log_prior):
    """Both bounds from the whole N x N matrix, one density at a time."""
    n = len(z)
    matrix = np.array(
        [
            [
                sum(
                    -0.5 * ((z[i, k] - mean[j, k]) / scale[j, k]) ** 2
                    - math.log(scale[j, k])
                    - 0.5 * math.log(2 * math.pi)
                    for k in range(z.shape[1])
                )
                for j in range(n)
            ]
            for i in range(n)
        ]
    )
    own = np.diag(matrix)
    instead = [np.append(np.delete(matrix[i], i), log_prior[i]) for i in range(n)]
    lower, upper = (own - (logsumexp(each, axis=1) - math.log(n)) for each in (matrix, instead))
    return lower, upper


@pytest.mark.parametrize(("n", "d"), [(2, 1), (3, 4), (17, 3), (30, 1)])
def test_both_bounds_equal_the_brute_force(rng, n, d):
    arrays = *posteriors(rng, n, d), rng.normal(-3, 2, size=n)
    for terms, expected in zip(mutual_information(*arrays), brute_force(*arrays), strict=True):
        np.testing.assert_allclose(terms, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("rows", [1, 2, 16, 17, 18])
def test_the_size_of_a_chunk_changes_nothing(rng, monkeypatch, rows):
    arrays = *posteriors(rng, n=17), rng.normal(size=17)
    whole = mutual_information(*arrays)
    monkeypatch.setattr("collapse_bench.metrics.pairs.ROWS", rows)
    for terms, expected in zip(mutual_information(*arrays), whole, strict=True):
        np.testing.assert_allclose(terms, expected, rtol=1e-12, atol=1e-12)


def test_a_common_shift_of_all_posteriors_changes_nothing(rng):
    z, mean, scale = posteriors(rng)
    prior = under(1.0, z)
    shifted = mutual_information(z + 1e4, mean + 1e4, scale, prior)
    for terms, expected in zip(shifted, mutual_information(z, mean, scale, prior), strict=True):
        np.testing.assert_allclose(terms, expected, atol=1e-7)


def test_single_precision_arrays_are_scored_in_double(rng):
    arrays = [array.astype(np.float32) for array in (*posteriors(rng), rng.normal(size=17))]
    information = mutual_information(*arrays)
    assert information.lower.dtype == information.upper.dtype == np.float64
    exact = mutual_information(*[array.astype(np.float64) for array in arrays])
    np.testing.assert_array_equal(information.lower, exact.lower)


@pytest.mark.parametrize(("n", "d"), [(1, 3), (1, 0), (6, 0)])
def test_nothing_to_tell_apart_is_zero_information(rng, n, d):
    for terms in mutual_information(*posteriors(rng, n, d), np.zeros(n)):
        np.testing.assert_array_equal(terms, np.zeros(n))


@pytest.mark.parametrize("d", [0, 1, 5])
def test_log_densities_are_those_of_torch(rng, d):
    z = rng.normal(size=(4, d))
    _, mean, scale = posteriors(rng, 7, d)
    posterior = Independent(Normal(*map(torch.from_numpy, (mean, scale))), 1)
    expected = posterior.log_prob(torch.from_numpy(z)[:, None])
    np.testing.assert_allclose(log_density_matrix(z, mean, scale), expected, atol=1e-12)


# Likelihood


def linear_gaussian(rng, n, samples, spread=1.0):
    """Log weights of z ~ N(0, 1), x ~ N(z, 1) under a posterior `spread` times too wide.

    Returns [N, S] and the log evidence [N].
    """
    x = rng.normal(scale=math.sqrt(2), size=(n, 1))
    mean, scale = x / 2, spread * math.sqrt(0.5)
    z = mean + scale * rng.normal(size=(n, samples))

    def log_normal(value, mean, scale):
        return -0.5 * ((value - mean) / scale) ** 2 - np.log(scale * math.sqrt(2 * math.pi))

    weights = log_normal(x, z, 1) + log_normal(z, 0, 1) - log_normal(z, mean, scale)
    return weights, log_normal(x, 0, math.sqrt(2))[:, 0]


@pytest.mark.parametrize("samples", [1, 8])
def test_nll_is_exact_where_the_posterior_is(rng, samples):
    weights, evidence = linear_gaussian(rng, 20, samples)
    np.testing.assert_allclose(importance_weighted_nll(weights), -evidence, rtol=1e-12)
    np.testing.assert_allclose(effective_sample_size(weights), samples, rtol=1e-9)


def test_nll_is_an_upper_bound_that_more_samples_tighten(rng):
    weights, evidence = linear_gaussian(rng, 20_000, 64, spread=1.8)
    gaps = [importance_weighted_nll(weights[:, :s]) + evidence for s in (1, 2, 4, 16, 64)]
    means = [gap.mean() for gap in gaps]
    errors = [gap.std() / math.sqrt(len(gap)) for gap in gaps]
    # With one sample the gap is KL(q || p(z|x)), known in closed form.
    exact = 0.5 * (1.8**2 - 1 - 2 * math.log(1.8))
    assert means[0] == pytest.approx(exact, abs=4 * errors[0])
    for wide, tight, error in zip(means[:-1], means[1:], errors[:-1], strict=True):
        assert wide - tight > 4 * error
    assert 0 < means[-1] < 0.02


def test_nll_by_hand():
    weights = np.log([[1.0, 3.0], [0.5, 0.5]])
    np.testing.assert_allclose(importance_weighted_nll(weights), -np.log([2.0, 0.5]))
    np.testing.assert_allclose(effective_sample_size(weights), [16 / 10, 2])


def test_weights_of_long_sentences_neither_underflow_nor_round_to_single():
    weights = np.array([[-5000.0, -5000.0 - math.log(3)], [1e4, 1e4]], dtype=np.float32)
    nll = importance_weighted_nll(weights)
    np.testing.assert_allclose(nll, [5000 + math.log(1.5), -1e4], atol=3e-4)
    assert nll.dtype == np.float64
    np.testing.assert_allclose(effective_sample_size(weights), [1.6, 2], atol=1e-3)


@given(
    n=st.integers(1, 5), samples=st.integers(1, 20), spread=st.floats(0, 500),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_effective_sample_size_is_from_one_to_all(n, samples, spread, seed):
    weights = spread * np.random.default_rng(seed).normal(size=(n, samples)) - 100
    size = effective_sample_size(weights)
    assert size.shape == (n,)
    assert ((size >= 1 - 1e-9) & (size <= samples * (1 + 1e-9))).all()


@pytest.mark.parametrize(
    ("samples", "split"),
    [
        (1, (1, 0)), (2, (1, 1)), (8, (7, 1)), (16, (14, 2)), (100, (88, 12)),
        (1, (1, 0, 0)), (2, (1, 0, 1)), (3, (2, 0, 1)), (4, (2, 1, 1)), (8, (4, 2, 2)),
        (32, (16, 8, 8)), (101, (51, 25, 25)),
    ],
)  # fmt: skip
def test_draws_of_each_stratum(samples, split):
    assert proposal_draws(samples, len(split)) == split


@pytest.mark.parametrize("strata", [2, 3])
def test_the_draws_of_a_round_are_among_those_of_the_next(strata):
    counts = np.array([proposal_draws(samples, strata) for samples in range(1, 300)])
    np.testing.assert_array_equal(counts.sum(1), np.arange(1, 300))
    assert (np.diff(counts, axis=0) >= 0).all()


def test_one_weight_above_all_others_is_one_effective_sample():
    np.testing.assert_allclose(effective_sample_size(np.array([[0.0, -200, -300]])), 1)


def test_nll_of_fewer_draws_for_some_sentences():
    nothing = -math.inf
    weights = np.log([[1.0, 3.0, 2.0], [4.0, 1.0, 1.0]])
    weights[1, 1:] = nothing
    nll = importance_weighted_nll(weights, np.array([3, 1]))
    np.testing.assert_allclose(nll, -np.log([2.0, 4.0]))
    np.testing.assert_allclose(effective_sample_size(weights), [36 / 14, 1])
    with np.errstate(divide="ignore"):
        again = importance_weighted_nll(np.insert(weights, 1, nothing, axis=1), np.array([3, 1]))
    np.testing.assert_array_equal(again, nll)


# Monte-Carlo error


def test_equal_weights_have_no_error():
    error = monte_carlo_error([np.full((3, 7), -800.0), np.full((3, 1), -800.0)])
    np.testing.assert_array_equal(error, np.zeros(3))
    # What differs between the strata is known, and no error.
    error = monte_carlo_error([np.full((3, 56), -1.0), np.full((3, 8), -5.0)])
    np.testing.assert_array_equal(error, np.zeros(3))


def test_a_single_draw_tells_nothing_of_its_error():
    error = monte_carlo_error([np.zeros((3, 1))])
    assert error.tolist() == [math.inf] * 3


def test_monte_carlo_error_by_hand():
    # Each number twice: sums of 8 and 18, and variances of 4 / 3 and 12 / 5 for one draw.
    of_q, of_p = np.log([[1.0, 3, 1, 3]]), np.log([[2.0, 2, 5, 2, 2, 5]])
    expected = math.sqrt(4 * 4 / 3 + 6 * 12 / 5) / 26
    np.testing.assert_allclose(monte_carlo_error([of_q, of_p]), [expected])
    np.testing.assert_allclose(monte_carlo_error([of_p, of_q]), [expected])
    np.testing.assert_allclose(monte_carlo_error([of_q]), [math.sqrt(4 * 4 / 3) / 8])
    # One draw of a stratum shows no variation: 1, 3, 1, 3, 2 are as from one, with variance 1.
    np.testing.assert_allclose(monte_carlo_error([of_q, of_p[:, :1]]), [math.sqrt(5) / 10])
    np.testing.assert_allclose(monte_carlo_error([of_p[:, :1], of_q]), [math.sqrt(5) / 10])
    # Two such strata that together are large enough count as one: 2, 2 and 5, 2 vary by 9 / 4.
    small = [of_p[:, :2], of_p[:, 2:4]]
    expected = math.sqrt(4 * 4 / 3 + 4 * 9 / 4) / 19
    np.testing.assert_allclose(monte_carlo_error([of_q, *small]), [expected])
    np.testing.assert_allclose(monte_carlo_error([small[0], of_q, small[1]]), [expected])


@given(shift=st.floats(-1e4, 1e4), seed=st.integers(0, 99))
def test_the_scale_of_the_weights_does_not_matter_to_their_error(shift, seed):
    rng = np.random.default_rng(seed)
    of_q, of_p = 3 * rng.normal(size=(4, 56)), 3 * rng.normal(size=(4, 8))
    np.testing.assert_allclose(
        monte_carlo_error([of_q + shift, of_p + shift]), monte_carlo_error([of_q, of_p]), rtol=1e-9
    )


@pytest.mark.parametrize(
    "strata",
    [
        ((56, 0.0, 0.5), (8, -1.0, 0.3)),
        ((56, 0.0, 0.2), (8, 2.0, 0.6)),  # most of it from the prior's draws
        ((32, 0.0, 0.5), (16, 0.5, 0.4), (16, -1.0, 0.3)),
        ((64, -300.0, 0.4),),
    ],
)
def test_the_error_of_log_normal_weights_is_the_spread_of_their_log_mean(rng, strata):
    parts = [mean + scale * rng.normal(size=(20_000, count)) for count, mean, scale in strata]
    predicted = monte_carlo_error(parts)
    nll = importance_weighted_nll(np.concatenate(parts, axis=1))
    assert math.sqrt((predicted**2).mean()) == pytest.approx(nll.std(), rel=0.05)
    # In closed form, by the delta method.
    sums = [(n * math.exp(m + s * s / 2), n * math.exp(2 * m + s * s) * math.expm1(s * s))
            for n, m, s in strata]  # fmt: skip
    exact = math.sqrt(sum(variance for _, variance in sums)) / sum(mean for mean, _ in sums)
    assert nll.std() == pytest.approx(exact, rel=0.05)


def test_perplexity_by_hand():
    # Weighted by tokens: not the mean of 2 and 4.
    nll = np.array([3 * math.log(2), math.log(4)])
    assert perplexity(nll, np.array([3, 1])) == pytest.approx(2 ** (5 / 4))


# Active units


def test_active_units_by_hand():
    # Variances with N - 1: 2, 0.5, 0, 0.0098, and 0.0128, which with N would be 0.0064.
    mean = [[1, 0.5, 7, 0.07, 0.08], [-1, -0.5, 7, -0.07, -0.08]]
    assert active_units(np.array(mean, dtype=np.float32)) == 3
    assert active_units(np.array(mean), threshold=1) == 1
    assert active_units(np.array(mean), threshold=1e-9) == 4


def test_a_constant_far_from_zero_is_not_active():
    mean = np.full((1000, 2), 1e8 / 3, dtype=np.float32)
    assert active_units(mean) == 0


@pytest.mark.parametrize("shape", [(1, 4), (0, 4), (5, 0)])
def test_where_nothing_can_vary_no_unit_is_active(shape):
    assert active_units(np.ones(shape)) == 0
