"""A learned variance of the likelihood: the sigma-VAE (Rybkin, Daniilidis and Levine 2021).

One variance for all is theirs (section 4.1); one for each channel, and one that is a function of z
(Kingma and Welling 2014, appendix C.2; Mattei and Frellsen 2018 on its dangers), are older.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from collapse_bench.model import SequenceVAE
from collapse_bench.model.gaussian_readout import OfVariance, floored, gaussian_readout_of
from collapse_bench.remedy import Remedy


class LearnedVariance(nn.Module):
    """Parameters: one for all values, or one for each channel."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.log_variance = nn.Parameter(torch.zeros(count))

    def forward(self, states: Tensor, squares: Tensor, mask: Tensor) -> Tensor:
        """Logarithm of the variance, [1] or [Y]."""
        return floored(self.log_variance)


class VarianceOfSequence(nn.Module):
    """A function of the decoder's first state, which has seen z and nothing of the sequence."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.log_variance = nn.Linear(hidden, 1)
        nn.init.zeros_(self.log_variance.bias)

    def forward(self, states: Tensor, squares: Tensor, mask: Tensor) -> Tensor:
        """Logarithm of the variance of each of B sequences, [B, 1, 1]."""
        return floored(self.log_variance(states[:, :1]))


@dataclass(frozen=True)
class LearnedDecoderVariance(Remedy):
    """The variance of the likelihood is learned with everything else, so that nothing weighs rate
    against distortion but the likelihood itself.

    The plain VAE has a variance of 1. The logarithm is kept above -12, since a decoder that comes
    to hit its targets would have a density without a bound.

    Attributes:
        of: what has a variance of its own: `all` values share one, or each `channel` or each
            `sequence` has one. That of a sequence is read from the decoder's first state, which
            knows z and no target.
    """

    values: ClassVar[bool] = True

    of: Literal["all", "channel", "sequence"] = "all"

    def build(self, model: SequenceVAE) -> Mapping[str, nn.Module]:
        """Give the readout such a variance."""
        readout = gaussian_readout_of(model, "learned_decoder_variance")
        variance: nn.Module
        if self.of == "sequence":
            variance = VarianceOfSequence(readout.mean.in_features)
        else:
            variance = LearnedVariance(readout.mean.out_features if self.of == "channel" else 1)
        return {"readout": OfVariance(readout, variance)}
