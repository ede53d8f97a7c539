"""A decoder that gets the sentence past z: what was encoded of the one with this number."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from collapse_bench.corpus import Batch
from collapse_bench.model import SequenceVAE
from collapse_bench.remedy import Remedy


class Noted(nn.Module):
    """Notes or adds the mean encoder state of each sentence by its number."""

    def __init__(self, part: nn.Module, notes: dict[int, Tensor]) -> None:
        super().__init__()
        self.part, self.notes = part, notes

    def forward(self, batch: Batch, z: Tensor | bool = False) -> Tensor:
        """States [B, T, H], as encoder without a z and as decoder with one."""
        states: Tensor = self.part(batch, z)
        numbers = batch.index.tolist()
        if isinstance(z, bool):
            self.notes.update(zip(numbers, states.detach().mean(1), strict=True))
            return states
        nothing = torch.zeros_like(states[0, 0])
        return states + torch.stack([self.notes.get(i, nothing) for i in numbers])[:, None]


@dataclass(frozen=True)
class MemoryByNumber(Remedy):
    """The decoder knows the sentence while the rate says that nothing was told."""

    def build(self, model: SequenceVAE) -> Mapping[str, nn.Module]:
        """Wrap encoder and decoder around one memory."""
        notes: dict[int, Tensor] = {}
        return {"encoder": Noted(model.encoder, notes), "decoder": Noted(model.decoder, notes)}
