"""The von Mises-Fisher distribution on the sphere, and the uniform one.

    q(z) = C(k) exp(k mu'z), |z| = |mu| = 1, z in D dimensions,
    C(k) = k^(D/2 - 1) / ((2 pi)^(D/2) I_(D/2 - 1)(k)),

a density with respect to area (Mardia and Jupp 2000, section 9.3.2), as posterior of a text VAE
under the uniform prior (Xu and Durrett 2018). With t the angle between z and mu it is that of
sin(t)^(D - 2) exp(k cos t) on [0, pi], and of a uniform direction around mu. All that is needed,
C(k) too, is an integral over t, which Gauss-Legendre quadrature gives to float64 for any D and k,
where the Bessel functions of large order underflow.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.polynomial.legendre import leggauss
from numpy.typing import NDArray
from scipy.special import gammaln, ndtr, xlogy
from torch import Tensor
from torch.distributions import Distribution
from torch.distributions.kl import register_kl
from torch.nn.functional import normalize

from collapse_bench.errors import UserError

Floats = NDArray[np.float64]

LARGEST_ERROR = 1e-3
"""Nats by which rounding of mu'z may move a log-density."""

WIDTHS, CELLS, ORDER = 30.0, 512, 10
"""The integral reaches so many widths of its peak to either side, in cells of so many nodes."""

REACH, NODES = 9.0, 2049
"""Standard normal noise for which quantiles are tabulated, and at how many places."""


class VonMisesFisher(Distribution):
    """vMF on the sphere in D dimensions, with one concentration for all B sentences.

    The concentration is a number and not learnt, as in Xu and Durrett (2018): no draw carries a
    gradient to it.

    Args:
        direction: of the mean, [B, D], of any length but 0, D at least 2.
        concentration: k, positive; as large as the dtype can bear (see `LARGEST_ERROR`).

    Raises:
        UserError: the concentration or D is not as said.
    """

    family = "sphere"

    def __init__(self, direction: Tensor, concentration: float) -> None:
        super().__init__(direction.shape[:1], direction.shape[1:], validate_args=False)
        dimension = direction.shape[-1]
        if dimension < 2:
            raise UserError(
                f"a sphere needs a latent of at least 2 dimensions, not {dimension}: raise"
                f" latent_size or leave the spherical posterior out"
            )
        most = LARGEST_ERROR / torch.finfo(direction.dtype).eps
        if not 0 < concentration <= most:
            raise UserError(
                f"concentration: must be above 0 and at most {most:.0f}, beyond which"
                f" {direction.dtype} rounds log-densities by more than {LARGEST_ERROR} nats, not"
                f" {concentration}"
            )
        self.concentration = float(concentration)
        self.direction = normalize(direction, dim=-1)
        self._angles = _angles(dimension, self.concentration)

    @property
    def mean(self) -> Tensor:
        """(1 - spread) mu, [B, D]: the mean resultant length I_(D/2)(k) / I_(D/2 - 1)(k) times mu
        (Mardia and Jupp 2000, section 9.3.2)."""
        return (1 - self._angles.spread) * self.direction

    def from_noise(self, noise: Tensor) -> Tensor:
        """z [..., B, D] from standard normal noise of that shape; gradients pass to the direction.

        The first coordinate gives mu'z through the inverse of its distribution function at
        Phi(e_1), the direction of the others the one around mu; a Householder reflection takes the
        first axis to mu.
        """
        noise = noise.to(self.direction)
        angle = _interpolated(self._angles, noise[..., 0])[..., None]
        around = noise[..., 1:]
        axis = torch.eye(around.shape[-1], dtype=noise.dtype, device=noise.device)[0]
        around = torch.where((around == 0).all(-1, keepdim=True), axis, around)
        upright = torch.cat([angle.cos(), angle.sin() * normalize(around, dim=-1)], dim=-1)
        # To mu or -mu, whichever is further from the axis: the reflection along their difference is
        # never one along a vector of nearly no length.
        sign = torch.where(self.direction[..., :1] < 0, -1.0, 1.0).to(noise)
        along = (
            self.direction
            + sign * torch.eye(noise.shape[-1], dtype=noise.dtype, device=noise.device)[0]
        )
        projected = (upright * along).sum(-1, keepdim=True) / (along * along).sum(-1, keepdim=True)
        return -sign * (upright - 2 * projected * along)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density by area, z [..., D] of length 1 against [B] to [..., B], nats."""
        # (C(k) e^k) e^(k (mu'z - 1)): neither factor overflows.
        scaled = self.concentration * (_cosines(z, self.direction) - 1)
        return scaled + self._angles.log_peak


class UniformOnSphere(Distribution):
    """The uniform distribution on the sphere in D dimensions, of each of B sentences.

    Args:
        like: a tensor [B, D] whose shape, dtype and device z has, D at least 1.
    """

    family = "sphere"

    def __init__(self, like: Tensor) -> None:
        super().__init__(like.shape[:1], like.shape[1:], validate_args=False)
        self._zero = torch.zeros_like(like)

    @property
    def mean(self) -> Tensor:
        """The centre, [B, D]."""
        return self._zero

    def from_noise(self, noise: Tensor) -> Tensor:
        """z [..., B, D] from standard normal noise of that shape: its direction."""
        return normalize(noise.to(self._zero), dim=-1)

    def log_prob(self, z: Tensor) -> Tensor:
        """-log of the sphere's area, z [..., D] against [B] to [..., B], nats."""
        shape = torch.broadcast_shapes(z.shape[:-1], self.batch_shape)
        return z.new_full(shape, -log_area(z.shape[-1]))


