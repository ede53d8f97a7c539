"""A number over seeds and how far it may be off. Sentences are not seeds and never add to n."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

CONFIDENCE = 0.95

MANY = 10
"""Seeds from which on the interval is bootstrapped: with fewer, the resamples are too coarse."""

EXACT = 14
"""Seeds up to which every flip of the signs is looked at; beyond, 2^14 random ones."""

RESAMPLES = 9_999
SEED = 1

Interval = tuple[float, float]


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    Attributes:
        mean: over the seeds; NaN when any of them is not finite.
        seeds: how many seeds the mean is over.
        interval: where the mean over all seeds there could be lies with 95 % confidence: Student's
            below ten seeds, BCa from ten on; None of one seed or where the mean is NaN.
        error: standard error over sentences of a single seed, where its record carries one.
    """

    mean: float
    seeds: int
    interval: Interval | None = None
    error: float | None = None

    @property
    def above_zero(self) -> bool:
        """True if all of the interval over seeds is above 0; never true of a single seed."""
        return self.interval is not None and self.interval[0] > 0


def estimate(values: Sequence[float | None], error: float | None = None) -> Estimate | None:
    """Mean over seeds; None unless every seed has a value, so that no seed is left out unseen.

    Args:
        values: one a seed.
        error: standard error over sentences, used where there is a single seed.
    """
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    if len(known) == 1:
        return Estimate(known[0], 1, error=error)
    if not all(map(math.isfinite, known)):
        return Estimate(math.nan, len(known))
    interval = bca_interval(known) if len(known) >= MANY else t_interval(known)
    return Estimate(float(np.mean(known)), len(known), interval)


def t_interval(values: Sequence[float]) -> Interval:
    """Student's interval of a mean (Student 1908).

    Args:
        values: two or more, [n].
    """
    quantile = float(stats.t.isf((1 - CONFIDENCE) / 2, len(values) - 1))
    half = quantile * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    mean = float(np.mean(values))
    return mean - half, mean + half


def bca_interval(values: Sequence[float]) -> Interval:
    """Bias-corrected and accelerated bootstrap interval of a mean (Efron 1987, section 3).

    The resamples are the same at every call. Where all values are equal it is that value.

    Args:
        values: two or more, [n].
    """
    array = np.asarray(values, dtype=np.float64)
    if np.ptp(array) == 0:
        return float(array[0]), float(array[0])
    bounds = stats.bootstrap(
        (array,),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="BCa",
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    return float(bounds.low), float(bounds.high)


def sign_flip_p(differences: Sequence[float]) -> float:
    """Two-sided p of paired differences whose signs are exchangeable (Fisher 1935, section 21).

    The share of flips of the signs whose mean is as far from 0 as the observed one: exact up to 14
    differences, so never below 2^(1-n); beyond, from 2^14 random flips that are the same at every
    call, the observed one counted among them.

    Args:
        differences: one a seed, finite, [n].

    Raises:
        ValueError: there is no difference, or one is not finite.
    """
    array = np.asarray(differences, dtype=np.float64)
    n = len(array)
    if n == 0 or not np.isfinite(array).all():
        raise ValueError(f"a test needs finite differences, at least one, not {differences}")
    if n <= EXACT:
        flips = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
    else:
        flips = np.random.default_rng(SEED).integers(0, 2, (2**EXACT, n))
        flips[0] = 0
    sums = np.abs((1 - 2 * flips) @ array)
    # Equal sums differ by the order of their additions.
    return float(np.mean(sums >= sums[0] - 1e-12 * np.abs(array).sum()))


def holm(p_values: Sequence[float]) -> list[float]:
    """p adjusted for how many there are, step-down (Holm 1979), in the order given."""
    array = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(array, kind="stable")
    adjusted = np.empty(len(array))
    adjusted[order] = np.maximum.accumulate(array[order] * np.arange(len(array), 0, -1))
    return [float(p) for p in np.minimum(adjusted, 1)]


def interquartile_mean(tasks: Sequence[Sequence[float]]) -> float:
    """Mean without the upper and the lower quarter of all runs of all tasks (Agarwal et al. 2021).

    It cannot see how far off the runs are that it leaves out.

    Args:
        tasks: the values of each task's seeds, all in one unit.
    """
    return float(stats.trim_mean(np.concatenate([np.asarray(t, float) for t in tasks]), 0.25))


def interquartile_interval(tasks: Sequence[Sequence[float]]) -> Interval | None:
    """95 % percentile interval of the interquartile mean, by the bootstrap over seeds within each
    task (Agarwal et al. 2021, section 4.1); None where a task has a single seed.

    Args:
        tasks: as for `interquartile_mean`.
    """
    if min(map(len, tasks)) < 2:
        return None
    rng = np.random.default_rng(SEED)
    drawn: list[NDArray[np.float64]] = [
        rng.choice(np.asarray(task, dtype=np.float64), (RESAMPLES, len(task))) for task in tasks
    ]
    means = stats.trim_mean(np.concatenate(drawn, axis=1), 0.25, axis=1)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def probability_of_improvement(tasks: Sequence[tuple[Sequence[float], Sequence[float]]]) -> float:
    """P(X > Y), a tie counting half, mean over tasks (Mann and Whitney 1947; Agarwal et al. 2021).

    It cannot see by how much X is larger.

    Args:
        tasks: the values of X's seeds and of Y's in each task.
    """
    wins = [np.sign(np.subtract.outer(np.asarray(x), np.asarray(y))).mean() for x, y in tasks]
    return float((1 + np.mean(wins)) / 2)
