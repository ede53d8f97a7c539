"""A learned density of z: a distribution pushed through masked autoregressive maps.

The networks are masked autoencoders (Germain, Gregor, Murray and Larochelle 2015), the maps those
of Papamakarios, Pavlakou and Murray (2017, equation 3). With a normal as the source it is the
autoregressive flow that Chen et al. (2017, section 3.2) have for a prior.
"""

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn import functional as F

from collapse_bench.corpus import Batch
from collapse_bench.errors import UserError
from collapse_bench.model.code_priors import WIDTH, reader
from collapse_bench.model.distributions import family_of
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
        return shift, bounded(log_scale)


def bounded(log_scale: Tensor) -> Tensor:
    """Log-scales within +-`STEEPEST`."""
    return STEEPEST * torch.tanh(log_scale / STEEPEST)


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


class SequenceNetwork(nn.Module):
    """z [..., D] as n vectors, to a shift and a log-scale [..., D] of each number, which depend on
    the vectors before its own only.

    Args:
        latent: D.
        length: n, which divides D.
        network: what reads the vectors, `lstm` or `self_attention`.
    """

    def __init__(self, latent: int, length: int, network: str) -> None:
        super().__init__()
        width = latent // length
        self.enter, self.reader = nn.Linear(width, WIDTH), reader(network)
        self.place = nn.Parameter(torch.empty(length, WIDTH))
        self.out = MaskedLinear(torch.ones(2 * width, WIDTH), FLAT)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights that are not a layer's own."""
        nn.init.normal_(self.place)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """z [..., D] to shift and log-scale, each [..., D]; the latter within +-`STEEPEST`."""
        rows = z.reshape(-1, len(self.place), self.enter.in_features)
        # In full precision also where the products of the training are not: it is a density.
        with torch.autocast(z.device.type, enabled=False):
            before = self.enter(rows[:, :-1])
            read = torch.cat([torch.zeros_like(self.place[:1]).expand(len(rows), 1, -1), before], 1)
            shift, log_scale = self.out(self.reader(read + self.place)).chunk(2, dim=-1)
        return shift.reshape(z.shape), bounded(log_scale.reshape(z.shape))


class SequenceFlow(nn.Module):
    """Pushes a distribution over z through one map along its vectors, from the first to the last.

    Args:
        as for `SequenceNetwork`.
    """

    def __init__(self, latent: int, length: int, network: str) -> None:
        super().__init__()
        self.network, self.width = SequenceNetwork(latent, length, network), latent // length

    def forward(self, source: Distribution) -> Flow:
        """A distribution of B sentences, over z [B, D] or [B, n, d], to its image."""
        axes = len(source.event_shape)
        return Flow(source, MaskedAffine(self.network, axes, at_once=self.width))


class PushedPrior(nn.Module):
    """Prior: another one through a flow.

    Args:
        owner: the remedy, as the message shall call it.
        source: the prior that is pushed.
        flow: of distributions over z.
    """

    def __init__(self, owner: str, source: nn.Module, flow: nn.Module) -> None:
        super().__init__()
        self.owner, self.source, self.flow = owner, source, flow

    def forward(self, q: Distribution, batch: Batch) -> Distribution:
        """A prior over z, [B, D] or [B, n, d], for each of the B sentences."""
        p: Distribution = self.flow(check_vectors(self.owner, self.source(q, batch)))
        return p


def check_vectors(owner: str, p: Distribution) -> Distribution:
    """Return a prior if it is a density over all of z's space, which a flow can push.

    Raises:
        UserError: it is not.
    """
    if family_of(p) in ("sphere", "codes"):
        raise UserError(
            f"{owner}: needs a prior over vectors of numbers, got a {type(p).__name__}, of the"
            f" family {family_of(p)}; leave one of the two remedies out"
        )
    return p
