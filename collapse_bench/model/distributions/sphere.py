"""The von Mises-Fisher distribution on the sphere, and the uniform one.

    q(z) = C(k) exp(k mu'z), |z| = |mu| = 1, z in D dimensions,
    C(k) = k^(D/2 - 1) / ((2 pi)^(D/2) I_(D/2 - 1)(k)),

a density with respect to area (Mardia and Jupp 2000, section 9.3.2), as posterior of a text VAE
under the uniform prior (Xu and Durrett 2018; with a concentration for each sentence, Davidson et
al. 2018). With t the angle between z and mu it is that of sin(t)^(D - 2) exp(k cos t) on [0, pi],
and of a uniform direction around mu; C(k), too, is an integral over t, for any D and k, where the
Bessel functions of large order underflow.
"""

import math
from abc import ABC, abstractmethod
from functools import cached_property, lru_cache
from typing import ClassVar, Self

import torch
from scipy.special import gammaln
from torch import Tensor
from torch.distributions import Distribution
from torch.distributions.kl import register_kl
from torch.nn.functional import normalize

from collapse_bench.errors import UserError
from collapse_bench.model.distributions.angles import Angles, Statistic

LARGEST_ERROR = 1e-3
"""Nats by which rounding of mu'z may move a log-density."""


def _peak_of_cosine(power: int, k: Tensor) -> tuple[Tensor, Tensor]:
    """Where power log sin t + k cos t is largest, and minus its second derivative there."""
    cosine = 2 * k / (power + torch.hypot(torch.full_like(k, power), 2 * k))
    sine = (1 - cosine**2).clamp(min=1e-30)
    return torch.acos(cosine), k * cosine + power / sine


COSINE = Statistic(lambda t: -2 * torch.sin(t / 2) ** 2, _peak_of_cosine)
"""cos t - 1."""


