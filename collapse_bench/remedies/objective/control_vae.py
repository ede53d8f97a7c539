"""ControlVAE (Shao, Yao, Sun, Zhang, Liu, Liu, Wang and Abdelzaher 2020, algorithm 1)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from collapse_bench.model import Forward, SequenceVAE
from collapse_bench.model.control import Memory, controlled, rate_of
from collapse_bench.remedy import Remedy, Run, Step
from collapse_bench.settings import AtLeast, Between


@dataclass(frozen=True)
class ControlVae(Remedy):
    """The rate's weight is the output of a PI controller that holds the rate at a target.

    With e = target - R, R the batch's mean rate: P = kp / (1 + exp(e)), I <- I - ki e, and the
    weight of the next update is `least` + P + I, held between `least` and 1, as in the authors'
    language models.

    Anti-windup: I stays as it is while the weight is at a bound and e drives it further. As printed
    it stays while the last weight is outside the bounds, where it is never let. The authors' code
    for Penn Treebank asks whether that is below 0 and above 1 at once; the one for dialogues asks
    of the weight before it is bounded, and can lock I for ever.

    At convergence R is about the target, if a weight between these bounds gives that.

    Positive case (`suites/positive.yaml`): NLL 8.02, R 1.78, beyond 1.37.

    Attributes:
        target: nats a sentence; for Penn Treebank the authors compare 1 and 3.
        kp: gain of the non-linear proportional term.
        ki: gain of the integral term.
        least: the least weight, and the first; 1 is the plain VAE.
    """

    by_construction: ClassVar[tuple[str, ...]] = ("kl",)
    neutral: ClassVar[Mapping[str, Any] | None] = {"least": 1.0}
    signature: ClassVar[Mapping[str, str]] = {
        "nothing": "rate without use",
        "hard": "use",
        "easy": "use",
    }

    target: Annotated[float, AtLeast(0)] = 3.0
    kp: Annotated[float, AtLeast(0)] = 0.01
    ki: Annotated[float, AtLeast(0)] = 1e-4
    least: Annotated[float, Between(0, 1)] = 0.0

    def build(self, model: SequenceVAE) -> Mapping[str, nn.Module]:
        """The weight, and the integral of the error."""
        return {"control_vae": Memory(weight=self.least, integral=0.0)}

    def step(self, step: Step, run: Run) -> Step:
        """Weigh the rate, then control."""
        memory: Any = run.model.further["control_vae"]

        def weigh(forward: Forward) -> Forward:
            return replace(forward, kl=memory.weight * forward.kl)

        def learn(forward: Forward) -> None:
            weight, integral = self.output(memory.integral, rate_of(forward).mean())
            memory.weight.copy_(weight)
            memory.integral.copy_(integral)

        return controlled(step, weigh, learn)

    def output(self, integral: Tensor, rate: Tensor) -> tuple[Tensor, Tensor]:
        """Weight and integral after an update with that mean rate, all []."""
        error = self.target - rate
        base = self.least + self.kp * torch.sigmoid(-error)
        moved = integral - self.ki * error
        wound = torch.where(error < 0, base + moved > 1, base + moved < self.least)
        integral = torch.where(wound, integral, moved)
        return (base + integral).clamp(self.least, 1), integral
