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

ROWS = 512
"""Rows of the N x N matrix that are held at once."""


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
    quadratic = z**2 @ precision.T - 2 * z @ (mean * precision).T + (mean**2 * precision).sum(1)
    return np.asarray(
        -0.5 * quadratic - np.log(scale).sum(1) - 0.5 * z.shape[1] * np.log(2 * np.pi)
    )


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
        own = density[row, start + row].copy()
        lower[start + row] = own - (logsumexp(density, axis=1) - np.log(n))
        density[row, start + row] = -np.inf
        upper[start + row] = own - (logsumexp(density, axis=1) - np.log(n - 1))
    return Information(lower, upper)
