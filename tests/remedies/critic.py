"""A contrastive critic of z (van den Oord, Li and Vinyals 2018, eq. 4), trained along."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated

from torch import Tensor, nn

from collapse_bench.model import Forward, SequenceVAE
from collapse_bench.remedy import Remedy
from collapse_bench.settings import AtLeast


class Scores(nn.Module):
    """How well each z goes with each sentence's features."""

    def __init__(self, latent: int, hidden: int) -> None:
        super().__init__()
        self.match = nn.Linear(latent, hidden)

    def forward(self, z: Tensor, features: Tensor) -> Tensor:
        """z [B, D] and features [B, H] to scores [B, B]."""
        scores: Tensor = self.match(z) @ features.T
        return scores


@dataclass(frozen=True)
class Critic(Remedy):
    """What the critic cannot tell apart costs.

    Attributes:
        weight: of its loss.
    """

    weight: Annotated[float, AtLeast(0)] = 1.0

    def build(self, model: SequenceVAE) -> Mapping[str, nn.Module]:
        """The critic, which fills no slot."""
        return {"critic": Scores(model.dimensions.latent, model.dimensions.hidden)}

    def objective(self, forward: Forward) -> Forward:
        """Add the critic's loss, nats a sentence."""
        scores = forward.model.further["critic"](forward.z, forward.features)
        lost = -scores.log_softmax(1).diagonal()
        return replace(forward, extra={**forward.extra, "critic": self.weight * lost})
