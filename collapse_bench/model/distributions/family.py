"""What is asked of every family: a draw from given noise, and the rate against a prior."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal, kl_divergence

Noise = Callable[[torch.Size], Tensor]
"""Standard normal noise of a shape: that of one draw of z for each of B sentences."""


def base(distribution: Distribution) -> Distribution:
    """The distribution of single dimensions where they are independent, else the whole."""
    return distribution.base_dist if isinstance(distribution, Independent) else distribution


def family_of(distribution: Distribution) -> str:
    """`normal`, `flow`, `sphere`, `codes` or `other`: which metrics there are of it."""
    part = base(distribution)
    return "normal" if type(part) is Normal else str(getattr(part, "family", "other"))


def shape_of(distribution: Distribution) -> torch.Size:
    """The shape of one draw of z for each sentence, [B, D] or [B, n, d]."""
    return distribution.batch_shape + distribution.event_shape


def draw(distribution: Distribution, noise: Tensor) -> Tensor:
    """A draw of z as a function of standard normal noise, so that gradients pass and the same
    noise gives the same draw.

    Args:
        distribution: a diagonal normal, or one that offers `from_noise(noise)`.
        noise: [B, D] or [B, n, D].

    Raises:
        TypeError: the distribution offers no such draw.
    """
    part = base(distribution)
    if hasattr(part, "from_noise"):
        z: Tensor = part.from_noise(noise)
        return z
    if isinstance(part, Normal):
        return part.mean + part.stddev * noise.to(part.mean)
    raise TypeError(
        f"{type(part).__name__} is neither a diagonal normal nor offers from_noise(noise)"
    )


def rate(q: Distribution, p: Distribution, z: Tensor) -> Tensor:
    """KL(q || p) of each sentence, unreduced, in nats.

    In closed form where torch knows one for the pair (one entry a latent dimension), else the
    single-sample estimate log q(z) - log p(z), which has one entry.

    Args:
        q: posterior of B sentences.
        p: prior of the same sentences.
        z: a draw from q, [B, D] or [B, n, D].

    Returns:
        [B, K]; K is the number of latent dimensions, or 1 for the estimate.
    """
    closed = closed_rate(q, p)
    return (q.log_prob(z) - p.log_prob(z))[:, None] if closed is None else closed


def closed_rate(q: Distribution, p: Distribution) -> Tensor | None:
    """KL(q || p) of each sentence, [B, K] in nats, where torch knows it in closed form."""
    try:
        kl = kl_divergence(base(q), base(p))
    except NotImplementedError:
        return None
    return kl[:, None] if kl.dim() == 1 else kl.flatten(1)
