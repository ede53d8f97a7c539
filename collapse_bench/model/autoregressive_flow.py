"""A learned density of z: a distribution pushed through masked autoregressive maps.

The networks are masked autoencoders (Germain, Gregor, Murray and Larochelle 2015), the maps those
of Papamakarios, Pavlakou and Murray (2017, equation 3). With a normal as the source it is the
autoregressive flow that Chen et al. (2017, section 3.2) have for a prior.
"""

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn import functional as F

from collapse_bench.model.distributions.flow import Flow, MaskedAffine

STEEPEST = 3.0
"""A map stretches no coordinate by more than exp(3) or less than exp(-3), whatever its weights are:
no density grows without bounds around a few sentences."""

FLAT = 0.01
"""The last layer's weights begin so much smaller than the others: a flow begins near its source."""


class MaskedLinear(nn.Module):
    """A linear layer without the weights that its mask, [outputs, inputs], leaves out.

    Weights and biases begin uniform in +-`reach` / sqrt(inputs).
    """

    mask: Tensor

    def __init__(self, mask: Tensor, reach: float = 1.0) -> None:
        super().__init__()
        self.reach = reach
        self.weight = nn.Parameter(torch.empty(mask.shape))
        self.bias = nn.Parameter(torch.empty(len(mask)))
        self.register_buffer("mask", mask, persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights."""
        bound = self.reach * self.weight.shape[1] ** -0.5
        for parameter in (self.weight, self.bias):
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] to [..., outputs]."""
        return F.linear(x, self.weight * self.mask, self.bias)


class MaskedNetwork(nn.Module):
    """z [..., D] to a shift and a log-scale [..., D], the i-th of which depend on z_<i only.

    Two hidden layers of exponential linear units, each of which sees the coordinates up to its own.

    Args:
        latent: D.
        hidden: units of a layer.
        context: width of what the first layer sees beside z; 0 is nothing.
        scales: whether there are log-scales; else they are 0.
    """

    def __init__(self, latent: int, hidden: int, context: int = 0, scales: bool = True) -> None:
        super().__init__()
        place = torch.arange(latent)
        sees = torch.arange(hidden) % max(1, latent - 1)
        self.layers = nn.Sequential(
            MaskedLinear(sees[:, None] >= place),
            nn.ELU(),
            MaskedLinear(sees[:, None] >= sees),
            nn.ELU(),
            MaskedLinear((place[:, None] > sees).repeat(1 + scales, 1), FLAT),
        )
        self.scales = scales
        self.context = nn.Linear(context, hidden, bias=False) if context else None

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """z [..., D] to shift and log-scale, each [..., D]; the latter within +-`STEEPEST`.

        A context is one of each sentence, [B, C] beside z [..., B, D].
        """
        # In full precision also where the products of the training are not: it is a density.
        with torch.autocast(z.device.type, enabled=False):
            first = self.layers[0](z)
            if self.context is not None and context is not None:
                first = first + self.context(context.to(first.dtype))
            last = self.layers[1:](first)
        if not self.scales:
            return last, torch.zeros_like(last)
        shift, log_scale = last.chunk(2, dim=-1)
        return shift, STEEPEST * torch.tanh(log_scale / STEEPEST)


class AutoregressiveFlow(nn.Module):
    """Pushes a distribution over z through maps that begin at either end of z in turn.

    Args:
        latent: D; of a latent sequence [n, d], n d.
        depth: number of maps.
        hidden: width of their networks.
    """

    def __init__(self, latent: int, depth: int, hidden: int) -> None:
        super().__init__()
        self.networks = nn.ModuleList(MaskedNetwork(latent, hidden) for _ in range(depth))

    def forward(self, source: Distribution) -> Flow:
        """A distribution of B sentences, over z [B, D] or [B, n, d], to its image."""
        axes = len(source.event_shape)
        maps = (
            MaskedAffine(network, axes, backwards=turn % 2 == 1)
            for turn, network in enumerate(self.networks)
        )
        return Flow(source, *maps)
