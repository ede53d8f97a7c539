"""Capacity (Burgess, Higgins, Pal, Matthey, Watters, Desjardins and Lerchner 2018, eq. 8)."""

from dataclasses import dataclass, replace
from typing import Annotated

from collapse_bench.model import Forward
from collapse_bench.remedy import Remedy
from collapse_bench.settings import AtLeast


@dataclass(frozen=True)
class Capacity(Remedy):
    """The rate is held at a target that rises to `most`.

    Attributes:
        most: the last target, nats a sentence.
        weight: of what the rate is off by.
    """

    most: Annotated[float, AtLeast(0)] = 4.0
    weight: Annotated[float, AtLeast(0)] = 2.0

    def objective(self, forward: Forward) -> Forward:
        """Add what the rate is off by."""
        off = (forward.kl.sum(1) - self.most * forward.progress).abs()
        return replace(forward, kl=0 * forward.kl, extra={"capacity": self.weight * off})
