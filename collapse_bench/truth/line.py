"""Normal posteriors over one dimension, by trapezoid sums: their aggregate and its integrals."""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.special import xlogy

from collapse_bench.model import diagonal_normal

REACH = 12.0
"""Standard deviations beyond which a normal has no mass in float64."""

ROWS = 256
"""Posteriors whose densities are held at once."""


class Aggregate(NamedTuple):
    """What the aggregate posterior q(z) tells, in nats."""

    mutual_information: float
    marginal_kl: float


def aggregate_posterior(weights: Tensor, mean: Tensor, scale: Tensor) -> Aggregate:
    """I_q(x; z) and KL(q(z) || N(0, 1)) of q(z) = sum_x p(x) N(mean_x, scale_x^2), z in one
    dimension.

    I_q = h(q(z)) - sum_x p(x) h(q(z|x)); both integrals over z are trapezoid sums, with an error
    far below 1e-8 nats.

    Args:
        weights: p(x), [X], sum to 1.
        mean: [X].
        scale: [X], positive.
    """
    lowest, highest = (mean - REACH * scale).min(), (mean + REACH * scale).max()
    # q log q is singular where q is 0: off the line, but the nearer to it the more scales lie
    # between two posteriors. Hence nodes much closer than a normal alone would need.
    z = nodes(float(lowest), float(highest), float(scale.min()) / 32)
    density = torch.zeros_like(z)
    parts = (part.split(ROWS) for part in (weights, mean, scale))
    for p, m, s in zip(*parts, strict=True):
        density += p @ log_normal(z, m[:, None], s[:, None]).exp()
    step = z.diff()[0]
    conditional = (weights * (0.5 + 0.5 * math.log(2 * math.pi) + scale.log())).sum()
    inside = xlogy(density, density)
    cross = density * log_normal(z, 0.0, 1.0)
    return Aggregate(
        float(-inside.sum() * step - conditional), float((inside - cross).sum() * step)
    )


def kl_from_standard_normal(mean: Tensor, scale: Tensor) -> Tensor:
    """KL(N(mean, scale^2) || N(0, 1)) of each, in nats."""
    return 0.5 * (mean**2 + scale**2 - 1) - scale.log()


def standard_normal(sentences: int, latent: int) -> Distribution:
    """N(0, I) for each of B sentences, [B, D] in float64."""
    zero = torch.zeros(sentences, latent, dtype=torch.float64)
    return diagonal_normal(zero, zero + 1)


def nodes(low: float, high: float, most: float) -> Tensor:
    """Equally distant nodes, at most so far apart."""
    return torch.linspace(low, high, int((high - low) / most) + 2, dtype=torch.float64)


def log_normal(z: Tensor, mean: Tensor | float, scale: Tensor | float) -> Tensor:
    scale = torch.as_tensor(scale, dtype=torch.float64)
    return -0.5 * ((z - mean) / scale) ** 2 - scale.log() - 0.5 * math.log(2 * math.pi)
