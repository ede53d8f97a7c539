"""Scale-VAE (Song, Sun and Wang 2024).

From the abstract: each dimension of the mean is multiplied by a factor, the same for all sentences,
that keeps the dimension discriminative; scaled draws are decoded and the rate is that of the
original. What the factor is comes from memory: the deviation that is wanted over that of the means.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from torch import Tensor, nn
from torch.distributions import Distribution

from collapse_bench.model import Energy, Forward, SequenceVAE, diagonal_normal
from collapse_bench.model.distributions import as_normal, rate
from collapse_bench.model.normalised import RecentNorm
from collapse_bench.remedy import Remedy
from collapse_bench.settings import Above

RECENT = 20
"""Batches that the averages reach back to."""


class ScaledHead(nn.Module):
    """A head around another one: means times a factor a dimension, the scales as they are."""

    def __init__(self, head: nn.Module, latent: int, stddev: float) -> None:
        super().__init__()
        self.head = head
        self.stddev = stddev
        self.norm = RecentNorm(latent, RECENT)

    def factor(self) -> Tensor:
        """[D]."""
        return self.stddev / self.norm.scale()

    def forward(self, features: Tensor, energy: Energy) -> Distribution:
        """Features [B, H] or [B, n, H] to q(z|x)."""
        q = as_normal(self.head(features, energy))
        means = q.mean.flatten(1)
        if self.training:
            self.norm.learn(means)
        return diagonal_normal((self.factor() * means).view_as(q.mean), q.stddev)


@dataclass(frozen=True)
class ScaleVae(Remedy):
    """The decoder is shown means that are scaled up; only those before it have a rate to pay.

    With f_j = stddev / (deviation of the means of dimension j over recent batches of all lengths),

        z ~ N(f mean, s^2),   and trained with is   KL(N(mean, s^2) || p).

    No gradient passes through f. The posterior here is the scaled one, so the rate that is measured
    is what z really costs: D stddev^2 / 2 or more to a standard normal prior. The one that is
    trained with bounds nothing; the means' part of it can shrink to nothing with no change of z,
    since f makes up for it. What all means have in common is scaled, too: in a small trial the
    measured rate was 6,000 nats after one update and 30 after 200. And so is what bfloat16 rounds
    off, which at first is as much as sentences differ by. First in a chain that weighs the rate.

    Positive case (`suites/positive.yaml`): NLL 8.09, R 3.75, beyond 1.31.

    Attributes:
        stddev: the deviation that is wanted of a dimension's means. The paper's is not known here.
    """

    by_construction: ClassVar[tuple[str, ...]] = (
        "kl",
        "mutual_information",
        "mutual_information_upper",
        "information_given_length",
        "information_given_length_upper",
        "active_units",
        "marginal_kl",
        "moment_kl",
        "dimension_kl",
    )
    signature: ClassVar[Mapping[str, str]] = {"nothing": "use", "hard": "use", "easy": "use"}

    stddev: Annotated[float, Above(0)] = 1.0

    def build(self, model: SequenceVAE) -> Mapping[str, nn.Module]:
        """Wrap the head."""
        return {"head": ScaledHead(model.head, model.dimensions.latent, self.stddev)}

    def objective(self, forward: Forward) -> Forward:
        """Replace the rate by that of the means as they were."""
        parts = forward.model.head.modules()  # a later remedy may have wrapped it
        head = next(part for part in parts if isinstance(part, ScaledHead))
        scaled = as_normal(forward.q)
        mean = (scaled.mean.flatten(1) / head.factor()).view_as(scaled.mean)
        q = diagonal_normal(mean, scaled.stddev)
        z = forward.z - scaled.mean + mean  # the same draw, of the means as they were
        return replace(forward, kl=rate(q, forward.p, z))
