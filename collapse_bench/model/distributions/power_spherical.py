"""The power spherical distribution (De Cao and Aziz 2020, equations 6 to 9 and 14).

    q(z) = C(k) (1 + mu'z)^k, |z| = |mu| = 1, z in D dimensions.

(1 + mu'z) / 2 is Beta(b + k, b), b = (D - 1) / 2, so that C(k), entropy and mean are in closed form
by gamma functions. A draw is a quantile of the angle and not of the Beta, which torch has none of.
"""

import math

import torch
from torch import Tensor

from collapse_bench.model.distributions.angles import Statistic
from collapse_bench.model.distributions.sphere import AroundDirection


def _peak_of_log_half_angle(power: int, k: Tensor) -> tuple[Tensor, Tensor]:
    """Where power log sin t + 2 k log cos(t/2) is largest, and minus its second derivative."""
    half = torch.atan(torch.sqrt(power / (power + 2 * k)))
    sine = half.sin().square().clamp(min=1e-30)
    return 2 * half, power / 4 / sine + (power + 2 * k) / 4 / half.cos() ** 2


LOG_HALF_ANGLE = Statistic(lambda t: 2 * torch.cos(t / 2).abs().log(), _peak_of_log_half_angle)
"""log((1 + cos t) / 2)."""


class PowerSpherical(AroundDirection):
    """The power spherical on the sphere in D dimensions; see `AroundDirection` for its arguments.

    Raises:
        UserError: the concentration or D is not as said there.
    """

    statistic = LOG_HALF_ANGLE

    def _of_cosine(self, cosine: Tensor) -> Tensor:
        """-inf opposite to mu."""
        return ((1 + cosine) / 2).clamp(min=0).log()

    def _log_peak(self) -> Tensor:
        """log C(k) + k log 2."""
        a = self._b + self._concentration
        gammas = torch.lgamma(a + self._b) - torch.lgamma(a)
        return gammas - self._b * (2 * math.log(2) + math.log(math.pi))

    def _mean_statistic(self) -> Tensor:
        """By digamma functions."""
        k = self._concentration
        return torch.digamma(self._b + k) - torch.digamma(2 * self._b + k)

    def _mean_length(self) -> Tensor:
        """k / (D - 1 + k)."""
        return self._concentration / (2 * self._b + self._concentration)

    @property
    def _b(self) -> float:
        return (self.event_shape[0] - 1) / 2
