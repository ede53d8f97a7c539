"""From encoder states to the latent: the plain pool, head and prior, and the rate between them."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal, kl_divergence

from collapse_bench.corpus import Batch

Energy = Callable[[Distribution], Tensor]
"""The current objective per sentence [B], in nats, as a function of the posterior."""


def diagonal_normal(mean: Tensor, scale: Tensor) -> Distribution:
    """A normal with diagonal covariance whose every axis but the first is one event.

    Args:
        mean: [B, D] or [B, n, D].
        scale: standard deviations, same shape, positive.
    """
    return Independent(Normal(mean, scale, validate_args=False), mean.dim() - 1, False)


def base(distribution: Distribution) -> Distribution:
    """The distribution of single dimensions where they are independent, else the whole."""
    return distribution.base_dist if isinstance(distribution, Independent) else distribution


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
    if isinstance(part, Normal):
        return part.mean + part.stddev * noise
    if hasattr(part, "from_noise"):
        z: Tensor = part.from_noise(noise)
        return z
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
    try:
        kl = kl_divergence(base(q), base(p))
    except NotImplementedError:
        kl = q.log_prob(z) - p.log_prob(z)
    return kl[:, None] if kl.dim() == 1 else kl.flatten(1)


class NoEncoder(nn.Module):
    """Encoder of the language model, which has nothing to infer: states without an entry."""

    def forward(self, batch: Batch, causal: bool = False) -> Tensor:
        """States [B, T, 0]."""
        return torch.zeros(*batch.mask.shape, 0, device=batch.mask.device)


class LastState(nn.Module):
    """Pool: the encoder state at the end of the sentence."""

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """States [B, T, H] and mask [B, T] to features [B, H]."""
        last = mask.sum(1) - 1
        return states[torch.arange(len(states), device=states.device), last]


class GaussianHead(nn.Module):
    """Head: features to a diagonal normal posterior; it ignores the energy."""

    def __init__(self, hidden: int, latent: int) -> None:
        super().__init__()
        self.mean_and_log_variance = nn.Linear(hidden, 2 * latent)

    def forward(self, features: Tensor, energy: Energy) -> Distribution:
        """Features [..., H] to q(z|x) over z [..., D]."""
        # In full precision also where the products of the training are not: it is small.
        with torch.autocast(features.device.type, enabled=False):
            both = self.mean_and_log_variance(features.to(self.mean_and_log_variance.weight.dtype))
        mean, log_variance = both.chunk(2, dim=-1)
        return diagonal_normal(mean, (0.5 * log_variance).exp())


class StandardNormal(nn.Module):
    """Prior: N(0, I) of the posterior's shape, whatever the sentence."""

    def forward(self, q: Distribution, batch: Batch) -> Distribution:
        """A prior over z for each of the B sentences."""
        return diagonal_normal(torch.zeros_like(q.mean), torch.ones_like(q.mean))
