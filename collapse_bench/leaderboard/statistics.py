"""A number over seeds and how far it may be off. Sentences are not seeds and never add to n."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    Attributes:
        mean: over the seeds; NaN when any of them is.
        spread: half width of the interval over seeds, or, with one seed, the standard error
            over sentences that its record carries (None where it carries none).
        seeds: how many seeds the mean is over.
    """

    mean: float
    spread: float | None
    seeds: int


def t_half_width(values: Sequence[float], confidence: float = 0.95) -> float:
    """Half the width of the Student t interval of a mean; needs two values or more."""
    quantile = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1))
    return quantile * float(np.std(values, ddof=1)) / math.sqrt(len(values))


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
        return Estimate(known[0], error, 1)
    if not all(map(math.isfinite, known)):
        return Estimate(math.nan, None, len(known))
    return Estimate(float(np.mean(known)), t_half_width(known), len(known))
