"""From decoder states to densities of real values: a mean for each channel, and a variance.

The variance is a part of its own, since it is what a likelihood of values stands or falls with: a
squared error weighed by beta is a normal of variance beta / 2, or one of variance 1 beside a rate
that is weighed, and only the first of the two is a likelihood (Rybkin et al. 2021, section 3).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from collapse_bench.corpus import Batch
from collapse_bench.errors import UserError
from collapse_bench.model.vae import SequenceVAE

LEAST = -12.0
"""Least logarithm of a variance (a standard deviation of exp(-6), as in the code of Rybkin et al.
2021): where a decoder comes to hit its targets, a density would grow without bound."""


class FixedVariance(nn.Module):
    """The same variance of every value; 1 is what a squared error stands for."""

    def __init__(self, variance: float = 1.0) -> None:
        super().__init__()
        self.log_variance = math.log(variance)

    def forward(self, states: Tensor, squares: Tensor, mask: Tensor) -> Tensor:
        """Logarithm of the variance, which a readout broadcasts to [B, T, Y].

        Args:
            states: of the decoder, [B, T, H].
            squares: squared distances of the targets from their means, [B, T, Y]. For training
                alone: a variance that looks at them in evaluation is none of a likelihood.
            mask: [B, T].
        """
        return states.new_full((), self.log_variance)


class GaussianReadout(nn.Module):
    """Independent normals of the channels of a step, their means linear in the decoder's state and
    their variance 1."""

    def __init__(self, hidden: int, channels: int) -> None:
        super().__init__()
        self.mean = nn.Linear(hidden, channels)
        self.variance = FixedVariance()

    def reset_parameters(self) -> None:
        """Draw the weights of the means."""
        self.mean.reset_parameters()

    def forward(self, states: Tensor, batch: Batch) -> Tensor:
        """log p(x|z), a density's, in nats, [B]; padding does not count.

        Args:
            states: of the decoder, [B, T, H].
            batch: the sequences that the states were computed from.
        """
        return self.by_position(states, batch).sum(1)

    def by_position(self, states: Tensor, batch: Batch) -> Tensor:
        """log p(x_t | x_<t, z) in nats, [B, T], zero at padding; `forward` is its sum."""
        return self.with_variance(self.variance, states, batch)

    def with_variance(self, variance: nn.Module, states: Tensor, batch: Batch) -> Tensor:
        """The same under another variance, a module that is called as `FixedVariance` is."""
        # Small variances weigh rounding up: bfloat16 would be seen in the second digit of the NLL.
        with torch.autocast(states.device.type, enabled=False):
            states = states.to(self.mean.weight.dtype)
            squares = (batch.targets - self.mean(states)) ** 2
            log_variance = variance(states, squares, batch.mask)
            nats = squares * torch.exp(-log_variance) + log_variance + math.log(2 * math.pi)
            tokens: Tensor = (-0.5 * nats.sum(-1)).masked_fill(~batch.mask, 0)
        return tokens


class OfVariance(nn.Module):
    """A Gaussian readout under another variance than its own."""

    def __init__(self, readout: GaussianReadout, variance: nn.Module) -> None:
        super().__init__()
        self.readout, self.variance = readout, variance

    def forward(self, states: Tensor, batch: Batch) -> Tensor:
        """log p(x|z) in nats, [B], of states [B, T, H]."""
        return self.by_position(states, batch).sum(1)

    def by_position(self, states: Tensor, batch: Batch) -> Tensor:
        """log p(x_t | x_<t, z) in nats, [B, T], zero at padding."""
        return self.readout.with_variance(self.variance, states, batch)


def floored(log_variance: Tensor) -> Tensor:
    """The same, softly kept above `LEAST`."""
    return LEAST + F.softplus(log_variance - LEAST)


def mean_square(squares: Tensor, mask: Tensor) -> Tensor:
    """Mean over steps and channels of squares [B, T, Y] where there is no padding, a number."""
    counted: Tensor = squares.masked_fill(~mask[:, :, None], 0).sum()
    return counted / (mask.sum() * squares.shape[2])


class RunningSquare(nn.Module):
    """The mean squared distance in the last hundred passes of training or so, dropout included."""

    mean: Tensor
    updates: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.ones(()))
        self.register_buffer("updates", torch.zeros(()))

    def update(self, latest: Tensor) -> None:
        """Take the mean square of one more batch into account; the first ones count alike."""
        self.updates += 1
        share = (1 / self.updates).clamp(min=0.01)
        self.mean += share * (latest.detach() - self.mean)

    def log_variance(self) -> Tensor:
        """Logarithm of the variance, 0 before the first update."""
        return self.mean.log().clamp(min=LEAST)


def gaussian_readout_of(model: SequenceVAE, remedy: str) -> GaussianReadout:
    """A model's readout, whose variance a remedy changes.

    Raises:
        UserError: the model is one of words, or another remedy has put in a readout of its own.
    """
    if not model.dimensions.channels:
        raise UserError(
            f"{remedy}: for a corpus of values, whose likelihood has a variance, and this one is of"
            f" words; `list corpora` has those of values"
        )
    if not isinstance(model.readout, GaussianReadout):
        raise UserError(
            f"{remedy}: {model.owners.get('readout')} has changed the readout, whose variance it"
            f" would set; leave one of the two out"
        )
    return model.readout
