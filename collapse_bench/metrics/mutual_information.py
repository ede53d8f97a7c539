"""Mutual information between sentence and latent under the posterior, I_q(x; z).

I_q = E_x E_q(z|x) [log q(z|x) - log q(z)], with the aggregate posterior q(z) = (1/N) sum_j q(z|x_j)
over the whole split, never a batch: an estimate from B sentences cannot exceed log B. Both terms
are taken at the same draw, so that equal posteriors give exactly zero. Here is also what a rate is
made of besides: its information, dimension by dimension, and its marginal KL.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from collapse_bench.metrics.active_units import signal_to_noise
from collapse_bench.metrics.pairs import (
    Floats,
    aggregate_terms,
    log_density_matrix,
    normal_pairs,
)

LOG_2_PI_E = float(np.log(2 * np.pi)) + 1
"""Twice the entropy of a standard normal in one dimension."""


class Information(NamedTuple):
    """Per-sentence terms in nats, [N]; their means are the two bounds."""

    lower: Floats
    upper: Floats


class Decomposition(NamedTuple):
    """What a rate is made of besides mutual information, in nats; of the shape of the rate."""

    marginal_kl: Floats
    total_correlation: Floats
    dimension_kl: Floats


def mutual_information(z: Floats, mean: Floats, scale: Floats, log_prior: Floats) -> Information:
    """Bounds on I_q of diagonal normals, see `bounds`; zero where there is no latent.

    Args:
        z: a draw from each posterior, [N, D].
        mean: posterior means, [N, D].
        scale: posterior standard deviations, [N, D].
        log_prior: log p(z) of each draw, nats, [N].
    """
    if z.shape[1] == 0:
        return Information(np.zeros(len(z)), np.zeros(len(z)))
    return bounds(aggregate_terms(normal_pairs(z, mean, scale)), log_prior, len(z))


def bounds(terms: Mapping[str, Floats], log_prior: Floats, among: int) -> Information:
    """A lower and an upper bound on I_q, from one draw a sentence and its density in mixtures.

    The lower one counts x_i's own posterior in q(z_i) and never exceeds log M (van den Oord et al.
    2018). The upper one leaves it out (Poole et al. 2019, section 2.3) and puts the prior in its
    place: for any density m(z) that x_i has no part in, I_q <= E log q(z|x) / m(z), and so for
    m = p/M + (1 - 1/M) q_others. With the others alone it would be infinite where a posterior
    meets no other, as codes do that no two sentences share; so it is at most R + log M. It needs a
    prior that does not look at the sentence. Near zero the lower one may be slightly negative. With
    one sentence both are zero: nothing is left to be told apart.

    Args:
        terms: `log_density`, `log_aggregate` and `log_others`, as `aggregate_terms` gives them.
        log_prior: log p(z) of each draw, nats, [N].
        among: M, posteriors in the mixture.
    """
    own = np.asarray(terms["log_density"], dtype=np.float64)
    if len(own) < 2:
        return Information(np.zeros(len(own)), np.zeros(len(own)))
    return Information(
        own - terms["log_aggregate"], own - _instead(terms["log_others"], log_prior, among)
    )


def bounds_given_length(
    terms: Mapping[str, Floats], log_prior: Floats, tokens: NDArray[np.integer]
) -> Information:
    """The same two bounds on I_q(x; z | length), among the sentences of one length.

    A sentence that is alone in its length adds nothing to the lower one; in the upper one all
    others stand for those of its length. The lower one is capped at the mean of ln n, n being the
    sentences of one length, which is log N less the entropy of the length; nor is it ever below
    `bounds`' lower one less that entropy, as no mixture is less than the part of one length.

    Args:
        terms: `log_density`, `log_aggregate_given_length` and `log_others_given_length`.
        log_prior: log p(z) of each draw, nats, [N].
        tokens: length of each sentence, [N].
    """
    own = np.asarray(terms["log_density"], dtype=np.float64)
    if len(own) < 2:
        return Information(np.zeros(len(own)), np.zeros(len(own)))
    _, group, sizes = np.unique(tokens, return_inverse=True, return_counts=True)
    size = sizes[group]
    among = np.where(size > 1, size, len(own))
    return Information(
        own - terms["log_aggregate_given_length"],
        own - _instead(terms["log_others_given_length"], log_prior, among),
    )


def _instead(log_others: Floats, log_prior: Floats, among: int | NDArray[np.integer]) -> Floats:
    """log of p/M + (1 - 1/M) q_others at each draw, [N]."""
    log_prior = np.asarray(log_prior, dtype=np.float64)
    return np.asarray(np.logaddexp(log_prior - np.log(among), log_others + np.log1p(-1 / among)))


def least(*terms: Floats) -> Floats:
    """Those terms whose mean is the least: of several upper bounds the tightest."""
    return min(terms, key=lambda each: float(np.mean(each, dtype=np.float64)))


def surprise(values: NDArray[np.integer]) -> Floats:
    """-log of the share of sentences that have this value, in nats, [N]; the mean is its entropy.

    Args:
        values: a length or a code of each sentence, [N].
    """
    _, group, sizes = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray(np.log(len(values)) - np.log(sizes[group]))


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
        alone = aggregate_terms(normal_pairs(z[:, [j]], mean[:, [j]], scale[:, [j]]))
        terms[:, j] = alone["log_density"] - alone["log_aggregate"]
    return terms


def place_information(codes: NDArray[np.integer], log_density: Floats) -> Floats:
    """Terms of I_q(x; c_j) of each single place of a latent of codes, [N, n], in nats.

    The plug-in entropy of each place's codes, less what a posterior that draws its codes place by
    place leaves open, log q(c|x), which is 0 where a sentence has one code for certain; only its
    sum over places is known, and each gets an equal part of it.

    Args:
        codes: [N, n].
        log_density: of the drawn codes, log q(c|x), [N].
    """
    by_place = np.stack([surprise(place) for place in codes.T], axis=1)
    return np.asarray(by_place + np.asarray(log_density)[:, None] / codes.shape[1])


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
