"""Batch-normalised means (Zhu, Bi, Liu, Ma, Li and Wu 2020, algorithm 1)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from torch import Tensor, nn
from torch.distributions import Distribution

from collapse_bench.model import Energy, SequenceVAE, diagonal_normal
from collapse_bench.model.distributions import as_normal
from collapse_bench.remedy import Remedy
from collapse_bench.settings import Above


class NormalisedHead(nn.Module):
    """The wrapped head's normal with means of a fixed variance over the batch."""

    def __init__(self, head: nn.Module, latent: int, scale: float) -> None:
        super().__init__()
        self.head = head
        self.norm = nn.BatchNorm1d(latent)
        self.norm.weight.requires_grad_(False).fill_(scale)

    def forward(self, features: Tensor, energy: Energy) -> Distribution:
        """Features [B, H] to q(z|x)."""
        q = as_normal(self.head(features, energy))
        return diagonal_normal(self.norm(q.mean), q.stddev)


@dataclass(frozen=True)
class NormalisedMeans(Remedy):
    """The expected rate has a floor.

    Attributes:
        scale: standard deviation of the means.
    """

    scale: Annotated[float, Above(0)] = 0.6

    def build(self, model: SequenceVAE) -> Mapping[str, nn.Module]:
        """Wrap the head."""
        return {"head": NormalisedHead(model.head, model.dimensions.latent, self.scale)}
