"""One model for every beta: a Multi-Rate VAE (Bae et al. 2022), by a weight drawn in training.

That a network is told the weights of its own loss, drawn anew for each update, is from Dosovitskiy
and Djolonga (2020, "You only train once").
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from collapse_bench.errors import UserError
from collapse_bench.model import Forward, SequenceVAE
from collapse_bench.remedy import Remedy
from collapse_bench.settings import Above, AtLeast


class Weight(nn.Module):
    """Further part: log beta of the present pass, drawn in training and else the dial's."""

    drawn: Tensor

    def __init__(self, beta: float, least: float, most: float) -> None:
        super().__init__()
        self.set, self.low, self.high = math.log(beta), math.log(least), math.log(most)
        self.register_buffer("drawn", torch.zeros(()), persistent=False)

    def draw(self) -> None:
        """Draw the weight of a training pass, uniformly in its logarithm."""
        self.drawn.uniform_(self.low, self.high)  # in place: a captured pass knows it by its memory

    def log_beta(self) -> Tensor:
        """The weight's logarithm, a number."""
        return self.drawn.clone() if self.training else torch.full_like(self.drawn, self.set)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Weight":
        """Itself: a copy of a part that is told the weight is told the same."""
        return self


class Modulation(nn.Module):
    """x [..., W] to x (1 + a) + b, a and b [W] being a tenth of a network's answer to log beta."""

    def __init__(self, weight: Weight, width: int, hidden: int) -> None:
        super().__init__()
        self.weight = (weight,)  # in a tuple: the module belongs to the remedy's own part
        self.network = nn.Sequential(nn.Linear(1, hidden), nn.Tanh(), nn.Linear(hidden, 2 * width))

    def forward(self, x: Tensor) -> Tensor:
        """x as it was, scaled and shifted."""
        scale, shift = (0.1 * self.network(self.weight[0].log_beta()[None])).chunk(2)
        modulated: Tensor = x * (1 + scale) + shift
        return modulated


class ModulatedPool(nn.Module):
    """A pool whose features know the weight; a pass draws it here, where it begins."""

    def __init__(self, pool: nn.Module, modulation: Modulation) -> None:
        super().__init__()
        self.pool, self.modulation = pool, modulation

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """States [B, T, H] and mask [B, T] to features [B, H] or [B, n, H]."""
        if self.training:
            self.modulation.weight[0].draw()
        features: Tensor = self.modulation(self.pool(states, mask))
        return features


@dataclass(frozen=True)
class MultiRate(Remedy):
    """The rate's weight is drawn for every update, and the encoder is told which it is.

    Trained once, the model stands for a beta-VAE at each beta between `least` and `most`: `beta` is
    a dial that training ignores. What the encoder says of a sentence is scaled and shifted by a
    small network of log beta. As a beta-VAE it guarantees nothing. The best weights, where these
    are scored, are those at the default beta.

    Bae et al. tell every layer of encoder and decoder, by gates. Here the decoder is not told: what
    may scale z on its way into it learns to silence z before there is a use for it. And all that is
    not told trains at the mean weight: 0.32 of 0.05 to 1, but 0.53 of 0.05 to 2, where on newswire
    a beta-VAE is used at 0.4 and collapsed at 0.7. There (easy level, a third of the training of
    `suites/curves.yaml`) R at a beta of 0.2 was 1.47 so, and up to 2 it was 0.00 with nobody told
    and 0.76 with ten times the modulation; of 0.2 to 0.5 it was 1.26, and 0.00 with the decoder
    told as well. To let the upper end rise from 0.05 to 2 over half of the training did not help.

    Positive case (`suites/positive.yaml`): at a beta of 0.1, 0.2, 0.4 and 1 R 2.00, 1.77, 1.49 and
    1.13, beyond 1.38, 1.34, 1.24 and 0.99. A beta-VAE trained for each (`beta_vae-curve`) has R
    1.96, 1.78, 1.46 and 0.00: that of 1, the plain VAE, collapses. On newswire's easy level
    (`suites/curves.yaml`, two seeds) its curve is near theirs at a rate of 2 nats and below it
    beyond, and at 0.7, where a beta-VAE is collapsed, it has R 1.7.

    Attributes:
        beta: the weight that the model is evaluated at; a dial.
        least, most: the weights drawn in training are log-uniform between these; the values are
            this project's, 1 being the plain VAE.
        hidden: width of the networks.
    """

    by_construction: ClassVar[tuple[str, ...]] = ("kl",)
    dial: ClassVar[str | None] = "beta"
    signature: ClassVar[Mapping[str, str]] = {
        "nothing": "collapsed",
        "hard": "use",
        "easy": "use",
    }

    beta: Annotated[float, Above(0)] = 0.5
    least: Annotated[float, Above(0)] = 0.05
    most: Annotated[float, Above(0)] = 1.0
    hidden: Annotated[int, AtLeast(1)] = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.least > self.most:
            raise UserError(
                f"multi_rate: least must be at most most, got least = {self.least} and most ="
                f" {self.most}; exchange them"
            )
        if not self.least <= self.beta <= self.most:
            mend = (
                "lower beta, or raise most"
                if self.beta > self.most
                else "raise beta, or lower least"
            )
            raise UserError(
                f"multi_rate: beta must be among the weights that training draws, least ="
                f" {self.least} to most = {self.most}, not {self.beta}, of which the model knows"
                f" nothing; {mend}"
            )

    def build(self, model: SequenceVAE) -> Mapping[str, nn.Module]:
        """Tell the pool the weight."""
        weight = Weight(self.beta, self.least, self.most)
        return {
            "pool": ModulatedPool(
                model.pool, Modulation(weight, model.dimensions.hidden, self.hidden)
            ),
            "multi_rate": weight,
        }

    def objective(self, forward: Forward) -> Forward:
        """Weigh the rate."""
        weight = forward.model.further["multi_rate"]
        assert isinstance(weight, Weight)
        return replace(forward, kl=weight.log_beta().exp() * forward.kl)
