"""From encoder states to the latent: the plain pool, head and prior."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from collapse_bench.corpus import Batch
from collapse_bench.model.distributions import diagonal_normal, family_of, shape_of

Energy = Callable[[Distribution], Tensor]
"""The current objective per sentence [B], in nats, as a function of the posterior."""


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
        # A mean may cost what a draw does, so only a normal's, which is at hand, is asked for.
        known = q.mean if family_of(q) == "normal" else None
        shape, device = shape_of(q), batch.mask.device
        zero = torch.zeros(shape, device=device) if known is None else torch.zeros_like(known)
        return diagonal_normal(zero, torch.ones_like(zero))
