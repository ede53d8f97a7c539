"""A decoder that sees a sentence's z among those of its batch."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from collapse_bench.corpus import Batch
from collapse_bench.model import SequenceVAE
from collapse_bench.remedy import Remedy


class Centred(nn.Module):
    """Takes off the mean of the batch."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, batch: Batch, z: Tensor) -> Tensor:
        """States [B, T, H]."""
        states: Tensor = self.decoder(batch, z - z.mean(0))
        return states


@dataclass(frozen=True)
class CentredLatent(Remedy):
    """Another size of batch gives other results."""

    def build(self, model: SequenceVAE) -> Mapping[str, nn.Module]:
        """Wrap the decoder."""
        return {"decoder": Centred(model.decoder)}
