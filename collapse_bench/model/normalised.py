"""Posterior means that are normalised over sentences, so that they cannot all become the same."""

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from collapse_bench.model.distributions import as_normal, diagonal_normal
from collapse_bench.model.latent import Energy

EPSILON = 1e-12
"""Added to a variance. Torch's 1e-5 is more than all the variance that the means of a collapsed
encoder have: 4e-8 when it was measured. They would stay nearly equal."""


class RecentNorm(nn.Module):
    """Mean 0 and variance 1 over recent batches, with one and the same statistics in training and
    in evaluation.

    Batches are of one length each, so the variance of the whole is that within a batch and that
    between batches. The latter is half the squared difference of a batch's mean to the one before
    (von Neumann 1941): lengths come in random order, so it has all of theirs, and little of what
    the encoder drifts, which in tens of updates can be as much as its means scatter. A batch that
    is seen twice running counts as two that are the same.

    Values are those of the recent statistics, gradients those of the batch's own (batch
    renormalisation, Ioffe 2017). Were the statistics constants to the gradient, the rate would
    shrink what comes in, update after update, and they would be too large for it all along.

    Args:
        width: W.
        batches: how far back the averages reach.
    """

    mean: Tensor
    variance: Tensor
    last: Tensor
    """Mean of the last batch."""
    count: Tensor
    """Batches so far."""

    def __init__(self, width: int, batches: int) -> None:
        super().__init__()
        self.batches = batches
        for name in ("mean", "variance", "last"):
            self.register_buffer(name, torch.empty(width))
        self.register_buffer("count", torch.empty(()))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Forget all batches."""
        for buffer, value in ((self.mean, 0), (self.variance, 1), (self.last, 0), (self.count, 0)):
            nn.init.constant_(buffer, value)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, W] normalised."""
        if not self.training:
            return (x - self.mean) / self.scale()
        self.learn(x)
        mean, spread = x.mean(0), (x.var(0, correction=0) + EPSILON).sqrt()
        own = (x - mean) * (spread.detach() / spread)
        return (own + mean.detach() - self.mean) / self.scale()

    def scale(self) -> Tensor:
        """The standard deviation over recent batches, [W]."""
        return (self.variance + EPSILON).sqrt()

    @torch.no_grad()
    def learn(self, x: Tensor) -> None:
        """Take x [B, W] into the averages, in place: a captured pass knows them by their memory."""
        mean, variance = x.mean(0), x.var(0, correction=0)
        between = torch.where(self.count > 0, (mean - self.last).square() / 2, 0)
        self.count.add_(1)
        share = (1 / self.count).clamp(min=1 / self.batches)
        self.mean.lerp_(mean, share)
        self.variance.lerp_(variance + between, share)
        self.last.copy_(mean)


def norm(width: int, batches: int) -> nn.Module:
    """`RecentNorm`, or batch normalisation where averages reach back over no batches."""
    if batches:
        return RecentNorm(width, batches)
    return nn.BatchNorm1d(width, eps=EPSILON, affine=False)


class NormalisedHead(nn.Module):
    """A head around another one: means that are normalised, scaled and shifted; the same scales.

    Args:
        head: to a diagonal normal over z, [B, D] or a sequence [B, n, d] with n d = D.
        latent: D.
        gamma: standard deviation of a dimension's means.
        batches: that the statistics are of, see `norm`.
        learnt: whether dimensions share out what they have: gamma is then their root mean square.
    """

    def __init__(
        self, head: nn.Module, latent: int, gamma: float, batches: int, learnt: bool = False
    ) -> None:
        super().__init__()
        self.head = head
        self.gamma = gamma
        self.norm = norm(latent, batches)
        self.weight = nn.Parameter(torch.empty(latent), requires_grad=learnt)
        self.shift = nn.Parameter(torch.empty(latent))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The same for all dimensions, and no shift."""
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.shift)

    def forward(self, features: Tensor, energy: Energy) -> Distribution:
        """Features [B, H] or [B, n, H] to q(z|x)."""
        q = as_normal(self.head(features, energy))
        scale = self.gamma * self.weight / self.weight.square().mean().sqrt()
        means = scale * self.norm(q.mean.flatten(1)) + self.shift
        return diagonal_normal(means.view_as(q.mean), q.stddev)
