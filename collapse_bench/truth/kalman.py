"""Latents that vary in time under the autoregressive prior of delta-VAEs, with a linear decoder.

In every channel z_1 ~ N(0, 1) and z_t = a z_{t-1} + N(0, 1 - a^2), which is the stationary prior of
Razavi et al. (2019, section 2.3); x_t = C z_t + v_t, v_t ~ N(0, R). The likelihood is the Kalman
filter's. A factorised posterior pays the committed rate whatever it tells; how much of its rate is
information is known here.
"""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor
from torch.distributions import Distribution

from collapse_bench.model import diagonal_normal
from collapse_bench.model.distributions.autoregressive import AutoregressiveNormal
from collapse_bench.truth.gaussian import LinearGaussian, linear_gaussian, log_normal


@dataclass(frozen=True, eq=False)
class LinearDynamics:
    """A `LatentModel` over x [B, n, Y] with the latent sequence z [B, n, d].

    Attributes:
        a: the coefficient of every channel, 0 <= a < 1.
        emission: C, [Y, d].
        observation_noise: R, [Y, Y].
        length: n, at least 2.
        flat: the same model over x [B, n Y] and z [B, n d], one step after another, with the
            posterior: its mean is a linear map of the whole x, its covariance diagonal.
    """

    a: float
    emission: Tensor
    observation_noise: Tensor
    length: int
    flat: LinearGaussian

    def posterior(self, sentences: Tensor) -> Distribution:
        """q(z|x), factorised over steps and channels, [B, n, d]."""
        mean = self.flat.posterior_mean(sentences.flatten(1)).reshape(len(sentences), *self._shape)
        return diagonal_normal(mean, self.flat.variance.sqrt().reshape(self._shape).expand_as(mean))

    def prior(self, sentences: Tensor) -> Distribution:
        """The first-order autoregressive normal of the bench, [B, n, d]."""
        return AutoregressiveNormal(torch.Size((len(sentences), *self._shape)), self.a)

    def log_likelihood(self, sentences: Tensor, z: Tensor) -> Tensor:
        """log p(x_t | z_t), x [B, n, Y] and z [B, n, d] to [B, n]."""
        return self.flat.log_likelihood(sentences.flatten(1), z.flatten(1))

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Sentences of the model, [n, length, Y]."""
        return self.flat.draw(n, generator).reshape(n, self.length, -1)

    def exact_nll(self, sentences: Tensor) -> Tensor:
        """-log p(x) by the innovations of the Kalman filter, [N, n, Y] to [N]; linear in n."""
        c, r = self.emission, self.observation_noise
        identity = torch.eye(c.shape[1], dtype=torch.float64)
        mean = torch.zeros(len(sentences), c.shape[1], dtype=torch.float64)
        covariance = identity  # stationary: what the prior says before the first step
        nll = torch.zeros(len(sentences), dtype=torch.float64)
        for x in sentences.unbind(1):
            expected = c @ covariance @ c.T + r
            innovation = x - mean @ c.T
            nll -= log_normal(innovation, expected)[:, 0]
            gain = torch.linalg.solve(expected, c @ covariance).T
            mean = self.a * (mean + innovation @ gain.T)
            covariance = self.a**2 * (covariance - gain @ c @ covariance)
            covariance = covariance + (1 - self.a**2) * identity
        return nll

    def exact_distortion(self, sentences: Tensor) -> Tensor:
        """-E_q log p(x|z), [N, n, Y] to [N]."""
        return self.flat.exact_distortion(sentences.flatten(1))

    def exact_kl(self, sentences: Tensor) -> Tensor:
        """KL(q(z|x) || p(z)), [N, n, Y] to [N]."""
        return self.flat.exact_kl(sentences.flatten(1))

    def exact(self) -> dict[str, float]:
        """Population values under x of the model, see `LinearGaussian.exact`."""
        return self.flat.exact()

    def best_factorised(self) -> Self:
        """With the best posterior that the factorised family has."""
        return replace(self, flat=self.flat.best_diagonal())

    def at_floor(self) -> Self:
        """With the constant posterior of the least rate: the committed one, and no information.

        Of all diagonal normals the closest to the prior has mean 0 and the reciprocal diagonal of
        the prior's precision as variance: 1 - a^2 at both ends, (1 - a^2) / (1 + a^2) between.
        """
        precision = torch.linalg.inv(self.flat.prior_covariance)
        flat = replace(
            self.flat,
            gain=torch.zeros_like(self.flat.gain),
            shift=torch.zeros_like(self.flat.shift),
            variance=1 / precision.diagonal(),
        )
        return replace(self, flat=flat)

    @property
    def _shape(self) -> tuple[int, int]:
        return self.length, self.emission.shape[1]


def linear_dynamics(a: float, emission: Tensor, noise: Tensor, length: int) -> LinearDynamics:
    """A model with the best factorised posterior.

    Args:
        a: the coefficient, 0 <= a < 1.
        emission: C, [Y, d].
        noise: R, [Y, Y].
        length: n, at least 2.

    Raises:
        ValueError: a or n is not as said.
    """
    if not 0 <= a < 1 or length < 2:
        raise ValueError(f"a: must be from 0 to below 1, length: at least 2, not {a} and {length}")
    time = torch.arange(length, dtype=torch.float64)
    correlation = torch.tensor(a, dtype=torch.float64) ** (time[:, None] - time).abs()
    channels = torch.eye(emission.shape[1], dtype=torch.float64)
    steps = torch.eye(length, dtype=torch.float64)
    flat = linear_gaussian(
        torch.kron(steps, emission),
        torch.kron(steps, noise),
        prior_covariance=torch.kron(correlation, channels),
        positions=length,
    )
    return LinearDynamics(a, emission, noise, length, flat)
