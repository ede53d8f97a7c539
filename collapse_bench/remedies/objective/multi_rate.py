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

from collapse_bench.corpus import Batch
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
    """x [..., W] to x (1 + a) + b, a and b [W] being a tenth of a network's answer to log beta.

    At ten times that size a model learns to scale z away before it has a use for it.
    """

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


class ModulatedDecoder(nn.Module):
    """A decoder that is given z as a function of the weight."""

    def __init__(self, decoder: nn.Module, modulation: Modulation, latent: int) -> None:
        super().__init__()
        self.decoder, self.modulation, self.latent = decoder, modulation, latent

    def forward(self, batch: Batch, z: Tensor) -> Tensor:
        """States [B, T, H] of the wrapped decoder."""
        # A latent sequence [B, n, d] with n d = D is one vector here.
        whole = z if z.shape[-1] == self.latent else z.flatten(1)
        states: Tensor = self.decoder(batch, self.modulation(whole).view(z.shape))
        return states


@dataclass(frozen=True)
class MultiRate(Remedy):
    """The rate's weight is drawn for every update, and encoder and decoder are told which it is.

    Trained once, the model stands for a beta-VAE at each beta between `least` and `most`: `beta` is
    a dial that training ignores. What the encoder says of a sentence, and z on its way into the
    decoder, are scaled and shifted by small networks of log beta; Bae et al. do so in every layer,
    with gates. As a beta-VAE it guarantees nothing. Weights are selected at the default beta.

    Positive case (`suites/positive.yaml`): at a beta of 0.1, 0.2, 0.4 and 1 R 1.93, 1.72, 1.41 and
    0.79, beyond 1.38, 1.36, 1.27 and 0.78. A beta-VAE trained for each (`beta_vae-curve`) has R
    1.96, 1.78, 1.46 and 0.00: that of 1, the plain VAE, collapses. On newswire's easy level
    (`suites/curves.yaml`) it ends collapsed at every beta, where a beta-VAE at 0.2 has R 3.00.

    Attributes:
        beta: the weight that the model is evaluated at; a dial.
        least, most: the weights drawn in training are log-uniform between these; the values are
            this project's.
        hidden: width of the networks.
    """

    by_construction: ClassVar[tuple[str, ...]] = ("kl",)
    dial: ClassVar[str | None] = "beta"
    signature: ClassVar[Mapping[str, str]] = {"nothing": "collapsed", "hard": "use"}

    beta: Annotated[float, Above(0)] = 0.5
    least: Annotated[float, Above(0)] = 0.05
    most: Annotated[float, Above(0)] = 2.0
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
        """Tell pool and decoder the weight."""
        sizes, weight = model.dimensions, Weight(self.beta, self.least, self.most)
        return {
            "pool": ModulatedPool(model.pool, Modulation(weight, sizes.hidden, self.hidden)),
            "decoder": ModulatedDecoder(
                model.decoder, Modulation(weight, sizes.latent, self.hidden), sizes.latent
            ),
            "multi_rate": weight,
        }

    def objective(self, forward: Forward) -> Forward:
        """Weigh the rate."""
        weight = forward.model.further["multi_rate"]
        assert isinstance(weight, Weight)
        return replace(forward, kl=weight.log_beta().exp() * forward.kl)
