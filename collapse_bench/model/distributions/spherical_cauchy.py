"""The spherical Cauchy distribution (Kato and McCullagh 2020, equation 3).

    q(z) = ((1 - r^2) / |z - r mu|^2)^(D - 1) / area, |z| = |mu| = 1, z in D dimensions, 0 < r < 1.

It is what a Moebius map makes of the uniform distribution. As posterior of a VAE: Sablica and
Hornik (2025). With u uniform and

    h(r) = E log |u + r mu|^2 = -sum_n c_n r^(2n) / n,  c_n = (1 - D/2)_n / (D/2)_n,

by rising factorials, the rate to the uniform prior is (D - 1) (h(r) - log(1 - r^2)): of an even D a
polynomial, of an odd one a series.
"""

from functools import lru_cache

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.distributions.kl import register_kl
from torch.nn.functional import normalize

from collapse_bench.model.distributions.sphere import (
    UniformOnSphere,
    as_row,
    check_sphere,
    cosines,
    largest_concentration,
    log_area,
)

TERMS, SMALLEST = 2048, 1e-14
"""The series of an odd D ends after so many terms, or where they are so small: in three dimensions
it is less than 1e-7 nats short, elsewhere less than 1e-12."""


class SphericalCauchy(Distribution):
    """The spherical Cauchy on the sphere in D dimensions.

    Args:
        direction: of the mean, [B, D], of any length but 0, D at least 2.
        concentration: r, one for all sentences or [B], above 0; as near to 1 as the dtype can bear
            (see `most_concentrated`). Gradients pass to a tensor.

    Raises:
        UserError: the concentration or D is not as said.
    """

    family = "sphere"

    def __init__(self, direction: Tensor, concentration: float | Tensor) -> None:
        super().__init__(direction.shape[:1], direction.shape[1:], validate_args=False)
        dimension = direction.shape[-1]
        most = most_concentrated(dimension, direction.dtype)
        check_sphere(dimension, concentration, direction.dtype, most)
        self.concentration = concentration
        self.direction = normalize(direction, dim=-1)
        self._concentration = as_row(concentration, direction)

    @property
    def mean(self) -> Tensor:
        """(r + (1 - r^2) h'(r) / 2) mu, [B, D]."""
        r, c = self._concentration[:, None], _coefficients(self.event_shape[0])
        n = torch.arange(1, len(c) + 1, dtype=r.dtype, device=r.device)
        length = r - (1 - r**2) * (c.to(r) * r ** (2 * n - 1)).sum(1, keepdim=True)
        return length.to(self.direction) * self.direction

    def from_noise(self, noise: Tensor) -> Tensor:
        """z [..., B, D] from standard normal noise of that shape, whose direction is mapped;
        gradients pass to direction and concentration."""
        r = self._concentration.to(self.direction)[:, None]
        moved = normalize(noise.to(self.direction), dim=-1) + r * self.direction
        inverse = moved / moved.square().sum(-1, keepdim=True)
        # Of length 1 but for rounding, which is largest opposite to mu.
        return normalize((1 - r) * (1 + r) * inverse + r * self.direction, dim=-1)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density by area, z [..., D] of length 1 against [B] to [..., B], nats."""
        r = self._concentration.to(z)
        apart = (1 - r).square() + 2 * r * (1 - cosines(z, self.direction))
        ratio = ((1 - r) * (1 + r)).log() - apart.log()
        return (self.event_shape[0] - 1) * ratio - log_area(self.event_shape[0])

    def softened(self, share: float) -> "SphericalCauchy":
        """The distribution whose log-density has a share of this one's curvature at mu."""
        r, others = self._concentration, self.event_shape[0] - 1
        curvature = 2 * others * r / (1 - r) ** 2
        return SphericalCauchy(self.direction, from_curvature(share * curvature, others + 1))


@register_kl(SphericalCauchy, UniformOnSphere)  # type: ignore[untyped-decorator]
def _rate_of_spherical_cauchy(q: SphericalCauchy, p: UniformOnSphere) -> Tensor:
    """(D - 1) (h(r) - log(1 - r^2)), [B] nats."""
    dimension, square = q.event_shape[0], q._concentration[:, None] ** 2
    c = _coefficients(dimension).to(square)
    n = torch.arange(1, len(c) + 1, dtype=c.dtype, device=c.device)
    h = -(c / n * square**n).sum(1)
    nats = (dimension - 1) * (h - torch.log1p(-square[:, 0]))
    return nats.to(q.direction).expand(q.batch_shape)


def from_curvature(curvature: Tensor, dimension: int) -> Tensor:
    """r of the log-density whose second derivative by the angle is -curvature at mu.

    2 (D - 1) r / (1 - r)^2; of a von Mises-Fisher it is the concentration.
    """
    a = curvature / (2 * (dimension - 1))
    return 2 * a / (2 * a + 1 + torch.sqrt(4 * a + 1))


def most_concentrated(dimension: int, dtype: torch.dtype) -> float:
    """The largest r: with more the density is steeper at mu than that of the largest von
    Mises-Fisher, and rounds as much."""
    largest = torch.tensor(largest_concentration(dtype), dtype=torch.float64)
    return float(from_curvature(largest, max(2, dimension)))


@lru_cache(maxsize=64)
def _coefficients(dimension: int) -> Tensor:
    """c_1, c_2, ... as far as they count, float64; none in two dimensions."""
    half, c, found = dimension / 2, 1.0, []
    for n in range(TERMS):
        c *= (1 - half + n) / (half + n)
        if abs(c) < SMALLEST:
            break
        found.append(c)
    return torch.tensor(found, dtype=torch.float64)
