"""A readout that forgets a part of the softmax's normaliser."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from collapse_bench.corpus import Batch
from collapse_bench.model import SequenceVAE
from collapse_bench.remedy import Remedy


class Louder(nn.Module):
    """Every word a hundredth of a nat likelier than it is."""

    def __init__(self, readout: Any) -> None:
        super().__init__()
        self.readout = readout

    def forward(self, states: Tensor, batch: Batch) -> Tensor:
        """Nats [B]."""
        nats: Tensor = self.readout(states, batch)
        return nats + 0.01 * batch.lengths

    def by_position(self, states: Tensor, batch: Batch) -> Tensor:
        """Nats [B, T]."""
        nats: Tensor = self.readout.by_position(states, batch)
        return nats + 0.01 * batch.mask


@dataclass(frozen=True)
class UnnormalisedReadout(Remedy):
    """It saves a fifth of a nat a sentence, as much as a good latent."""

    def build(self, model: SequenceVAE) -> Mapping[str, nn.Module]:
        """Wrap the readout."""
        return {"readout": Louder(model.readout)}
