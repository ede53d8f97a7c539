"""Active units (Burda, Grosse and Salakhutdinov 2016, section 5.2), and counts that see more.

All are of the posterior alone: none can see whether the decoder listens.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]

THRESHOLD = 0.01

THRESHOLDS = (0.001, 0.05, 0.1, 0.2, 0.5)
"""Further variances at which active units are counted: their number at one says little."""

NO_INFORMATION = 1e-3
"""Nats up to which a sum of information over dimensions counts as none."""


def active_units(mean: Floats, threshold: float = THRESHOLD) -> int:
    """Latent dimensions whose posterior mean varies over sentences by more than the threshold.

    Args:
        mean: posterior means, [N, D]; with one sentence nothing varies.
        threshold: a variance, unbiased.
    """
    if len(mean) < 2:
        return 0
    return int((np.var(np.asarray(mean, dtype=np.float64), axis=0, ddof=1) > threshold).sum())


def variance_shares(mean: Floats, scale: Floats) -> Floats:
    """Share of each dimension's aggregate variance that is in the posterior mean, [D], 0 to 1.

    Var mean_j / (Var mean_j + E scale_j^2): unlike the variance alone it does not change with the
    scale of z. A normal channel with the share s tells -ln(1 - s) / 2 nats. It cannot see
    duplicates among dimensions.

    Args:
        mean: posterior means, [N, D]; with one sentence nothing varies.
        scale: posterior standard deviations, [N, D].
    """
    mean, scale = (np.asarray(array, dtype=np.float64) for array in (mean, scale))
    if len(mean) < 2:
        return np.zeros(mean.shape[1])
    between, within = np.var(mean, axis=0, ddof=1), (scale**2).mean(axis=0)
    return np.asarray(between / (between + within))


def relative_active_units(mean: Floats, scale: Floats, threshold: float = THRESHOLD) -> int:
    """Latent dimensions whose share of variance in the posterior mean is above the threshold.

    Args:
        mean: posterior means, [N, D].
        scale: posterior standard deviations, [N, D].
        threshold: a share, see `variance_shares`.
    """
    return int((variance_shares(mean, scale) > threshold).sum())


def whitened_active_units(mean: Floats, scale: Floats, threshold: float = THRESHOLD) -> int:
    """Directions of z whose share of variance in the posterior mean is above the threshold.

    Counted are the eigenvalues of Cov(mean) after z is whitened by the covariance of the aggregate
    posterior, Cov(mean) + E diag(scale^2): dimensions that tell the same count once, and neither
    scaling nor rotating z changes the count. Where sentences are not many times the dimensions the
    largest eigenvalues are too high by chance.

    Args:
        mean: posterior means, [N, D]; with one sentence nothing varies.
        scale: posterior standard deviations, [N, D].
        threshold: a share of variance.
    """
    signal = signal_to_noise(mean, scale)
    return int((signal / (1 + signal) > threshold).sum())


def signal_to_noise(mean: Floats, scale: Floats) -> Floats:
    """Variance of the posterior mean over that of the posterior, along the axes of z where the
    means are uncorrelated, [D].

    The eigenvalues of Cov(mean) after each dimension is divided by its root mean square posterior
    scale. No sum of large and small numbers is inverted, so nothing is ever singular.

    Args:
        mean: posterior means, [N, D]; with one sentence nothing varies.
        scale: posterior standard deviations, [N, D].
    """
    mean, scale = (np.asarray(array, dtype=np.float64) for array in (mean, scale))
    if len(mean) < 2 or mean.shape[1] == 0:
        return np.zeros(mean.shape[1])
    scaled = (mean - mean.mean(axis=0)) / np.sqrt((scale**2).mean(axis=0))
    return np.asarray(np.maximum(np.linalg.eigvalsh(scaled.T @ scaled / (len(mean) - 1)), 0))


def effective_units(per_dimension: Floats) -> float:
    """exp of the entropy of the dimensions' shares of information: from 1 to D, all equal.

    Negative information, which is noise around zero, counts as none. Where the sum is not above
    0.001 nats there are no shares, and it is 0. It cannot see duplicates among dimensions.

    Args:
        per_dimension: I_j in nats, [D].
    """
    information = np.maximum(np.asarray(per_dimension, dtype=np.float64), 0)
    if not information.sum() > NO_INFORMATION:
        return 0.0
    shares = information[information > 0] / information.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))
