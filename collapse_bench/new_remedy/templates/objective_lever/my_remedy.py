"""My remedy (new)."""
# The first line names the method and where it is from: authors, year and equation, or (new).

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

from collapse_bench.model import Forward
from collapse_bench.remedy import Remedy
from collapse_bench.settings import AtLeast


@dataclass(frozen=True)
class MyRemedy(Remedy):
    """What it does, in a sentence.

    What it guarantees, and what it does not.

    Attributes:
        weight: of the rate; 1 is the plain VAE.
    """

    # Metrics that it sets or moves whatever the model learns; `list metrics` names all.
    by_construction: ClassVar[tuple[str, ...]] = ("kl",)
    # Settings with which it is the plain VAE to the bit; without any, remove these lines.
    neutral: ClassVar[Mapping[str, Any] | None] = {"weight": 1.0}

    # A setting has an annotation, which is its rule (AtLeast, Above, Between, Literal["a", "b"]),
    # and a literal as its default, the paper's.
    weight: Annotated[float, AtLeast(0)] = 0.5

    def objective(self, forward: Forward) -> Forward:
        """Weigh the rate."""
        # Terms are nats a sentence: distortion [B], kl [B, K] by dimension, extra {name: [B]}.
        # Replace them in the shapes they came in. A schedule asks forward.progress, 0 to 1, the
        # share of the budget that is spent.
        return replace(forward, kl=self.weight * forward.kl)
