"""Cyclical annealing (Fu, Li, Liu, Gao, Celikyilmaz and Carin 2019, equations 6 and 7)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

from collapse_bench.model import Forward
from collapse_bench.remedy import Remedy
from collapse_bench.settings import AtLeast, Between


@dataclass(frozen=True)
class CyclicalAnnealing(Remedy):
    """The rate's weight rises from 0 to 1 and starts again, several times over the training.

    The learning rate stays as it is: the authors' code restarts it with each cycle, which is not
    part of the method.

    Positive case (`suites/positive.yaml`): NLL 8.00, R 0.30, beyond 0.29.

    Attributes:
        cycles: how often the weight starts again (M in the paper).
        ramp: share of a cycle in which the weight rises linearly (R in the paper); 0 is the plain
            VAE.
    """

    neutral: ClassVar[Mapping[str, Any] | None] = {"ramp": 0.0}
    signature: ClassVar[Mapping[str, str]] = {"nothing": "collapsed", "hard": "use", "easy": "use"}

    cycles: Annotated[int, AtLeast(1)] = 4
    ramp: Annotated[float, Between(0, 1)] = 0.5

    def weight(self, progress: float) -> float:
        """The rate's weight when `progress` (0 to 1) of the budget is spent."""
        within_cycle = progress * self.cycles % 1.0 if progress < 1 else 1.0
        return within_cycle / self.ramp if within_cycle < self.ramp else 1.0

    def objective(self, forward: Forward) -> Forward:
        """Weigh the rate."""
        return replace(forward, kl=self.weight(forward.progress) * forward.kl)
