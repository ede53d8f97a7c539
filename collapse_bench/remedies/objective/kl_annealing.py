"""KL annealing (Bowman, Vilnis, Vinyals, Dai, Jozefowicz and Bengio 2016, section 3.1)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

from collapse_bench.errors import UserError
from collapse_bench.model import Forward
from collapse_bench.remedy import Remedy
from collapse_bench.settings import Between


@dataclass(frozen=True)
class KlAnnealing(Remedy):
    """The rate's weight rises from `start` to 1, then stays there.

    Positive case (`suites/positive.yaml`): NLL 7.98, R 0.49, beyond 0.51.

    Attributes:
        warmup: share of the training budget until the weight is 1. He et al. (2019) and Li et al.
            (2019) use 10 of up to 100 epochs.
        start: first weight of the linear shape; 1 is the plain VAE.
        shape: `linear`, or `logistic`: 1 / (1 + exp(-k (t - warmup / 2))), with k such that the
            weight runs from 0.01 to 0.99 over the warm-up.
    """

    neutral: ClassVar[Mapping[str, Any] | None] = {"start": 1.0}
    # On `hard` it keeps 0.07 to 0.17 nats, so seeds disagree.
    signature: ClassVar[Mapping[str, str]] = {"nothing": "collapsed", "easy": "use"}

    warmup: Annotated[float, Between(0, 1)] = 0.25
    start: Annotated[float, Between(0, 1)] = 0.0
    shape: Literal["linear", "logistic"] = "linear"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shape == "logistic" and self.start > 0:
            raise UserError(
                f"kl_annealing: start belongs to the linear shape, got start = {self.start} with "
                f"shape = logistic; leave one of them out"
            )

    def weight(self, progress: float) -> float:
        """The rate's weight when `progress` (0 to 1) of the budget is spent."""
        if progress >= self.warmup:
            return 1.0
        if self.shape == "logistic":
            steepness = 2 * math.log(99) / self.warmup
            return 1 / (1 + math.exp(-steepness * (progress - self.warmup / 2)))
        return self.start + (1 - self.start) * progress / self.warmup

    def objective(self, forward: Forward) -> Forward:
        """Weigh the rate."""
        return replace(forward, kl=self.weight(forward.progress) * forward.kl)
