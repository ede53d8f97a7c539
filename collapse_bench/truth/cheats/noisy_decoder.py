"""A decoder that answers otherwise each time, as dropout that is never off."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from collapse_bench.corpus import Batch
from collapse_bench.model import SequenceVAE
from collapse_bench.remedy import Remedy


class AlwaysDropping(nn.Module):
    """Drops a tenth of the states, in evaluation too."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, batch: Batch, z: Tensor) -> Tensor:
        """States [B, T, H]."""
        return F.dropout(self.decoder(batch, z), 0.1, training=True)


@dataclass(frozen=True)
class NoisyDecoder(Remedy):
    """An average of such likelihoods is none."""

    def build(self, model: SequenceVAE) -> Mapping[str, nn.Module]:
        """Wrap the decoder."""
        return {"decoder": AlwaysDropping(model.decoder)}
