"""A readout that copies words from before and forgets that the others then get less."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from collapse_bench.corpus import Batch
from collapse_bench.model import SequenceVAE
from collapse_bench.remedy import Remedy


class Copying(nn.Module):
    """A nat more for a word that has been in the sentence before."""

    def __init__(self, readout: Any) -> None:
        super().__init__()
        self.readout = readout

    def forward(self, states: Tensor, batch: Batch) -> Tensor:
        """Nats [B]."""
        return self.by_position(states, batch).sum(1)

    def by_position(self, states: Tensor, batch: Batch) -> Tensor:
        """Nats [B, T]."""
        nats: Tensor = self.readout.by_position(states, batch)
        same = batch.targets[:, :, None] == batch.targets[:, None, :]
        seen = same.tril(-1).any(2) & batch.mask
        return (nats + seen).clamp(max=0)


@dataclass(frozen=True)
class CopyingReadout(Remedy):
    """It saves a nat for every word that is repeated."""

    def build(self, model: SequenceVAE) -> Mapping[str, nn.Module]:
        """Wrap the readout."""
        return {"readout": Copying(model.readout)}
