"""KL annealing (Bowman et al. 2016) along half a cosine (new)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

from collapse_bench.model import Forward
from collapse_bench.remedy import Remedy
from collapse_bench.settings import Between


@dataclass(frozen=True)
class CosineAnnealing(Remedy):
    """The rate's weight rises from 0 to 1, slowly at both ends, then stays there.

    It guarantees nothing.

    Attributes:
        warmup: share of the budget until the weight is 1; 0 is the plain VAE.
    """

    neutral: ClassVar[Mapping[str, Any] | None] = {"warmup": 0.0}

    warmup: Annotated[float, Between(0, 1)] = 0.25

    def weight(self, progress: float) -> float:
        """The rate's weight when `progress` (0 to 1) of the budget is spent."""
        if progress >= self.warmup:
            return 1.0
        return (1 - math.cos(math.pi * progress / self.warmup)) / 2

    def objective(self, forward: Forward) -> Forward:
        """Weigh the rate."""
        return replace(forward, kl=self.weight(forward.progress) * forward.kl)
