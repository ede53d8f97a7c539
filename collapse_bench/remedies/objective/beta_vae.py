"""beta-VAE (Higgins, Matthey, Pal, Burgess, Glorot, Botvinick, Mohamed, Lerchner 2017, eq. 4)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

from collapse_bench.model import Forward
from collapse_bench.remedy import Remedy
from collapse_bench.settings import AtLeast


@dataclass(frozen=True)
class BetaVae(Remedy):
    """The rate has a constant weight; against collapse it is below 1.

    A weight below 1 buys rate on the rate-distortion curve (Alemi et al. 2018): what is measured is
    still the plain bound, which such a model does not optimise. It guarantees nothing.

    Positive case (`suites/positive.yaml`): NLL 8.00, R 1.46, beyond 1.26.

    Attributes:
        beta: the rate's weight. He et al. (2019) use 0.2 to 0.8 for text; 1 is the plain VAE.
    """

    by_construction: ClassVar[tuple[str, ...]] = ("kl",)
    neutral: ClassVar[Mapping[str, Any] | None] = {"beta": 1.0}
    signature: ClassVar[Mapping[str, str]] = {"nothing": "collapsed", "hard": "use", "easy": "use"}

    beta: Annotated[float, AtLeast(0)] = 0.4

    def objective(self, forward: Forward) -> Forward:
        """Weigh the rate."""
        return replace(forward, kl=self.beta * forward.kl)