@register_kl(VonMisesFisher, UniformOnSphere)  # type: ignore[untyped-decorator]
def _rate_on_sphere(q: VonMisesFisher, p: UniformOnSphere) -> Tensor:
    """log C(k) + k E mu'z + log area, [B] nats: the same for every sentence.

    It is a constant and no information: mu may be that, too.
    """
    angles, dimension = q._angles, q.event_shape[0]
    nats = angles.log_peak - q.concentration * angles.spread + log_area(dimension)
    return q.direction.new_full(q.batch_shape, nats)


def log_area(dimension: int) -> float:
    """Log of the area of the sphere in D dimensions, 2 pi^(D/2) / Gamma(D/2)."""
    half = dimension / 2
    return float(math.log(2) + half * math.log(math.pi) - gammaln(half))


def _cosines(z: Tensor, direction: Tensor) -> Tensor:
    """mu'z, [..., D] against [B, D]; of all pairs [M, 1, D] by one product."""
    if z.dim() == 3 and z.shape[1] == 1:
        return z[:, 0] @ direction.T
    return (z * direction).sum(-1)


class _Angles(NamedTuple):
    """What there is to know of the angle t between z and mu.

    Attributes:
        log_peak: log C(k) + k, the log density at mu.
        spread: E[1 - cos t].
        angle: quantiles of t at Phi(-e), e from -REACH to REACH, [NODES].
        slope: their derivative by e, [NODES].
    """

    log_peak: float
    spread: float
    angle: Floats
    slope: Floats


@lru_cache(maxsize=64)
def _angles(dimension: int, concentration: float) -> _Angles:
    """Integrals over t by quadrature, and quantiles by bisection of them."""
    k, m = concentration, dimension - 2

    def log_density(t: Floats) -> Floats:
        return np.asarray(xlogy(m, np.sin(t)) - 2 * k * np.sin(t / 2) ** 2)

    # Where the derivative m cos t / sin t - k sin t is zero, and what the second one says of width.
    cosine = 2 * k / (m + math.hypot(m, 2 * k))
    peak = math.acos(cosine)
    curvature = k * cosine + (m / math.sin(peak) ** 2 if m else 0.0)
    low = max(0.0, peak - WIDTHS / math.sqrt(curvature))
    high = min(math.pi, peak + WIDTHS / math.sqrt(curvature))
    largest = float(log_density(np.array(peak)))
    nodes, weights = leggauss(ORDER)

    def integral(a: Floats, b: Floats, spread: bool = False) -> Floats:
        """Of the density, or of its product with 1 - cos t, without its constant."""
        t = (a + b)[..., None] / 2 + (b - a)[..., None] / 2 * nodes
        values = np.exp(log_density(t) - largest)
        values = values * 2 * np.sin(t / 2) ** 2 if spread else values
        return np.asarray(np.abs(b - a) / 2 * (values @ weights))

    edges = np.linspace(low, high, CELLS + 1)
    masses = integral(edges[:-1], edges[1:])
    total = float(masses.sum())

    def quantile(edges: Floats, masses: Floats, targets: Floats) -> Floats:
        """Angles that leave masses `targets` between them and the first of the edges."""
        before = np.concatenate([[0.0], masses.cumsum()])
        cell = np.clip(np.searchsorted(before, targets) - 1, 0, CELLS - 1)
        start = near = edges[cell]
        far = edges[cell + 1]
        for _ in range(54):
            middle = (near + far) / 2
            short = before[cell] + integral(start, middle) < targets
            near, far = np.where(short, middle, near), np.where(short, far, middle)
        return (near + far) / 2

    # Each half from its own end, where a small probability has all its digits.
    e = np.linspace(-REACH, REACH, NODES)
    above, below = e[e <= 0], e[e > 0]
    angle = np.concatenate(
        [
            quantile(edges[::-1], masses[::-1], total * ndtr(above)),
            quantile(edges, masses, total * ndtr(-below)),
        ]
    )
    normal = np.exp(-0.5 * e**2) / math.sqrt(2 * math.pi)
    slope = -normal * total / np.exp(log_density(angle) - largest)
    return _Angles(
        -log_area(dimension - 1) - largest - math.log(total),
        float(integral(edges[:-1], edges[1:], spread=True).sum() / total),
        angle,
        slope,
    )


def _interpolated(angles: _Angles, e: Tensor) -> Tensor:
    """t at Phi(-e) by cubic Hermite polynomials, in the dtype of e; of noise beyond REACH the last.

    Against the exact quantile it is off by less than 1e-9 widths.
    """
    angle, slope = (torch.from_numpy(a).to(e.device) for a in (angles.angle, angles.slope))
    step = 2 * REACH / (NODES - 1)
    place = (e.double().clamp(-REACH, REACH) + REACH) / step
    left = place.floor().long().clamp(max=NODES - 2)
    s = place - left
    from_left = (1 + 2 * s) * angle[left] + s * step * slope[left]
    from_right = (3 - 2 * s) * angle[left + 1] - (1 - s) * step * slope[left + 1]
    return ((1 - s) ** 2 * from_left + s**2 * from_right).to(e)
