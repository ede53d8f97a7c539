"""Posterior of fixed variance (Ghosh, Sajjadi, Vergari, Black and Schoelkopf 2020).

The option `fix_var` of the code of Li et al. (2019) and of those that build on it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from collapse_bench.model import Energy, SequenceVAE, diagonal_normal
from collapse_bench.model.distributions import as_normal
from collapse_bench.remedy import Remedy
from collapse_bench.settings import Above


class FixedVarianceHead(nn.Module):
    """The wrapped head's means, and one variance for every sentence and dimension."""

    def __init__(self, head: nn.Module, variance: float) -> None:
        super().__init__()
        self.head = head
        self.stddev = math.sqrt(variance)

    def forward(self, features: Tensor, energy: Energy) -> Distribution:
        """Features [B, H] or [B, n, H] to q(z|x)."""
        mean = as_normal(self.head(features, energy)).mean
        return diagonal_normal(mean, torch.full_like(mean, self.stddev))


@dataclass(frozen=True)
class FixedVariance(Remedy):
    """The posterior cannot become wider: only its means tell anything, and only they cost.

    To a standard normal prior the rate is (|mean|^2 + D (v - log v - 1)) / 2 nats. Unless v is 1 it
    has a floor, which a constant posterior meets.

    Positive case (`suites/positive.yaml`): NLL 8.02, R 1.30, beyond 0.69.

    Attributes:
        variance: v of each dimension. 0.5 commits 0.097 nats a dimension; papers tune it.
    """

    by_construction: ClassVar[tuple[str, ...]] = ("kl",)
    signature: ClassVar[Mapping[str, str]] = {
        "nothing": "rate without use",
        "hard": "use",
        "easy": "use",
    }

    variance: Annotated[float, Above(0)] = 0.5

    def build(self, model: SequenceVAE) -> Mapping[str, nn.Module]:
        """Wrap the head."""
        return {"head": FixedVarianceHead(model.head, self.variance)}
