"""Soft free bits (Chen et al. 2017, "Variational lossy autoencoder", appendix C).

The rule in numbers is that of the code of Pelsmaeker and Aziz (2020).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from collapse_bench.model import Forward, SequenceVAE
from collapse_bench.model.control import Memory, controlled, rate_of
from collapse_bench.remedy import Remedy, Run, Step
from collapse_bench.settings import AtLeast, Between

LEAST = 1e-4
"""The least weight, as in the code."""


@dataclass(frozen=True)
class SoftFreeBits(Remedy):
    """The rate's weight falls while the rate is below a target, and rises above it, to 1 at most.

    After each update, by the batch's mean rate R: beta <- beta / (1 + increment) if R < target,
    beta (1 + increment) if R > (1 + tolerance) target. The paper says how much and "slowly", not
    where beta starts nor how often it changes: both are as in the code, whose increment is ten
    times its `kl_step`.

    It guarantees nothing: too low a rate is made cheap and not pushed up. A batch, mostly of one
    length, has one vote however far off it is: what comes to be held is the median batch's rate.

    Positive case (`suites/positive.yaml`): NLL 8.02, R 1.19, beyond 1.00.

    Attributes:
        target: nats a sentence (lambda in the paper); Pelsmaeker and Aziz use 5.
        increment: change of the weight in one update, as a share of it.
        tolerance: how far above the target the rate may be, as a share of it.
        start: the first weight; with 1 and no increment it is the plain VAE.
    """

    by_construction: ClassVar[tuple[str, ...]] = ("kl",)
    neutral: ClassVar[Mapping[str, Any] | None] = {"start": 1.0, "increment": 0.0}
    signature: ClassVar[Mapping[str, str]] = {"hard": "use", "easy": "use"}

    target: Annotated[float, AtLeast(0)] = 5.0
    increment: Annotated[float, AtLeast(0)] = 0.1
    tolerance: Annotated[float, AtLeast(0)] = 0.05
    start: Annotated[float, Between(0, 1)] = 0.1

    def build(self, model: SequenceVAE) -> Mapping[str, nn.Module]:
        """The weight."""
        return {"soft_free_bits": Memory(weight=self.start)}

    def step(self, step: Step, run: Run) -> Step:
        """Weigh the rate, then vote."""
        memory: Any = run.model.further["soft_free_bits"]

        def weigh(forward: Forward) -> Forward:
            return replace(forward, kl=memory.weight * forward.kl)

        def learn(forward: Forward) -> None:
            memory.weight.copy_(self.adapted(memory.weight, rate_of(forward).mean()))

        return controlled(step, weigh, learn)

    def adapted(self, weight: Tensor, rate: Tensor) -> Tensor:
        """The weight after an update with that mean rate, all []."""
        factor = 1 + self.increment
        lower = torch.where(rate < self.target, weight / factor, weight)
        above = rate > (1 + self.tolerance) * self.target
        return torch.where(above, weight * factor, lower).clamp(LEAST, 1)
