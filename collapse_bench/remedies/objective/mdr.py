"""Minimum desired rate (Pelsmaeker and Aziz 2020, and the code of its authors)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

from torch import nn

from collapse_bench.model import Forward, SequenceVAE
from collapse_bench.model.control import Memory, controlled, rate_of
from collapse_bench.remedy import Remedy, Run, Step
from collapse_bench.settings import AtLeast

DECAY, EPSILON = 0.99, 1e-8
"""RMSprop's (Tieleman and Hinton 2012), as PyTorch has them."""


@dataclass(frozen=True)
class Mdr(Remedy):
    """The negative ELBO is minimised subject to R >= target, by a Lagrange multiplier u >= 0.

    min over the model, max over u, of D + R + u (target - R), R being the mean rate of a batch.
    As in the authors' code u = |w|, and w ascends by an RMSprop of its own after each update. At
    convergence R is about the target, or above it with u = 0. In that code, by a typo, Adam moves w
    as well, and the model's gradient is clipped together with that of w: neither is done here.

    The constraint is a term of its own, on the rate itself: what other remedies of a chain make of
    the rate's weight leaves it as it is.

    Positive case (`suites/positive.yaml`): NLL 8.05, R 1.95, beyond 1.36.

    Attributes:
        target: r, nats a sentence; the authors use 5.
        start: the first multiplier; from 0 it never moves, which is the plain VAE.
        learning_rate: of the multiplier.
    """

    by_construction: ClassVar[tuple[str, ...]] = ("kl",)
    neutral: ClassVar[Mapping[str, Any] | None] = {"start": 0.0}
    signature: ClassVar[Mapping[str, str]] = {"nothing": "rate without use"}

    target: Annotated[float, AtLeast(0)] = 5.0
    start: Annotated[float, AtLeast(0)] = 1.01
    learning_rate: Annotated[float, AtLeast(0)] = 1e-3

    def build(self, model: SequenceVAE) -> Mapping[str, nn.Module]:
        """The multiplier w, and RMSprop's running mean of its squared gradient."""
        return {"mdr": Memory(multiplier=self.start, square=0.0)}

    def step(self, step: Step, run: Run) -> Step:
        """Add the constraint; ascend in the multiplier."""
        memory: Any = run.model.further["mdr"]

        def weigh(forward: Forward) -> Forward:
            term = memory.multiplier.abs() * (self.target - rate_of(forward))
            return replace(forward, extra={**forward.extra, "mdr": term})

        def learn(forward: Forward) -> None:
            gradient = memory.multiplier.sign() * (self.target - rate_of(forward).mean())
            memory.square.lerp_(gradient.square(), 1 - DECAY)
            memory.multiplier += self.learning_rate * gradient / (memory.square.sqrt() + EPSILON)

        return controlled(step, weigh, learn)
