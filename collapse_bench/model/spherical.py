"""A latent on the sphere: from the encoder's features to a direction and a concentration."""

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn.functional import softplus

from collapse_bench.corpus import Batch
from collapse_bench.errors import UserError
from collapse_bench.model.distributions import shape_of
from collapse_bench.model.distributions.sphere import UniformOnSphere, largest_concentration
from collapse_bench.model.latent import Energy

LEARNED = "learned"
"""In place of a concentration: each sentence has its own."""


class Family(Protocol):
    """A distribution on the sphere by direction [B, D] and concentration, a number or [B]."""

    def __call__(self, direction: Tensor, concentration: float | Tensor) -> Distribution: ...


class SphericalHead(nn.Module):
    """Head: features to a posterior on the sphere; it ignores the energy.

    Args:
        hidden: H.
        latent: D.
        family: of the posterior.
        concentration: of all sentences, or `LEARNED`.

    Raises:
        UserError: a posterior of the family cannot have this dimension or concentration.
    """

    def __init__(
        self, hidden: int, latent: int, family: Family, concentration: float | str
    ) -> None:
        super().__init__()
        self.family = family
        self.direction = nn.Linear(hidden, latent)
        self.concentration: float | nn.Linear
        if isinstance(concentration, str):
            self.concentration = nn.Linear(hidden, 1)
        else:
            self.concentration = concentration
            family(torch.ones(1, latent), concentration)

    def forward(self, features: Tensor, energy: Energy) -> Distribution:
        """Features [B, H] to q(z|x) over z [B, D].

        Raises:
            UserError: features are those of a latent sequence.
        """
        if features.dim() != 2:
            raise UserError(
                "a posterior on the sphere is over one vector a sentence, and here the pool makes a"
                " latent sequence: leave one of the two remedies out"
            )
        # In full precision also where the products of the training are not: it is small.
        with torch.autocast(features.device.type, enabled=False):
            features = features.to(self.direction.weight.dtype)
            direction = self.direction(features)
            if isinstance(self.concentration, nn.Linear):
                return self.family(direction, bounded(self.concentration(features)[:, 0]))
            return self.family(direction, self.concentration)


class UniformPrior(nn.Module):
    """Prior: the uniform distribution on the sphere, whatever the sentence."""

    def forward(self, q: Distribution, batch: Batch) -> Distribution:
        """A prior over z [B, D] for each of the B sentences."""
        return UniformOnSphere(torch.zeros(shape_of(q), device=batch.mask.device))


def bounded(raw: Tensor) -> Tensor:
    """k = 1 + softplus(raw), as in the code of Davidson et al. (2018), and where that nears the
    largest that the dtype can bear, smoothly below it."""
    k, most = 1 + softplus(raw), largest_concentration(raw.dtype)
    return k * (most / (most + k))
