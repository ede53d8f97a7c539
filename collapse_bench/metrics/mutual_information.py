"""Mutual information between sentence and latent under the posterior, I_q(x; z).

I_q = E_x E_q(z|x) [log q(z|x) - log q(z)], with the aggregate posterior q(z) = (1/N) sum_j q(z|x_j)
over the whole split, never a batch: an estimate from B sentences cannot exceed log B. Both terms
are taken at the same draw, so that equal posteriors give exactly zero. Here is also what a rate is
made of besides: its information, dimension by dimension, and its marginal KL.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from collapse_bench.metrics.active_units import signal_to_noise

Floats = NDArray[np.floating]

ROWS = 256
"""Rows of the N x N matrix that are held at once: memory is linear in N, time is quadratic."""

LOG_2_PI_E = float(np.log(2 * np.pi)) + 1
"""Twice the entropy of a standard normal in one dimension."""

VANISHING = 1e-290
"""A sum of float64 numbers, the largest of them at most 1, that may have lost its digits."""


class Information(NamedTuple):
    """Per-sentence terms in nats, [N]; their means are the two bounds."""

    lower: Floats
    upper: Floats


class Decomposition(NamedTuple):
    """What a rate is made of besides mutual information, in nats; of the shape of the rate."""

    marginal_kl: Floats
    total_correlation: Floats
    dimension_kl: Floats


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


def dimension_information(z: Floats, mean: Floats, scale: Floats) -> Floats:
    """Terms of the lower bound on I_q(x; z_j) of each single dimension with the sentence, [N, D].

    Their means over sentences are the I_j, in nats. They cannot see whether two dimensions tell the
    same, for which see `decomposition`, nor whether the decoder listens. With one sentence all are
    zero.

    Args:
        z: a draw from each posterior, [N, D].
        mean: posterior means, [N, D].
        scale: posterior standard deviations, [N, D].
    """
    terms = np.empty_like(z, dtype=np.float64)
    for j in range(z.shape[1]):
        terms[:, j] = mutual_information(z[:, [j]], mean[:, [j]], scale[:, [j]]).lower
    return terms


def entropy_of_normal(scale: Floats) -> Floats:
    """H of diagonal normals, -E log q, in nats, [N].

    Args:
        scale: standard deviations, [N, D].
    """
    return np.asarray((np.log(np.asarray(scale, dtype=np.float64)) + 0.5 * LOG_2_PI_E).sum(axis=1))


def decomposition(
    rate: Floats | float, information: Floats | float, per_dimension: Floats
) -> Decomposition:
    """R = I + TC + dimension-wise KL (Esmaeili et al. 2019; Chen et al. 2018, section 3).

    R = E log q(z|x) / p(z) falls apart, at every draw, into

        log q(z|x) / q(z)  +  log q(z) / prod_j q(z_j)  +  log prod_j q(z_j) / p(z).

    The first has the mean I; the last two are the marginal KL, KL(q(z) || p(z)) = R - I. As
    q(z|x) = prod_j q(z_j|x), sum_j I_j = E log q(z|x) / prod_j q(z_j) is the mean of the first two:
    the total correlation is sum_j I_j - I, and what remains of the rate, R - sum_j I_j, is
    sum_j KL(q(z_j) || p(z_j)) where the prior has independent dimensions; under another it holds
    their dependence, too.

    Where I is saturated, near log N, the marginal KL is too high; so is the total correlation, as
    the single dimensions saturate later. None of the three can see whether the decoder listens.

    Args:
        rate: R, a number or per-sentence terms [N].
        information: I, the same.
        per_dimension: I_j, [D] or [N, D].
    """
    total = np.sum(per_dimension, axis=-1, dtype=np.float64)
    return Decomposition(
        np.asarray(rate - information), np.asarray(total - information), np.asarray(rate - total)
    )


def moment_kl(mean: Floats, scale: Floats, log_prior: Floats) -> float:
    """A lower bound on the marginal KL, KL(q(z) || p(z)), in nats, from the moments of q(z).

    KL(q || p) = -H(q) - E_q log p(z). The aggregate posterior has the mean m = E mean and the
    covariance C = Cov(mean) + E diag(scale^2), and no distribution with that covariance has more
    entropy than the normal one, ln |2 pi e C| / 2 (Cover and Thomas 2006, theorem 8.6.5). So this
    bounds for every prior; under a normal one it is KL(N(m, C) || p) in closed form, but for the
    Monte-Carlo error of `log_prior`. No density is estimated, and nothing saturates: the larger it
    is, the surer are prior holes. It cannot see holes that leave both moments as they are.

    Args:
        mean: posterior means, [N, D].
        scale: posterior standard deviations, [N, D].
        log_prior: log p(z) at a draw from each posterior, or its expectation there, [N].
    """
    mean, scale = (np.asarray(array, dtype=np.float64) for array in (mean, scale))
    n, d = mean.shape
    within = (scale**2).mean(axis=0)
    # log |C| = log |E diag(scale^2)| + sum log(1 + signal to noise); C itself may be too skewed.
    between = signal_to_noise(mean, scale) * (n - 1) / n
    entropy = 0.5 * (np.log(within).sum() + np.log1p(between).sum() + d * LOG_2_PI_E)
    return float(-entropy - np.mean(log_prior, dtype=np.float64))


def batched_mutual_information(
    z: Floats, mean: Floats, scale: Floats, tokens: NDArray[np.integer], batch: int = 32
) -> Floats:
    """Terms of I_q as the code of He et al. (2019, `calc_mi`) estimates it, [N]: to compare with.

    The analytic E log q(z|x) less log q(z) at one draw, q(z) being the mixture of one batch of at
    most 32 sentences, all of the same length. The mean over sentences is that over batches, each
    weighted by its size. It cannot see anything above log 32 = 3.47 nats, nor what z tells of the
    length; a batch of one, as rare lengths are, adds noise around zero. As its two terms are of
    different draws, it may be negative, and a single one may exceed the cap.

    With one sentence in all it is zero.

    Args:
        z: a draw from each posterior, [N, D].
        mean: posterior means, [N, D].
        scale: posterior standard deviations, [N, D].
        tokens: length of each sentence, [N].
        batch: sentences in a batch, at most.
    """
    z, mean, scale = (np.asarray(array, dtype=np.float64) for array in (z, mean, scale))
    terms = np.zeros(len(z))
    if len(z) < 2:
        return terms
    negative_entropy = -entropy_of_normal(scale)
    z, mean = z - mean.mean(0), mean - mean.mean(0)
    order = np.argsort(tokens, kind="stable")
    for same in np.split(order, np.flatnonzero(np.diff(np.asarray(tokens)[order])) + 1):
        for start in range(0, len(same), batch):
            rows = same[start : start + batch]
            density = log_density_matrix(z[rows], mean[rows], scale[rows])
            aggregate = logsumexp(density, axis=1) - np.log(len(rows))
            terms[rows] = negative_entropy[rows] - aggregate
    return terms
