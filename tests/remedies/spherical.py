"""Directions in place of points (Xu and Durrett 2018, section 3)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from collapse_bench.corpus import Batch
from collapse_bench.model import Energy, SequenceVAE
from collapse_bench.model.distributions import shape_of
from collapse_bench.model.distributions.sphere import UniformOnSphere, VonMisesFisher
from collapse_bench.remedy import Remedy
from collapse_bench.settings import Above


class DirectionHead(nn.Module):
    """A von Mises-Fisher of a fixed concentration."""

    def __init__(self, hidden: int, latent: int, concentration: float) -> None:
        super().__init__()
        self.direction = nn.Linear(hidden, latent)
        self.concentration = concentration

    def forward(self, features: Tensor, energy: Energy) -> Distribution:
        """Features [B, H] to q(z|x)."""
        return VonMisesFisher(self.direction(features), self.concentration)


class Sphere(nn.Module):
    """The uniform prior."""

    def forward(self, q: Distribution, batch: Batch) -> Distribution:
        """A prior over z for each of the B sentences."""
        return UniformOnSphere(torch.zeros(shape_of(q), device=batch.mask.device))


@dataclass(frozen=True)
class Spherical(Remedy):
    """The rate is a constant.

    Attributes:
        concentration: of the posterior.
    """

    concentration: Annotated[float, Above(0)] = 20.0

    def build(self, model: SequenceVAE) -> Mapping[str, nn.Module]:
        """Another head and prior."""
        size = model.dimensions
        head = DirectionHead(size.hidden, size.latent, self.concentration)
        return {"head": head, "prior": Sphere()}
