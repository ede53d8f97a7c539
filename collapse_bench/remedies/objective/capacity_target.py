"""Capacity target (Burgess, Higgins, Pal, Matthey, Watters, Desjardins and Lerchner 2018, eq. 8).

For text as Prokhorov, Shareghi, Li, Pilehvar and Collier (2019) have it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

from torch import nn

from collapse_bench.model import Forward, SequenceVAE
from collapse_bench.model.control import RunningMean, controlled, rate_of
from collapse_bench.remedy import Remedy, Run, Step
from collapse_bench.settings import AtLeast, Between

DECAY = 0.9


@dataclass(frozen=True)
class CapacityTarget(Remedy):
    """The rate is drawn to a capacity C that rises: D + weight |R - C|.

    At convergence R is C, or what a beta-VAE with beta = `weight` has where that is more. Three
    objects have that formula, by what R is:

    - `recent batches`: the mean over the corpus. A running mean over some ten batches tells on
      which side of C it is, the batch gives the gradient. The rate swings about C a little
    - `batch`: the mean over the batch, as in the code of Prokhorov et al., whose batches mix
      lengths. Where a batch has one length it draws the rate of every length to C
    - `sentence`: the rate of each sentence, as equation 8 of Burgess et al. reads

    Positive case (`suites/positive.yaml`): NLL 8.06, R 1.36, beyond 0.69.

    Attributes:
        end: the last capacity, nats a sentence. Prokhorov et al. use 3, 15 and 100, Burgess et al.
            25 for images.
        start: the first one.
        rise: share of the budget over which it rises linearly; theirs is 2 epochs.
        weight: of the difference (beta or gamma): 1 for text, 1000 for images. With 1 and a
            capacity of 0 it is the plain VAE.
        per: what R is.
    """

    by_construction: ClassVar[tuple[str, ...]] = ("kl",)
    neutral: ClassVar[Mapping[str, Any] | None] = {"end": 0.0, "weight": 1.0}
    small: ClassVar[Mapping[str, Any]] = {"end": 8.0, "rise": 0.0}
    signature: ClassVar[Mapping[str, str]] = {"nothing": "rate without use"}

    end: Annotated[float, AtLeast(0)] = 3.0
    start: Annotated[float, AtLeast(0)] = 0.0
    rise: Annotated[float, Between(0, 1)] = 0.25
    weight: Annotated[float, AtLeast(0)] = 1.0
    per: Literal["recent batches", "batch", "sentence"] = "recent batches"

    def build(self, model: SequenceVAE) -> Mapping[str, nn.Module]:
        """The mean rate of recent batches."""
        return {"capacity_target": RunningMean(DECAY)}

    def step(self, step: Step, run: Run) -> Step:
        """Weigh by the side that the rate is on."""
        recent: Any = run.model.further["capacity_target"]

        def weigh(forward: Forward) -> Forward:
            capacity = self.capacity(forward.progress)
            level = rate_of(forward).detach()  # [B]
            if self.per != "sentence":
                level = level.mean()
            if self.per == "recent batches":
                level = recent.after(level)
            side = (level - capacity).sign().reshape(-1, 1)
            off = forward.kl - capacity / forward.kl.shape[1]
            return replace(forward, kl=self.weight * side * off)

        return controlled(step, weigh, lambda forward: recent.learn(rate_of(forward).mean()))

    def capacity(self, progress: float) -> float:
        """C when `progress` (0 to 1) of the budget is spent, nats."""
        risen = progress / self.rise if progress < self.rise else 1.0
        return self.start + (self.end - self.start) * risen
