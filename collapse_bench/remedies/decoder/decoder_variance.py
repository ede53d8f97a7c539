"""A fixed variance of the likelihood, and what it ought to have been (Lucas et al. 2019, sec. 5).

A squared error weighed against the rate by beta is a likelihood of variance beta / 2 in disguise:
what is called collapse of a beta-VAE may be a variance that was set too large.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from torch import Tensor, nn

from collapse_bench.model import SequenceVAE
from collapse_bench.model.gaussian_readout import (
    FixedVariance,
    OfVariance,
    RunningSquare,
    gaussian_readout_of,
    mean_square,
)
from collapse_bench.remedy import Remedy
from collapse_bench.settings import Above


class TunableVariance(nn.Module):
    """A fixed variance, and the best one, which is counted along."""

    def __init__(self, variance: float, retuned: bool) -> None:
        super().__init__()
        self.fixed, self.retuned, self.best = FixedVariance(variance), retuned, RunningSquare()

    def forward(self, states: Tensor, squares: Tensor, mask: Tensor) -> Tensor:
        """Logarithm of the variance, a number."""
        if self.training:
            self.best.update(mean_square(squares, mask))
        elif self.retuned:
            return self.best.log_variance()
        log_variance: Tensor = self.fixed(states, squares, mask)
        return log_variance


@dataclass(frozen=True)
class DecoderVariance(Remedy):
    """The variance of every value, fixed in training; for evaluation it may be tuned once more.

    The plain VAE has a variance of 1. Where directions of the data vary by less than the variance,
    the optimum of a linear VAE leaves them out, and no training makes up for it. Tuned afterwards,
    with everything else as it was trained, the variance is the mean squared error of the last
    hundred passes of training, which without dropout maximises the ELBO there (with dropout it is
    too large); no target of a test sentence has a part in it.

    Attributes:
        variance: in squared units of the values that the model sees.
        retuned: whether evaluation is with the tuned variance; training is the same.
    """

    values: ClassVar[bool] = True
    neutral: ClassVar[Mapping[str, Any] | None] = {"variance": 1.0, "retuned": False}
    small: ClassVar[Mapping[str, Any]] = {"variance": 0.5}
    dial: ClassVar[str | None] = "retuned"

    variance: Annotated[float, Above(0)] = 0.1
    retuned: bool = False

    def build(self, model: SequenceVAE) -> Mapping[str, nn.Module]:
        """Give the readout this variance."""
        readout = gaussian_readout_of(model, "decoder_variance")
        return {"readout": OfVariance(readout, TunableVariance(self.variance, self.retuned))}
