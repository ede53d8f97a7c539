"""GECO (Rezende and Viola 2018, "Taming VAEs", algorithm 1)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

from torch import Tensor, nn

from collapse_bench.model import Forward, SequenceVAE
from collapse_bench.model.control import Memory, RunningMean, controlled, rate_of
from collapse_bench.remedy import Remedy, Run, Step
from collapse_bench.settings import Above, AtLeast, Between

LARGEST = 1e6
"""Bound on the multiplier and on its inverse: under a target out of reach it grows for ever."""


@dataclass(frozen=True)
class Geco(Remedy):
    """A constrained term is weighed by a multiplier that grows while the term is too large.

    - `distortion`, the paper's: R + lambda (D - target), so least rate at that distortion
    - `rate`: D + lambda (R - target), so least distortion at that rate. A target for the rate can
      be chosen without knowing the corpus

    After each update lambda <- lambda exp(speed C), C being the moving average of D / target - 1
    or R / target - 1. The paper leaves the constant of proportionality open. At convergence the
    constrained term is about its target, if that can be reached.

    Positive case (`suites/positive.yaml`): NLL 8.02, R 2.35, beyond 1.39.

    Attributes:
        constraint: the term whose target is given.
        target: of that term, nats a sentence. Give both: the default is for the distortion on Penn
            Treebank, where a language model has about 101.
        decay: of the moving average (alpha in the paper).
        speed: change of ln lambda in an update, where the term is twice its target; 0 is the plain
            VAE.
    """

    by_construction: ClassVar[tuple[str, ...]] = ("kl", "distortion")
    neutral: ClassVar[Mapping[str, Any] | None] = {"speed": 0.0}
    small: ClassVar[Mapping[str, Any]] = {"target": 3.6}
    signature: ClassVar[Mapping[str, str]] = {"nothing": "collapsed", "hard": "use", "easy": "use"}

    constraint: Literal["distortion", "rate"] = "distortion"
    target: Annotated[float, Above(0)] = 95.0
    decay: Annotated[float, Between(0, 1)] = 0.99
    speed: Annotated[float, AtLeast(0)] = 0.01

    def build(self, model: SequenceVAE) -> Mapping[str, nn.Module]:
        """The multiplier, and the moving average of the constraint."""
        memory = Memory(multiplier=1.0)
        memory.constraint = RunningMean(self.decay)
        return {"geco": memory}

    def step(self, step: Step, run: Run) -> Step:
        """Weigh the constrained term; raise or lower the multiplier."""
        memory: Any = run.model.further["geco"]

        def weigh(forward: Forward) -> Forward:
            if self.constraint == "distortion":
                off = forward.distortion - self.target
                return replace(forward, distortion=memory.multiplier * off)
            off = forward.kl - self.target / forward.kl.shape[1]
            return replace(forward, kl=memory.multiplier * off)

        def learn(forward: Forward) -> None:
            memory.constraint.learn(self.term(forward).mean() / self.target - 1)
            memory.multiplier *= (self.speed * memory.constraint.mean).exp()
            memory.multiplier.clamp_(1 / LARGEST, LARGEST)

        return controlled(step, weigh, learn)

    def term(self, forward: Forward) -> Tensor:
        """The constrained term of each sentence, [B] nats."""
        return forward.distortion if self.constraint == "distortion" else rate_of(forward)
