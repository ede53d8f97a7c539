"""DU-VAE (Shen, Qin, Wang, Zhu, Chen and Xiong 2021, "Diversity and uncertainty awareness")."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor, nn
from torch.distributions import Distribution

from collapse_bench.model import Energy, SequenceVAE, diagonal_normal
from collapse_bench.model.distributions import as_normal
from collapse_bench.model.dropout import Dropout
from collapse_bench.model.normalised import NormalisedHead
from collapse_bench.remedy import Remedy
from collapse_bench.settings import Above, AtLeast, Between

LEAST_VARIANCE = 1 / (2 * math.pi * math.e)
"""Of a dimension: with less the entropy of a normal is negative."""


class DroppedVariance(nn.Module):
    """A head around another one: in training some variances are dropped, and all have a floor."""

    def __init__(self, head: nn.Module, drop: float) -> None:
        super().__init__()
        self.head = head
        self.dropout = Dropout(drop)

    def forward(self, features: Tensor, energy: Energy) -> Distribution:
        """Features [B, H] or [B, n, H] to q(z|x)."""
        q = as_normal(self.head(features, energy))
        return diagonal_normal(q.mean, (self.dropout(q.variance) + LEAST_VARIANCE).sqrt())


@dataclass(frozen=True)
class DuVae(Remedy):
    """Means are batch-normalised for diversity; variances are dropped against uncertainty.

    Means are as in BN-VAE, but dimensions share out sum_j gamma_j^2 = D gamma^2 as they learn. So
    the mean rate to a standard normal prior is about D gamma^2 / 2 or more, whether z is used or
    not. With v the head's variance, a variance is v + 1 / (2 pi e) in evaluation and
    g v / (1 - drop) + 1 / (2 pi e) in training; g is 0 with probability `drop`, else 1. A dropped
    dimension costs at least 0.95 nats of rate.

    Other than in the authors' code: there floor and dropout begin when an annealing of the rate is
    over, here at once; chain `kl_annealing` for the annealing. There gamma is scaled back to its
    norm before each pass, here it is divided by its norm, so that gradients know of it. There
    batches under 16 are skipped, and 1e-5 is added to a variance. Statistics are those of BN-VAE.

    Positive case (`suites/positive.yaml`): NLL 8.04, R 1.26, beyond 0.92.

    Attributes:
        gamma: root mean square of the standard deviations of the means.
        drop: probability that a variance is dropped; 1 - p in the paper. At 1 all are at the floor.
        recent: batches that the averages reach back; 0 is the published form, which in evaluation
            has averages of batches (momentum 0.1).
    """

    by_construction: ClassVar[tuple[str, ...]] = (
        "kl",
        "active_units",
        "mutual_information",
        "mutual_information_upper",
        "information_given_length",
    )
    signature: ClassVar[Mapping[str, str]] = {"nothing": "use", "hard": "use", "easy": "use"}

    gamma: Annotated[float, Above(0)] = 0.5
    drop: Annotated[float, Between(0, 1)] = 0.2
    recent: Annotated[int, AtLeast(0)] = 10

    def build(self, model: SequenceVAE) -> Mapping[str, nn.Module]:
        """Wrap the head twice."""
        head = NormalisedHead(
            model.head, model.dimensions.latent, self.gamma, self.recent, learnt=True
        )
        return {"head": DroppedVariance(head, self.drop)}
