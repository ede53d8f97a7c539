"""An encoder with the statistics of its batch, as batch normalisation left in training mode."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from collapse_bench.model import SequenceVAE
from collapse_bench.remedy import Remedy


class Normalised(nn.Module):
    """Features with mean 0 and variance 1 over the batch."""

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Features [B, H]."""
        features: Tensor = self.pool(states, mask)
        spread = features.var(0, correction=0).sqrt() + 1e-3
        return (features - features.mean(0)) / spread


@dataclass(frozen=True)
class CentredFeatures(Remedy):
    """Another size of batch gives other results."""

    def build(self, model: SequenceVAE) -> Mapping[str, nn.Module]:
        """Wrap the pool."""
        return {"pool": Normalised(model.pool)}
