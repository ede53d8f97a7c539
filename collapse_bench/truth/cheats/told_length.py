"""A decoder that knows how many words are still to come."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from collapse_bench.corpus import Batch
from collapse_bench.model import SequenceVAE
from collapse_bench.remedy import Remedy


class Countdown(nn.Module):
    """Adds to each state a function of the number of tokens from there to the end."""

    def __init__(self, decoder: nn.Module, hidden: int) -> None:
        super().__init__()
        self.decoder = decoder
        self.left = nn.Linear(1, hidden)

    def forward(self, batch: Batch, z: Tensor) -> Tensor:
        """States [B, T, H]."""
        token = torch.arange(batch.mask.shape[1], device=z.device)
        left = (batch.lengths[:, None] - token).clamp(min=0)[:, :, None]
        states: Tensor = self.decoder(batch, z) + self.left(1 / (1 + left))
        return states


@dataclass(frozen=True)
class ToldLength(Remedy):
    """It saves what the length costs, some nats a sentence."""

    def build(self, model: SequenceVAE) -> Mapping[str, nn.Module]:
        """Wrap the decoder."""
        return {"decoder": Countdown(model.decoder, model.dimensions.hidden)}
