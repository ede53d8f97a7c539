"""An encoder turned round: every state has seen what is still to come (Razavi et al. 2019)."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from collapse_bench.corpus import Batch


class AntiCausalEncoder(nn.Module):
    """A causal encoder run over the reversed sentence: state t has seen tokens t to the last."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, batch: Batch, causal: bool = False) -> Tensor:
        """States [B, T, H]."""
        place = torch.arange(batch.mask.shape[1], device=batch.mask.device)
        mirrored = torch.where(batch.mask, batch.lengths[:, None] - 1 - place, place)  # [B, T]
        row = torch.arange(len(mirrored), device=mirrored.device)[:, None]
        reversed_batch = replace(batch, targets=batch.targets[row, mirrored])
        states: Tensor = self.encoder(reversed_batch, causal=True)
        return states.gather(1, mirrored[:, :, None].expand_as(states))
