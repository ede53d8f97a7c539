"""The optimal sigma-VAE: a variance in closed form (Rybkin, Daniilidis and Levine 2021, eq. 5)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from collapse_bench.model import SequenceVAE
from collapse_bench.model.gaussian_readout import (
    LEAST,
    OfVariance,
    RunningSquare,
    gaussian_readout_of,
    mean_square,
)
from collapse_bench.remedy import Remedy


class OptimalVariance(nn.Module):
    """In training the batch's own mean squared error, in evaluation that of the last updates."""

    def __init__(self) -> None:
        super().__init__()
        self.running = RunningSquare()

    def forward(self, states: Tensor, squares: Tensor, mask: Tensor) -> Tensor:
        """Logarithm of the variance, a number."""
        if not self.training:
            return self.running.log_variance()
        # The likelihood is flat in the variance at its best: a gradient through it would be 0.
        latest = mean_square(squares, mask).detach()
        self.running.update(latest)
        return latest.log().clamp(min=LEAST)


@dataclass(frozen=True)
class OptimalDecoderVariance(Remedy):
    """The variance of the likelihood is the one that makes each batch likeliest, in closed form.

    A squared error becomes its logarithm, so that the distortion is weighed the more, the smaller
    it has become. A variance computed from what it is the variance of is no likelihood's: the code
    of Rybkin et al. evaluates with that of the batch at hand, here it is a mean over the last
    hundred passes of training, which no test sentence has a part in; with dropout, whose errors are
    larger, it is too large. For all values there is one variance.
    """

    values: ClassVar[bool] = True

    def build(self, model: SequenceVAE) -> Mapping[str, nn.Module]:
        """Give the readout such a variance."""
        readout = gaussian_readout_of(model, "optimal_decoder_variance")
        return {"readout": OfVariance(readout, OptimalVariance())}
