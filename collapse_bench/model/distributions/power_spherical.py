"""The power spherical distribution (De Cao and Aziz 2020, equations 6 to 9 and 14).

    q(z) = C(k) (1 + mu'z)^k, |z| = |mu| = 1, z in D dimensions.

(1 + mu'z) / 2 is Beta(b + k, b), b = (D - 1) / 2, so that C(k), entropy and mean are in closed form
by gamma functions. A draw is a quantile of the angle and not of the Beta, which torch has none of.
"""

import math

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.distributions.kl import register_kl
from torch.nn.functional import normalize

from collapse_bench.model.distributions.angles import Angles, Statistic
from collapse_bench.model.distributions.sphere import (
    UniformOnSphere,
    as_row,
    check_sphere,
    cosines,
    log_area,
    turned,
)


class PowerSpherical(Distribution):
    """The power spherical on the sphere in D dimensions.

    Args:
        direction: of the mean, [B, D], of any length but 0, D at least 2.
        concentration: k, one for all sentences or [B], positive; as large as the dtype can bear
            (see `sphere.largest_concentration`). Gradients pass to a tensor.

    Raises:
        UserError: the concentration or D is not as said.
    """

    family = "sphere"

    def __init__(self, direction: Tensor, concentration: float | Tensor) -> None:
        super().__init__(direction.shape[:1], direction.shape[1:], validate_args=False)
        check_sphere(direction.shape[-1], concentration, direction.dtype)
        self.concentration = concentration
        self.direction = normalize(direction, dim=-1)
        self._concentration = as_row(concentration, direction)
        self._angles: Angles | None = None

    @property
    def mean(self) -> Tensor:
        """k / (D - 1 + k) mu, [B, D]."""
        length = self._concentration / (self.event_shape[0] - 1 + self._concentration)
        return length.to(self.direction)[:, None] * self.direction

    def from_noise(self, noise: Tensor) -> Tensor:
        """z [..., B, D] from standard normal noise of that shape; gradients pass to direction and
        concentration."""
        if self._angles is None:
            self._angles = Angles(self.event_shape[0], self._concentration, LOG_HALF_ANGLE)
        return turned(self._angles.quantile(noise[..., 0]), noise, self.direction)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density by area, z [..., D] of length 1 against [B] to [..., B], nats; -inf opposite
        to mu."""
        half = ((1 + cosines(z, self.direction)) / 2).clamp(min=0)
        return self._concentration.to(z) * half.log() + self._log_peak().to(z)

    def softened(self, share: float) -> "PowerSpherical":
        """The same with a share of the concentration."""
        return PowerSpherical(self.direction, share * self.concentration)

    def _log_peak(self) -> Tensor:
        """log C(k) + k log 2, the log-density at mu, float64."""
        b = (self.event_shape[0] - 1) / 2
        a = b + self._concentration
        gammas = torch.lgamma(a + b) - torch.lgamma(a)
        return gammas - b * (2 * math.log(2) + math.log(math.pi))


@register_kl(PowerSpherical, UniformOnSphere)  # type: ignore[untyped-decorator]
def _rate_of_power_spherical(q: PowerSpherical, p: UniformOnSphere) -> Tensor:
    """log C(k) + k E log(1 + mu'z) + log area, [B] nats, the expectation by digamma functions."""
    dimension, k = q.event_shape[0], q._concentration
    b = (dimension - 1) / 2
    expected = torch.digamma(b + k) - torch.digamma(2 * b + k)
    nats = q._log_peak() + k * expected + log_area(dimension)
    return nats.to(q.direction).expand(q.batch_shape)


def _peak_of_log_half_angle(power: int, k: Tensor) -> tuple[Tensor, Tensor]:
    """Where power log sin t + 2 k log cos(t/2) is largest, and minus its second derivative."""
    half = torch.atan(torch.sqrt(power / (power + 2 * k)))
    sine = half.sin().square().clamp(min=1e-30)
    return 2 * half, power / 4 / sine + (power + 2 * k) / 4 / half.cos() ** 2


LOG_HALF_ANGLE = Statistic(lambda t: 2 * torch.cos(t / 2).abs().log(), _peak_of_log_half_angle)
"""log((1 + cos t) / 2)."""
