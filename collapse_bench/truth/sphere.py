"""Strings with a latent on the circle or the sphere and posteriors on it.

z is uniform on it; all integrals over z are sums over the nodes of a quadrature, which are exact
for polynomials of a degree so high that what is left out is below float64: equal angles on the
circle, and on the sphere those around the axis with Gauss-Legendre nodes along it.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor
from torch.distributions import Distribution
from torch.nn.functional import normalize

from collapse_bench.model.distributions.power_spherical import PowerSpherical
from collapse_bench.model.distributions.sphere import UniformOnSphere, VonMisesFisher
from collapse_bench.model.distributions.spherical_cauchy import SphericalCauchy
from collapse_bench.truth.words import LinearWords, exact_on_points

AROUND, ALONG = 96, 48
"""Nodes around the axis and, on the sphere, along it."""

Family = type[VonMisesFisher] | type[PowerSpherical] | type[SphericalCauchy]

MOST: dict[Family, float] = {VonMisesFisher: 20.0, PowerSpherical: 20.0, SphericalCauchy: 0.75}
"""Concentrations up to which these leave less than 1e-10 nats out; so does a power spherical from 4
on, whose density is not smooth opposite to its direction."""


@dataclass(frozen=True, eq=False)
class SphericalStrings:
    """A `LatentModel` over the V^T strings, with a posterior direction set for each.

    Sentences are words [B, T], int64; the latent is [B, D], D = 2 or 3. `spherical` makes one, and
    `dataclasses.replace(model, direction=..., concentration=...)` sets its posterior otherwise.

    Attributes:
        decoder: p(x|z), logits linear in z.
        direction: mu of q(z|x), [V^T, D], in the order of `all_strings`, none of length 0.
        concentration: of all of them or of each, [V^T], above 0 and at most that in `MOST`.
        family: of q(z|x).

    Raises:
        ValueError: these do not fit together.
    """

    decoder: LinearWords
    direction: Tensor
    concentration: float | Tensor
    family: Family = VonMisesFisher

    def __post_init__(self) -> None:
        strings, dimension = self.decoder.vocabulary**self.decoder.length, self.dimension
        if dimension not in (2, 3) or self.direction.shape != (strings, dimension):
            raise ValueError(f"direction: must be [{strings}, D] with D the decoder's, 2 or 3")
        each, most = torch.as_tensor(self.concentration), MOST[self.family]
        if each.shape not in ((), (strings,)) or not ((each > 0) & (each <= most)).all():
            raise ValueError(
                f"concentration: must be above 0 and at most {most}, one or [{strings}]"
            )

    @property
    def dimension(self) -> int:
        """D."""
        return self.decoder.slope.shape[-1]

    def posterior(self, sentences: Tensor) -> Distribution:
        """q(z|x), [B, D]."""
        rows, concentration = self.decoder.rows(sentences), self.concentration
        if isinstance(concentration, Tensor):
            concentration = concentration[rows]
        return self.family(self.direction[rows], concentration)

    def prior(self, sentences: Tensor) -> Distribution:
        """The uniform distribution for each of B sentences, [B, D]."""
        return UniformOnSphere(self.direction[self.decoder.rows(sentences)])

    def log_likelihood(self, sentences: Tensor, z: Tensor) -> Tensor:
        """log p(x_t|z), [B, T] and [B, D] to [B, T]."""
        return self.decoder.log_likelihood(sentences, z)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Sentences of the model, [n, T]."""
        z = torch.randn(n, self.dimension, generator=generator, dtype=torch.float64)
        return self.decoder.draw(normalize(z, dim=1), generator)

    def exact(self) -> dict[str, float]:
        """Population values under x of the model; see `exact_on_points`."""
        strings = self.decoder.strings()
        z, mass = nodes(self.dimension)
        table = self.decoder.log_likelihood_by_point(strings, z)
        # Log q(z|x) less log p(z), [C, X]: what is left of a node's mass under q.
        q, p = self.posterior(strings), self.prior(strings)
        relative = q.log_prob(z[:, None]) - p.log_prob(z[:, None])
        return exact_on_points(table, mass.log(), (relative.exp() * mass[:, None]).T)


def spherical(decoder: LinearWords, family: Family = VonMisesFisher) -> SphericalStrings:
    """Strings with the direction of the true posterior's mean for each, and one concentration: that
    whose mean is as long as the true posteriors' in the average over strings.

    Args:
        decoder: with z in 2 or 3 dimensions.
        family: of the posteriors.
    """
    z, mass = nodes(decoder.slope.shape[-1])
    joint = decoder.log_likelihood_by_point(decoder.strings(), z) + mass.log()
    mean = joint.softmax(1) @ z
    length = float(joint.logsumexp(1).exp() @ mean.norm(dim=1))
    model = SphericalStrings(decoder, mean, MOST[family], family)

    def excess(k: float) -> float:
        q = replace(model, concentration=k).posterior(decoder.strings()[:1])
        return float(q.mean.norm()) - length

    return replace(model, concentration=float(brentq(excess, 1e-6, MOST[family])))


def nodes(dimension: int) -> tuple[Tensor, Tensor]:
    """Points of the circle or the sphere, [C, D], and the uniform mass of each, [C]."""
    angle = torch.arange(AROUND, dtype=torch.float64) * (2 * math.pi / AROUND)
    circle = torch.stack([angle.cos(), angle.sin()], dim=1)
    if dimension == 2:
        return circle, torch.full_like(angle, 1 / AROUND)
    place, weight = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(ALONG))
    around = (1 - place**2).sqrt()[:, None, None] * circle
    along = place[:, None, None].expand(-1, AROUND, 1)
    mass = (weight / 2)[:, None].expand(-1, AROUND) / AROUND
    return torch.cat([around, along], dim=2).flatten(0, 1), mass.flatten()
