"""A mixture of diagonal normals in equal parts, as a prior."""

import math

import torch
from torch import Tensor
from torch.distributions import Distribution

LEAST = 1e-12
"""How near to 0 or 1 the remainder of a probability may be that becomes noise again: 7 widths."""


class NormalMixture(Distribution):
    """p(z) = (1/C) sum_c N(z; mean_c, diag(scale_c)^2), the same for each of B sentences.

    Args:
        mean: of the parts, [C, D], or [C, n, d] for a latent sequence.
        scale: standard deviations, same shape, positive.
        sentences: B.
    """

    family = "other"

    def __init__(self, mean: Tensor, scale: Tensor, sentences: int) -> None:
        super().__init__(torch.Size([sentences]), mean.shape[1:], validate_args=False)
        self._mean, self._scale = mean, scale

    @property
    def mean(self) -> Tensor:
        """[B, D] or [B, n, d]."""
        return self._mean.mean(0).expand(self.batch_shape + self.event_shape)

    @property
    def variance(self) -> Tensor:
        """Within the parts and between them, of the shape of the mean."""
        both = self._scale.square().mean(0) + self._mean.var(0, correction=0)
        return both.expand(self.batch_shape + self.event_shape)

    def from_noise(self, noise: Tensor) -> Tensor:
        """z of the shape of the noise, [..., B, D] or [..., B, n, d].

        The first coordinate e chooses: C Phi(e) is the number of the part and a remainder, which is
        uniform whatever the part is, and noise again through the inverse of Phi.
        """
        flat = noise.flatten(-len(self.event_shape))
        chosen = torch.special.ndtr(flat[..., :1].double()) * len(self._mean)
        part = chosen.long().clamp(max=len(self._mean) - 1)
        rest = torch.special.ndtri((chosen - part).clamp(LEAST, 1 - LEAST)).to(self._mean)
        noise = torch.cat([rest, flat[..., 1:].to(self._mean)], dim=-1).view(noise.shape)
        return self._mean[part[..., 0]] + self._scale[part[..., 0]] * noise

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density of z [..., D] or [..., n, d] against [B] to [..., B], nats."""
        axes = len(self.event_shape)
        # Differences themselves: products of matrices would lose the digits of narrow parts.
        off = (z.unsqueeze(-axes - 1) - self._mean) / self._scale
        each = -0.5 * off.square() - self._scale.log() - 0.5 * math.log(2 * math.pi)
        nats = each.flatten(-axes).sum(-1).logsumexp(-1) - math.log(len(self._mean))
        return nats.expand(torch.broadcast_shapes(nats.shape, self.batch_shape))
