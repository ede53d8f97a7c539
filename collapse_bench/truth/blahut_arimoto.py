"""The rate-distortion curve of a finite source by alternating minimisation."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

Floats = NDArray[np.floating]

MOST_STEPS = 100_000


class Point(NamedTuple):
    """A point of the curve and what attains it.

    Attributes:
        rate: I(x; k) in nats.
        distortion: E d(x, k) in nats.
        conditional: q(k|x), [X, K].
    """

    rate: float
    distortion: float
    conditional: Floats


def point(source: Floats, distortion: Floats, beta: float, tolerance: float = 1e-9) -> Point:
    """The point where D + beta R is least, which is where -dD/dR = beta.

    q(k|x) = q(k) exp(-d(x, k) / beta) / Z(x) and q(k) = sum_x p(x) q(k|x) by turns (Blahut 1972;
    Arimoto 1972). A turn multiplies q(k) by c_k = sum_x p(x) exp(-d(x, k) / beta) / Z(x), and by
    Jensen's inequality no q is better by more than beta log max_k c_k: that ends the turns. With
    d(x, k) = -log p(x|k) and beta = 1 the least D + R is the cross entropy of the best mixture of
    the p(x|k), and nothing is below the entropy of the source (Alemi et al. 2018).

    It sees the best code for these K symbols only; other decoders have other curves.

    Args:
        source: p(x), [X], sums to 1.
        distortion: d(x, k), [X, K], finite.
        beta: positive.
        tolerance: nats that D + beta R may be above its least value.

    Raises:
        ValueError: beta is not positive, or an array is not as described.
        ArithmeticError: `MOST_STEPS` turns were not enough.
    """
    p, d = np.asarray(source, dtype=np.float64), np.asarray(distortion, dtype=np.float64)
    if not beta > 0:
        raise ValueError(f"beta: must be positive, not {beta}")
    if d.ndim != 2 or p.shape != d.shape[:1] or not np.isfinite(d).all():
        raise ValueError("source [X] and finite distortion [X, K] do not fit together")
    if (p < 0).any() or not np.isclose(p.sum(), 1):
        raise ValueError("source: must be non-negative and sum to 1")
    log_q = np.full(d.shape[1], -np.log(d.shape[1]))
    for _ in range(MOST_STEPS):
        scores = log_q - d / beta
        log_z = logsumexp(scores, axis=1, keepdims=True)
        log_c = logsumexp(-d / beta - log_z, axis=0, b=p[:, None])
        if beta * log_c.max() <= tolerance:
            break
        log_q = log_q + log_c
    else:
        raise ArithmeticError(
            f"after {MOST_STEPS} turns D + beta R may still fall by {beta * log_c.max():.1e} nats,"
            f" more than the tolerance of {tolerance:.1e}"
        )
    conditional = np.exp(scores - log_z)
    return Point(*rate_and_distortion(p, d, conditional), conditional)


def curve(source: Floats, distortion: Floats, betas: Sequence[float] | Floats) -> list[Point]:
    """The points at several slopes, in their order; see `point`."""
    return [point(source, distortion, beta) for beta in betas]


def rate_and_distortion(
    source: Floats, distortion: Floats, conditional: Floats
) -> tuple[float, float]:
    """I(x; k) and E d(x, k) of any conditional, in nats.

    Args:
        source: p(x), [X].
        distortion: d(x, k), [X, K].
        conditional: q(k|x), [X, K].
    """
    p, d, q = (np.asarray(a, dtype=np.float64) for a in (source, distortion, conditional))
    joint = p[:, None] * q
    marginal = np.broadcast_to(joint.sum(axis=0), q.shape)
    used = joint > 0
    rate = joint[used] @ (np.log(q[used]) - np.log(marginal[used]))
    return float(rate), float((joint * d).sum())
