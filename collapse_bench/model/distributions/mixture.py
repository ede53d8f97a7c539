"""A mixture of diagonal normals in equal parts, as a prior."""

import math
from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor
from torch.distributions import Distribution, Normal, kl_divergence

from collapse_bench.model.distributions.normal import as_normal

LEAST = 1e-12
"""How near to 0 or 1 the remainder of a probability may be that becomes noise again: 7 widths."""

AT_ONCE = 2**22
"""Densities of draws in parts that are held at a time: 32 MiB, however many parts there are."""


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


class MixtureOfNeighbours(NormalMixture):
    """A part for each of the N stored means, tens of thousands, some of which are a posterior's
    neighbours: p(z) = (1/N) sum_n p(z|c_n).

    Args:
        mean, scale: of the parts, as for `NormalMixture`.
        sentences: B.
        neighbours: posterior means [B, D] to the numbers of the K nearest parts, [B, K].
    """

    def __init__(
        self,
        mean: Tensor,
        scale: Tensor,
        sentences: int,
        neighbours: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__(mean, scale, sentences)
        self._neighbours = neighbours

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density of z [..., D] or [..., n, d] against [B] to [..., B], nats.

        By products of matrices, in float64 and so many draws at a time as memory is for: in float32
        they would lose the digits of narrow parts, and differences take ten times as long.
        """
        flat = z.flatten(-len(self.event_shape))
        constant, linear = self._coefficients
        draws = flat.reshape(-1, flat.shape[-1]).double()
        nats = [
            torch.addmm(constant, torch.cat([some.square(), some], 1), linear).logsumexp(1)
            for some in draws.split(max(1, AT_ONCE // len(self._mean)))
        ]
        each = torch.cat(nats).view(flat.shape[:-1]).to(z) - math.log(len(self._mean))
        return each.expand(torch.broadcast_shapes(each.shape, self.batch_shape))

    @cached_property
    def _coefficients(self) -> tuple[Tensor, Tensor]:
        """Of a part's log density as a quadratic in z: [N], and [2 D, N] of z^2 and z."""
        mean, scale = self._mean.flatten(1).double(), self._scale.flatten(1).double()
        precision = scale**-2
        squares = (precision * mean.square()).sum(1)
        constant = -0.5 * squares - scale.log().sum(1) - 0.5 * mean.shape[1] * math.log(2 * math.pi)
        return constant, torch.cat([-0.5 * precision, precision * mean], 1).T

    def rate_given_neighbours(self, q: Distribution) -> Tensor:
        """Mean over a sentence's neighbours c of KL(q || p(z|c)), [B] nats; q is normal."""
        normal = as_normal(q)
        chosen = self._neighbours(normal.mean.flatten(1))
        own = Normal(normal.mean[:, None], normal.stddev[:, None], validate_args=False)
        theirs = Normal(self._mean[chosen], self._scale[chosen], validate_args=False)
        return kl_divergence(own, theirs).flatten(2).sum(2).mean(1)
