"""What the decoder does with z: the bias of its NLL and its use of z, against closed forms."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from collapse_bench.metrics.decoder_use import shuffle_gap, useful_information, useful_rate
from collapse_bench.metrics.likelihood import (
    effective_sample_size,
    importance_weighted_nll,
    jackknife_nll,
    monte_carlo_error,
    monte_carlo_errors,
    nll_gain_of_doubling,
    proposal_draws,
)


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def within_error(terms, exact):
    """The mean of the terms is the exact number to four standard errors."""
    return abs(terms.mean() - exact) <= 4 * terms.std(ddof=1) / math.sqrt(len(terms))


# Bias of the NLL


def padded(log_weights, samples, strata=3):
    """Weights [N, K] as an evaluation of S draws leaves them: -inf where none was drawn."""
    counts = proposal_draws(log_weights.shape[1], strata)
    starts = np.cumsum([0, *proposal_draws(samples, strata)])
    wide = np.full((len(log_weights), samples), -np.inf)
    for part, start in zip(parts_of(log_weights, counts), starts, strict=False):
        wide[:, start : start + part.shape[1]] = part
    return wide


def parts_of(weights, counts):
    """Weights [..., K], taken apart by stratum."""
    return np.split(weights, np.cumsum(counts)[:-1], axis=-1)


def stratified(parts, counts):
    """NLL of one sentence from the weights of its strata, by hand."""
    means = [np.exp(part).mean() if len(part) else 0.0 for part in parts]
    return -math.log(np.average(means, weights=counts))


@pytest.mark.parametrize("strata", [2, 3])
@pytest.mark.parametrize("draws", [3, 8, 16, 32])
def test_the_halves_are_every_second_draw_of_each_stratum(rng, draws, strata):
    weights = rng.normal(size=(5, draws)) - 30
    counts = proposal_draws(draws, strata)
    expected = []
    for row in weights:
        parts = parts_of(row, counts)
        halves = [[part[i::2] if len(part) > 1 else part for part in parts] for i in (0, 1)]
        of_halves = sum(len(each[0]) / counts[0] * stratified(each, counts) for each in halves)
        expected.append(of_halves - stratified(parts, counts))
    count = np.full(5, draws)
    gain = nll_gain_of_doubling(padded(weights, 64, strata), count, strata)
    np.testing.assert_allclose(gain, expected, atol=1e-10)
    np.testing.assert_array_equal(gain, nll_gain_of_doubling(weights, count, strata))
    assert (gain > 0).all()


def test_halves_keep_the_shares_of_the_proposal():
    # Of 16 draws 8 are from the posterior, of weight 1, and 4 from the prior, of weight 9.
    weights = np.log(np.array([[1.0] * 8 + [2.0] * 4 + [9.0] * 4]))
    assert nll_gain_of_doubling(weights, np.array([16]), 3)[0] == pytest.approx(0, abs=1e-12)


def test_a_settled_nll_gains_nothing_and_of_one_draw_nothing_is_known(rng):
    weights = np.vstack([np.full((2, 8), -700.0), padded(np.full((1, 1), -3.0), 8)])
    gain = nll_gain_of_doubling(weights, np.array([8, 8, 1]), 3)
    np.testing.assert_allclose(gain[:2], 0, atol=1e-10)
    assert np.isnan(gain[2])
    assert np.isnan(nll_gain_of_doubling(np.zeros((2, 1)), np.ones(2, dtype=int), 3)).all()
    assert np.isnan(nll_gain_of_doubling(np.zeros((2, 2)), np.full(2, 2), 3)).all()


def test_gain_of_doubling_is_the_slope_of_the_bound(rng):
    weights = 0.8 * rng.normal(size=(20_000, 32))
    gain = nll_gain_of_doubling(weights, np.full(20_000, 32), 3)
    again = 0.8 * rng.normal(size=(20_000, 32))
    of_half = importance_weighted_nll(again[:, :16])
    difference = of_half.mean() - importance_weighted_nll(weights).mean()
    error = of_half.std() * math.sqrt(1.5 / 20_000)
    assert gain.mean() == pytest.approx(difference, abs=4 * error)
    assert gain.mean() > 0.01


@pytest.mark.parametrize("strata", [2, 3])
@pytest.mark.parametrize("draws", [2, 5, 9, 16])
@pytest.mark.parametrize("above", [0.0, 60.0])
def test_jackknife_leaves_out_one_draw_of_a_stratum_at_a_time(rng, above, draws, strata):
    weights = 2 * rng.normal(size=(4, draws)) - 30
    weights[:, 0] += above  # in a sum of all the others have no digit left
    counts, expected = proposal_draws(draws, strata), []
    for row in weights:
        parts = parts_of(row, counts)
        plain = corrected = stratified(parts, counts)
        for h, n in enumerate(counts):
            if n > 1:
                left = [
                    stratified([*parts[:h], np.delete(parts[h], i), *parts[h + 1 :]], counts)
                    for i in range(n)
                ]
                corrected -= (n - 1) * (np.mean(left) - plain)
        expected.append(corrected)
    count = np.full(4, draws)
    for each in (weights, padded(weights, 64, strata)):
        np.testing.assert_allclose(jackknife_nll(each, count, strata), expected, atol=1e-9)


def test_jackknife_is_no_worse_than_what_it_corrects_for_a_blind_decoder(rng):
    """p(x|z) = 1: the weight is p / r, whose mean is 1 whatever the posterior; here it is far."""
    n, draws, shift = 20_000, 16, 2.5
    of_q, of_p = proposal_draws(draws, 2)
    z = rng.normal(size=(n, draws)) + shift * (np.arange(draws) < of_q)
    log_q, log_p = norm.logpdf(z, shift), norm.logpdf(z)
    weights = log_p - np.logaddexp(log_q + math.log(of_q / draws), log_p + math.log(of_p / draws))
    plain = importance_weighted_nll(weights).mean()
    assert abs(jackknife_nll(weights, np.full(n, draws), 2).mean()) < max(plain, 0.01)


def test_jackknife_takes_most_of_the_bias_of_log_normal_weights(rng):
    spread, draws, n = 0.8, 16, 40_000
    weights = spread * rng.normal(size=(n, draws)) - spread**2 / 2  # mean 1: the NLL is 0
    plain = importance_weighted_nll(weights).mean()
    jackknife = jackknife_nll(weights, np.full(n, draws), 2)
    # The bias of the plain estimate, by the delta method.
    assert plain == pytest.approx(math.expm1(spread**2) / (2 * draws), rel=0.3)
    assert abs(jackknife.mean()) < plain / 4


def test_jackknife_where_there_is_nothing_to_leave_out_or_all_are_equal():
    weights = np.array([[-5.0, -np.inf, -np.inf], [-7.0, -7.0, -7.0]])
    np.testing.assert_allclose(jackknife_nll(weights, np.array([1, 3]), 2), [5.0, 7.0])
    assert jackknife_nll(np.array([[-5.0]]), np.array([1]), 2).tolist() == [5.0]


@pytest.mark.parametrize("gap", [30.0, 800.0, 5000.0])
def test_jackknife_is_finite_where_one_weight_is_above_all(gap):
    # Of three posterior draws it is one; left out, it leaves an estimate of gap.
    jackknife = jackknife_nll(np.array([[-gap, 0.0, -gap, -gap]]), np.array([4]), 2)
    left_out = (2 * math.log(8 / 3) + gap) / 3
    assert jackknife[0] == pytest.approx(3 * math.log(4) - 2 * left_out, rel=1e-9)


# Use of the decoder


def test_use_of_the_decoder_by_hand():
    nll, distortion = np.array([10.0, 8.0], dtype=np.float32), np.array([7.0, 9.0])
    np.testing.assert_array_equal(useful_rate(nll, distortion), [3, -1])
    np.testing.assert_array_equal(shuffle_gap(distortion, np.array([-12.0, -9.0])), [5, 0])
    assert useful_information(3.0, 2.0) == useful_information(2.0, 3.0) == 2.0


def test_of_a_linear_gaussian_model_the_rate_is_useful_and_the_shuffle_gap_more(rng):
    n, noise = 40_000, 0.5
    z_true = rng.normal(size=n)
    x = z_true + noise * rng.normal(size=n)
    mean, scale = x / (1 + noise**2), math.sqrt(noise**2 / (1 + noise**2))
    z = mean + scale * rng.normal(size=n)
    distortion = -norm.logpdf(x, z, noise)
    information = 0.5 * math.log1p(noise**-2)
    useful = useful_rate(-norm.logpdf(x, 0, math.sqrt(1 + noise**2)), distortion)
    assert within_error(useful, information)
    gap = shuffle_gap(distortion, norm.logpdf(x, np.roll(z, 1), noise))
    # I + KL(p(x)p(z) || p(x, z)): squares of x - z have the mean 2 + noise^2 across sentences.
    exact = (2 + noise**2) / (2 * noise**2) - 0.5
    assert within_error(gap, exact)
    assert exact > information


def test_a_decoder_that_ignores_z_has_no_use():
    log_likelihood = np.array([-3.0, -50.0])
    assert (useful_rate(-log_likelihood, -log_likelihood) == 0).all()
    assert (shuffle_gap(-log_likelihood, log_likelihood) == 0).all()


# Any draws


@given(seed=st.integers(0, 99), spread=st.floats(0, 300))
def test_any_draws_of_any_sentence_keep_the_order_of_the_bounds(seed, spread):
    rng = np.random.default_rng(seed)
    draws = rng.integers(1, 33, size=6)
    rows = [spread * rng.normal(size=(1, n)) - 200 for n in draws]
    weights = np.vstack([padded(row, 32) for row in rows])
    nll, gain = importance_weighted_nll(weights, draws), nll_gain_of_doubling(weights, draws, 3)
    size = effective_sample_size(weights)
    for i, row in enumerate(rows):
        # No mean is above the largest, nor below the mean of the logarithms.
        assert -row.max() - 1e-9 <= nll[i] <= -row.mean() + 1e-9
        assert 1 - 1e-9 <= size[i] <= draws[i] * (1 + 1e-9)
        counts = proposal_draws(int(draws[i]), 3)
        # Halves of equal size, or strata that both share: Jensen's inequality.
        others_halve = all(n <= 1 for n in counts[1:]) or all(n % 2 == 0 for n in counts)
        if counts[0] > 1 and others_halve:
            assert gain[i] >= -1e-9
    assert np.isfinite(jackknife_nll(weights, draws, 3)).all()


def test_the_error_of_each_sentence_is_that_of_its_own_draws(rng):
    draws = np.array([16, 8, 64, 16, 1])
    rows = [rng.normal(size=(1, n)) for n in draws]
    errors = monte_carlo_errors(np.vstack([padded(row, 64) for row in rows]), draws, 3)
    for row, n, error in zip(rows, draws, errors, strict=True):
        assert error == monte_carlo_error(parts_of(row, proposal_draws(int(n), 3)))[0]


def test_neither_order_nor_precision_of_the_arrays_matters(rng):
    draws = rng.integers(3, 33, size=30)
    weights = np.vstack([padded(rng.normal(size=(1, n)), 32) for n in draws]).astype(np.float32)
    order = rng.permutation(30)
    for measure in (jackknife_nll, nll_gain_of_doubling, monte_carlo_errors):
        whole = measure(weights, draws, 3)
        assert whole.dtype == np.float64
        np.testing.assert_array_equal(whole, measure(weights.astype(np.float64), draws, 3))
        np.testing.assert_allclose(
            measure(weights[order], draws[order], 3), whole[order], rtol=1e-12
        )
