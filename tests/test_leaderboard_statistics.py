"""Means over seeds, their intervals and tests, against closed forms and scipy."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from collapse_bench.leaderboard.markdown import number, shown
from collapse_bench.leaderboard.statistics import (
    Estimate,
    bca_interval,
    estimate,
    holm,
    interquartile_interval,
    interquartile_mean,
    probability_of_improvement,
    sign_flip_p,
    t_interval,
)


def test_the_interval_of_few_seeds_is_students():
    # Quantiles of one and two degrees of freedom have closed forms.
    low, high = t_interval([0.0, 2.0])
    assert (high - low) / 2 == pytest.approx(math.tan(math.pi * 0.475))
    assert (high + low) / 2 == 1.0
    quantile = 0.95 / math.sqrt(2 * 0.975 * 0.025)
    assert t_interval([1.0, 2.0, 3.0])[1] == pytest.approx(2 + quantile / math.sqrt(3))
    assert t_interval([4.0, 4.0, 4.0]) == (4.0, 4.0)


def test_from_ten_seeds_on_the_interval_is_bootstrapped():
    values = [float(v) for v in np.random.default_rng(0).exponential(size=10)]
    nine, ten = estimate(values[:9]), estimate(values)
    assert nine.interval == t_interval(values[:9])
    assert ten.interval == bca_interval(values) != t_interval(values)
    assert "±" in shown(nine)
    assert shown(ten).endswith("]")


def test_bca_follows_the_skew_and_tends_to_students():
    many = np.random.default_rng(1).normal(size=400)
    np.testing.assert_allclose(bca_interval(many), t_interval(many), atol=0.01)
    low, high = bca_interval([*np.linspace(0, 1, 11), 9.0])
    assert high - 14.5 / 12 > 14.5 / 12 - low > 0
    assert bca_interval([2.5] * 10) == (2.5, 2.5)


def test_bca_corrects_bias_and_acceleration():
    values = np.array([*np.linspace(0, 1, 11), 9.0])
    means = np.random.default_rng(3).choice(values, (40_000, len(values))).mean(axis=1)
    bias = stats.norm.ppf((means < values.mean()).mean())
    skew = values - values.mean()
    acceleration = (skew**3).sum() / (6 * (skew**2).sum() ** 1.5)
    corrected = bias + stats.norm.ppf([0.025, 0.975])
    levels = stats.norm.cdf(bias + corrected / (1 - acceleration * corrected))
    assert levels[0] > 0.03  # far from the 0.025 of the plain percentiles
    np.testing.assert_allclose(bca_interval(values), np.quantile(means, levels), rtol=0.05)


def test_an_estimate_leaves_no_seed_out():
    assert estimate([]) is None
    assert estimate([1.0, None]) is None
    assert estimate([1.5], 0.2) == Estimate(1.5, 1, error=0.2)
    assert shown(estimate([1.0, math.nan])) == "not finite"
    assert shown(estimate([1.0, 3.0], 0.2)) == "2.00 ± 12.71"
    assert shown(estimate([1.5], 0.25)) == "1.50 (0.25)"
    assert not estimate([1.5]).above_zero
    assert not estimate([1.0, 3.0]).above_zero
    assert not estimate([0.0, 0.0]).above_zero
    assert not estimate([-1.0, -1.1]).above_zero
    assert estimate([1.0, 1.1]).above_zero


def test_a_sign_flip_test_of_n_seeds_ends_at_2_to_the_1_minus_n():
    assert sign_flip_p([3.0]) == 1.0
    assert sign_flip_p([5.0, 4.0]) == 0.5
    assert sign_flip_p([-0.1] * 6) == 2.0**-5
    assert sign_flip_p([0.0, 0.0, 0.0]) == 1.0
    # The eight sums of +-1 +-2 +-4 are 7, 5, 3 and 1 from 0, two each.
    assert sign_flip_p([1.0, 2.0, -4.0]) == 1.0
    assert sign_flip_p([1.0, -2.0, 4.0]) == 0.75
    for broken in ([], [1.0, math.nan]):
        with pytest.raises(ValueError, match="finite"):
            sign_flip_p(broken)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(-9, 9).map(lambda x: round(x, 2)), min_size=2, max_size=8))
def test_the_sign_flip_test_is_scipys(differences):
    # Rounding, so that equal sums are equal in either order of addition.
    told = stats.permutation_test(
        (np.array(differences),),
        lambda x: round(abs(float(x.sum())), 6),
        permutation_type="samples",
        alternative="greater",
        vectorized=False,
        n_resamples=np.inf,
    )
    assert sign_flip_p(differences) == pytest.approx(told.pvalue)


def test_many_seeds_are_flipped_at_random_and_always_the_same_way():
    differences = np.random.default_rng(2).normal(0.5, 1, 40)
    p = sign_flip_p(differences)
    assert p == sign_flip_p(differences)
    assert p == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, rel=0.3)
    assert sign_flip_p([1.0] * 40) == 2.0**-14


def test_holm_by_hand():
    assert holm([]) == []
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.5, 0.001]) == pytest.approx([1.0, 1.0, 0.003])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_lies_between_no_correction_and_bonferronis(p):
    adjusted = holm(p)
    assert all(a <= b <= min(1, len(p) * a) + 1e-12 for a, b in zip(p, adjusted, strict=True))
    assert holm(p[::-1]) == adjusted[::-1]


def test_the_interquartile_mean_leaves_out_a_quarter_at_either_end():
    assert interquartile_mean([[-100.0, 1.0], [2.0, 100.0]]) == 1.5
    assert interquartile_mean([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 80.0]]) == 4.5
    assert interquartile_mean([[7.0]]) == 7.0


def test_its_interval_resamples_seeds_within_their_task():
    assert interquartile_interval([[1.0], [2.0, 3.0]]) is None
    assert interquartile_interval([[1.0, 1.0], [9.0, 9.0]]) == (5.0, 5.0)
    # Every resample keeps two of each task: the middle two are the larger and the smaller of them.
    assert interquartile_interval([[1.0, 2.0], [11.0, 12.0]]) == (6.0, 7.0)
    assert interquartile_interval([[0.0] * 7 + [1000.0], [0.0] * 8]) == (0.0, 0.0)


def test_probability_of_improvement_counts_ties_half():
    x, y = [1.0, 2.0, 3.0], [2.0, 0.0]
    u = stats.mannwhitneyu(x, y).statistic / 6
    assert probability_of_improvement([(x, y)]) == pytest.approx(u)
    assert probability_of_improvement([(x, y), (y, x)]) == 0.5
    assert probability_of_improvement([([1.0], [0.0]), ([1.0], [1.0])]) == 0.75


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (math.nan, "not finite"),
        (-math.inf, "not finite"),
        (-0.001, "0.00"),
        (1234.5, "1,234.50"),
    ],
)
def test_a_number_says_when_it_is_none(value, text):
    assert number(value) == text
