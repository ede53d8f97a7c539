"""Dispersed encoder features (Long, Cao and Cheung 2020), by their cosines.

The paper's regulariser is written from memory: the mean cosine of all pairs of a batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

from torch.nn import functional as F

from collapse_bench.model import Forward
from collapse_bench.remedy import Remedy
from collapse_bench.settings import AtLeast


@dataclass(frozen=True)
class CosineFeatures(Remedy):
    """Features of different sentences shall not point in one direction.

    A sentence's term is `weight` times the mean cosine of its features h with those of the B - 1
    others, so the mean over the batch is weight / (B (B - 1)) sum over i != j of cos(h_i, h_j).
    It acts on the encoder alone and guarantees nothing: features may differ and the posteriors not.
    Nearly every batch is of one length, so it is sentences of a length that it sets apart.

    Positive case (`suites/positive-distant.yaml`): with a weight of 5 on pooled features, and an
    annealing, NLL 32.51, R 1.69, beyond 1.16, where pooling and annealing alone have 0.29; without
    the annealing 0.67, where pooling alone has 0.53. On the last state, with an annealing, it ends
    collapsed there, and without one in `suites/positive.yaml`.

    Attributes:
        weight: nats a sentence for a mean cosine of 1; 0 is the plain VAE. The paper's is not known
            here.
    """

    neutral: ClassVar[Mapping[str, Any] | None] = {"weight": 0.0}
    signature: ClassVar[Mapping[str, str]] = {"nothing": "collapsed", "easy": "use"}

    weight: Annotated[float, AtLeast(0)] = 1.0

    def objective(self, forward: Forward) -> Forward:
        """Add the term."""
        if self.weight == 0:
            return forward
        direction = F.normalize(forward.features.flatten(1).float(), dim=1)  # [B, n H]
        others = (direction.sum(0) - direction) / max(1, len(direction) - 1)
        term = self.weight * (direction * others).sum(1)
        return replace(forward, extra={**forward.extra, "cosine_features": term})
