"""Mutual information between sentence and latent under the posterior, I_q(x; z).

I_q = E_x E_q(z|x) [log q(z|x) - log q(z)], with the aggregate posterior q(z) = (1/N) sum_j q(z|x_j)
over the whole split, never a batch: an estimate from B sentences cannot exceed log B. Both terms
are taken at the same draw, so that equal posteriors give exactly zero.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

Floats = NDArray[np.floating]

ROWS = 256
"""Rows of the N x N matrix that are held at once: memory is linear in N, time is quadratic."""


VANISHING = 1e-290
"""A sum of float64 numbers, the largest of them at most 1, that may have lost its digits."""


class Information(NamedTuple):
    """Per-sentence terms in nats, [N]; their means are the two bounds."""

    lower: Floats
    upper: Floats


def log_density_matrix(z: Floats, mean: Floats, scale: Floats) -> Floats:
    """log q(z_i | x_j) of diagonal normals, [M, N], in nats.

    Args:
        z: [M, D].
        mean: [N, D].
        scale: standard deviations, [N, D].
    """
    precision = scale**-2.0
    # -(z - mean)^2 / 2 scale^2, multiplied out: one product for all pairs.
    matrix = np.hstack([z**2, z]) @ np.hstack([-0.5 * precision, mean * precision]).T
    matrix -= (0.5 * mean**2 * precision + np.log(scale) + 0.5 * np.log(2 * np.pi)).sum(1)
    return np.asarray(matrix)


def mutual_information(z: Floats, mean: Floats, scale: Floats) -> Information:
    """A lower and an upper bound on I_q, from one draw a sentence.

    The lower one counts x_i's own posterior in q(z_i) and never exceeds log N (van den Oord et al.
    2018); the upper one leaves it out (Poole et al. 2019, section 2.3). Near zero either may be
    slightly negative. With one sentence both are zero: nothing is left to be told apart.

    Args:
        z: a draw from each posterior, [N, D].
        mean: posterior means, [N, D].
        scale: posterior standard deviations, [N, D].
    """
    z, mean, scale = (np.asarray(array, dtype=np.float64) for array in (z, mean, scale))
    n = len(z)
    if n < 2 or z.shape[1] == 0:
        return Information(np.zeros(n), np.zeros(n))
    mean, z = mean - mean.mean(0), z - mean.mean(0)
    lower, upper = np.empty(n), np.empty(n)
    for start in range(0, n, ROWS):
        density = log_density_matrix(z[start : start + ROWS], mean, scale)  # [R, N]
        row = np.arange(len(density))
        itself = (row, start + row)
        own, largest = density[itself], density.max(axis=1)
        density -= largest[:, None]
        relative = np.exp(density)
        lower[start + row] = own - largest - np.log(relative.sum(axis=1)) + np.log(n)
        relative[itself] = 0
        others = relative.sum(axis=1)
        # Where a posterior is so far above all others that these vanish beside it, they are looked
        # at by themselves.
        alone = others < VANISHING
        density[itself] = -np.inf
        log_others = np.log(others, where=~alone, out=np.empty_like(others))
        log_others[alone] = logsumexp(density[alone], axis=1)
        upper[start + row] = own - largest - log_others + np.log(n - 1)
    return Information(lower, upper)
