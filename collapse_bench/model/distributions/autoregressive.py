"""The first-order autoregressive normal over a latent sequence, and the rate it commits to.

Every channel has z_1 ~ N(0, 1) and z_t = a z_(t-1) + e_t, e_t ~ N(0, 1 - a^2): unit variance at
every t (Razavi et al. 2019, section 2.3).
"""

import math

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Normal
from torch.distributions.kl import register_kl

from collapse_bench.corpus import Batch
from collapse_bench.model.distributions.family import shape_of


def committed_rate(a: float, length: int) -> float:
    """The least KL of any factorised normal to the prior, nats a channel (Razavi 2019, eq. 8).

    Args:
        a: the autoregressive coefficient, 0 <= a < 1.
        length: length of the sequence, at least 2.
    """
    return 0.5 * ((length - 2) * math.log1p(a * a) - math.log1p(-a * a))


class AutoregressiveNormal(Distribution):
    """The prior over z [B, n, d] as one event a sentence.

    Args:
        shape: (B, n, d).
        a: the coefficient of every channel, 0 <= a < 1.
    """

    def __init__(self, shape: torch.Size, a: float) -> None:
        super().__init__(shape[:1], shape[1:], validate_args=False)
        self.a = a

    def from_noise(self, noise: Tensor) -> Tensor:
        """z [B, n, d] from standard normal noise of that shape."""
        steps = [noise[:, 0]]
        for t in range(1, noise.shape[1]):
            steps.append(self.a * steps[-1] + math.sqrt(1 - self.a**2) * noise[:, t])
        return torch.stack(steps, dim=1)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density of z [..., n, d] in nats, [...]."""
        left = 1 - self.a**2
        first = z[..., :1, :].square()
        later = (z[..., 1:, :] - self.a * z[..., :-1, :]).square() / left
        normaliser = z.shape[-1] * (
            z.shape[-2] * math.log(2 * math.pi) + (z.shape[-2] - 1) * math.log(left)
        )
        return -0.5 * (torch.cat([first, later], dim=-2).sum((-2, -1)) + normaliser)

    def precision(self) -> tuple[Tensor, float]:
        """Of every channel: the diagonal [n] of its precision, and what stands beside it (Rue and
        Held 2005, section 1.1.1). Float64."""
        left = 1 - self.a**2
        diagonal = torch.full((self.event_shape[0],), (1 + self.a**2) / left, dtype=torch.float64)
        diagonal[0] = diagonal[-1] = 1 / left if len(diagonal) > 1 else 1.0
        return diagonal, -self.a / left


class MarkovNormal(Distribution):
    """A normal over z [B, n, d] whose channels are independent, and steps that are not next to each
    other independent given those between: its precision is tridiagonal.

    Args:
        mean: [B, n, d].
        diagonal: of the precision, float64, same shape.
        beside: the entry next to the diagonal, the same everywhere; the whole is positive definite.
    """

    def __init__(self, mean: Tensor, diagonal: Tensor, beside: float) -> None:
        super().__init__(mean.shape[:1], mean.shape[1:], validate_args=False)
        self._mean = mean
        # L of precision = L L', lower bidiagonal.
        on, below = [diagonal[:, 0].sqrt()], []
        for t in range(1, mean.shape[1]):
            below.append(beside / on[-1])
            on.append((diagonal[:, t] - below[-1].square()).sqrt())
        below.append(torch.zeros_like(on[0]))  # nothing follows the last step
        self._on, self._below = torch.stack(on, 1).to(mean), torch.stack(below, 1).to(mean)

    @property
    def mean(self) -> Tensor:
        """[B, n, d]."""
        return self._mean

    def from_noise(self, noise: Tensor) -> Tensor:
        """z [B, n, d] from standard normal noise of that shape: mean + L'^-1 noise."""
        noise = noise.to(self._mean)
        step = torch.zeros_like(noise[:, 0])
        steps = []
        for t in reversed(range(noise.shape[1])):
            step = (noise[:, t] - self._below[:, t] * step) / self._on[:, t]
            steps.append(step)
        return self._mean + torch.stack(steps[::-1], dim=1)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density of z [..., n, d] in nats, [...]."""
        off = z - self._mean
        following = torch.cat([off[..., 1:, :], torch.zeros_like(off[..., :1, :])], dim=-2)
        white = self._on * off + self._below * following
        return (self._on.log() - 0.5 * (white.square() + math.log(2 * math.pi))).sum((-2, -1))


@register_kl(Normal, AutoregressiveNormal)  # type: ignore[untyped-decorator]
def _rate_of_factorised_normal(q: Normal, p: AutoregressiveNormal) -> Tensor:
    """KL of a factorised normal over z [B, n, d], unreduced; it never falls below the commitment.

    Raises:
        ArithmeticError: the floor is violated, so the arithmetic is wrong.
    """
    mean, variance, left = q.mean, q.variance, 1 - p.a**2

    def excess(ratio: Tensor) -> Tensor:
        return ratio - ratio.log() - 1

    first = excess(variance[:, :1]) + mean[:, :1].square()
    change = (mean[:, 1:] - p.a * mean[:, :-1]).square() + p.a**2 * variance[:, :-1]
    later = excess(variance[:, 1:] / left) + change / left
    kl = 0.5 * torch.cat([first, later], dim=1)
    floor = mean.shape[2] * committed_rate(p.a, mean.shape[1])
    # A GPU would have to be waited for at every step.
    if kl.device.type == "cpu" and (kl.detach().sum((1, 2)) < floor - 1e-3).any():
        raise ArithmeticError(f"the rate fell below the committed {floor:.4f} nats")
    return kl


class AutoregressivePrior(nn.Module):
    """Prior: z_1 ~ N(0, 1), z_t = a z_(t-1) + N(0, 1 - a^2), in every channel."""

    def __init__(self, a: float) -> None:
        super().__init__()
        self.a = a

    def forward(self, q: Distribution, batch: Batch) -> Distribution:
        """A prior over z [B, n, d] for each sentence."""
        return AutoregressiveNormal(shape_of(q), self.a)