class AroundDirection(Distribution, ABC):
    """What families on the sphere in D dimensions share whose log-density is k s(t) and a constant,
    t being the angle from their direction.

    Args:
        direction: of the mean, [B, D], of any length but 0, D at least 2.
        concentration: k, one for all sentences or [B], positive; as large as the dtype can bear
            (see `largest_concentration`). Gradients pass to a tensor.

    Raises:
        UserError: the concentration or D is not as said.
    """

    family = "sphere"
    statistic: ClassVar[Statistic]
    """s(t)."""

    def __init__(self, direction: Tensor, concentration: float | Tensor) -> None:
        super().__init__(direction.shape[:1], direction.shape[1:], validate_args=False)
        check_sphere(direction.shape[-1], concentration, direction.dtype)
        self.concentration = concentration
        self.direction = normalize(direction, dim=-1)
        self._concentration = as_row(concentration, direction)

    @property
    def mean(self) -> Tensor:
        """E cos(t) mu, [B, D]."""
        return self._mean_length().to(self.direction)[:, None] * self.direction

    def from_noise(self, noise: Tensor) -> Tensor:
        """z [..., B, D] from standard normal noise of that shape; gradients pass to direction and
        concentration."""
        return turned(self._angles.quantile(noise[..., 0]), noise, self.direction)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density by area, z [..., D] of length 1 against [B] to [..., B], nats."""
        # s is 0 at mu and below it elsewhere: neither factor of the density overflows.
        of_z = self._of_cosine(cosines(z, self.direction))
        return self._concentration.to(z) * of_z + self._log_peak().to(z)

    def rate(self) -> Tensor:
        """KL from the uniform distribution, [B] nats: of one concentration the same for every
        sentence. Then it is a constant and no information: mu may be that, too."""
        nats = self._log_peak() + self._concentration * self._mean_statistic()
        return (nats + log_area(self.event_shape[0])).to(self.direction).expand(self.batch_shape)

    def softened(self, share: float) -> Self:
        """The same with a share of the concentration."""
        return type(self)(self.direction, share * self.concentration)

    @cached_property
    def _angles(self) -> Angles:
        dimension, k = self.event_shape[0], self.concentration
        if isinstance(k, Tensor):
            return Angles(dimension, self._concentration, self.statistic)
        return _angles_of(dimension, k, self.statistic, self.direction.device)

    @abstractmethod
    def _of_cosine(self, cosine: Tensor) -> Tensor:
        """s by the cosine of t."""

    @abstractmethod
    def _log_peak(self) -> Tensor:
        """The log-density at mu, [1] or [B], float64."""

    @abstractmethod
    def _mean_statistic(self) -> Tensor:
        """E s(t), [1] or [B], float64."""

    @abstractmethod
    def _mean_length(self) -> Tensor:
        """E cos(t), [1] or [B], float64."""


class VonMisesFisher(AroundDirection):
    """vMF on the sphere in D dimensions; see `AroundDirection` for its arguments.

    Raises:
        UserError: the concentration or D is not as said there.
    """

    statistic = COSINE

    def _of_cosine(self, cosine: Tensor) -> Tensor:
        return cosine - 1

    def _log_peak(self) -> Tensor:
        """log C(k) + k."""
        return -self._angles.log_total - log_area(self.event_shape[0] - 1)

    def _mean_statistic(self) -> Tensor:
        return self._angles.mean_statistic

    def _mean_length(self) -> Tensor:
        """I_(D/2)(k) / I_(D/2 - 1)(k), the mean resultant length (Mardia and Jupp 2000, section
        9.3.2)."""
        return 1 + self._angles.mean_statistic


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


@register_kl(AroundDirection, UniformOnSphere)  # type: ignore[untyped-decorator]
def _rate_on_sphere(q: AroundDirection, p: UniformOnSphere) -> Tensor:
    return q.rate()


@lru_cache(maxsize=16)
def _angles_of(dimension: int, k: float, statistic: Statistic, device: torch.device) -> Angles:
    """Those of a concentration that is a number, which every pass asks for again; where passes are
    captured, the first of them is one that is not."""
    return Angles(dimension, torch.full((1,), k, dtype=torch.float64, device=device), statistic)


def largest_concentration(dtype: torch.dtype) -> float:
    """Beyond which rounding of mu'z in this dtype moves a log-density by more than
    `LARGEST_ERROR`."""
    return LARGEST_ERROR / torch.finfo(dtype).eps


def check_sphere(
    dimension: int,
    concentration: float | Tensor,
    dtype: torch.dtype,
    most: float | None = None,
) -> None:
    """Hold dimension and concentration against what a distribution on the sphere can have.

    Args:
        dimension: D.
        concentration: k, a number or a tensor, which is looked at on the CPU only.
        dtype: of the direction.
        most: the largest, `largest_concentration` if None.

    Raises:
        UserError: D is below 2, or k is not above 0 or beyond what the dtype can bear.
    """
    if dimension < 2:
        raise UserError(
            f"a sphere needs a latent of at least 2 dimensions, not {dimension}: raise"
            f" latent_size or leave the spherical posterior out"
        )
    most = largest_concentration(dtype) if most is None else most
    if not isinstance(concentration, Tensor):
        wrong, value = not 0 < concentration <= most, concentration
    elif concentration.device.type == "cpu":
        # A GPU would have to be waited for; what is no number is told where the loss is.
        outside = concentration[(concentration <= 0) | (concentration > most)]
        wrong, value = len(outside) > 0, float(outside[0]) if len(outside) else 0.0
    else:
        return
    if wrong:
        raise UserError(
            f"concentration: must be above 0 and at most {most:.{0 if most > 1 else 3}f}, beyond"
            f" which {dtype} rounds log-densities by more than {LARGEST_ERROR} nats, not {value};"
            f" {'lower' if value > most else 'raise'} it"
        )


def as_row(concentration: float | Tensor, direction: Tensor) -> Tensor:
    """A concentration as float64 [1] or [B], beside a direction [B, D]."""
    if isinstance(concentration, Tensor):
        return concentration.double()
    return torch.full((1,), concentration, dtype=torch.float64, device=direction.device)


def turned(angle: Tensor, noise: Tensor, direction: Tensor) -> Tensor:
    """z [..., B, D] at these angles from the direction, and around it where the noise says.

    The direction of all coordinates of the noise but the first is the one around the first axis; a
    Householder reflection takes that axis to the direction.

    Args:
        angle: [..., B].
        noise: standard normal, [..., B, D].
        direction: of length 1, [B, D].
    """
    noise = noise.to(direction)
    angle = angle.to(direction)[..., None]
    around = noise[..., 1:]
    axis = torch.eye(noise.shape[-1], dtype=noise.dtype, device=noise.device)[0]
    around = torch.where((around == 0).all(-1, keepdim=True), axis[:-1], around)
    upright = torch.cat([angle.cos(), angle.sin() * normalize(around, dim=-1)], dim=-1)
    # To mu or -mu, whichever is further from the axis: the reflection along their difference is
    # never one along a vector of nearly no length.
    sign = torch.where(direction[..., :1] < 0, -1.0, 1.0).to(noise)
    along = direction + sign * axis
    projected = (upright * along).sum(-1, keepdim=True) / (along * along).sum(-1, keepdim=True)
    return -sign * (upright - 2 * projected * along)


def log_area(dimension: int) -> float:
    """Log of the area of the sphere in D dimensions, 2 pi^(D/2) / Gamma(D/2)."""
    half = dimension / 2
    return float(math.log(2) + half * math.log(math.pi) - gammaln(half))


def cosines(z: Tensor, direction: Tensor) -> Tensor:
    """mu'z, [..., D] against [B, D]; of all pairs [M, 1, D] by one product."""
    if z.dim() == 3 and z.shape[1] == 1:
        return z[:, 0] @ direction.T
    return (z * direction).sum(-1)
