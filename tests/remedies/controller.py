"""A multiplier that holds the rate (Rezende and Viola 2018, algorithm 1)."""

import math
from dataclasses import dataclass, replace
from typing import Annotated

from collapse_bench.corpus import Batch
from collapse_bench.model import SLOTS, Forward, Objective, plain
from collapse_bench.remedy import Remedy, Run, Step
from collapse_bench.settings import Above


@dataclass(frozen=True)
class Controller(Remedy):
    """The rate's weight falls while the rate is below its target, and rises above it.

    Attributes:
        target: nats a sentence.
        speed: change of the weight's logarithm in an update, at most.
    """

    target: Annotated[float, Above(0)] = 3.0
    speed: Annotated[float, Above(0)] = 0.05

    def step(self, step: Step, run: Run) -> Step:
        """Weigh every update, and learn from it."""
        state = run.state.setdefault("controller", {"weight": 1.0})

        def controlled(
            batch: Batch, *, only: tuple[str, ...] = SLOTS, then: Objective = plain
        ) -> Forward:
            rates = []

            def weighed(forward: Forward) -> Forward:
                rates.append(float(forward.kl.detach().sum(1).mean()))
                return then(replace(forward, kl=state["weight"] * forward.kl))

            forward = step(batch, only=only, then=weighed)
            state["weight"] *= math.exp(self.speed * math.tanh(rates[-1] - self.target))
            return forward

        return controlled
