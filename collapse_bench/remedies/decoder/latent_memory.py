"""Latent memory of Optimus (Li, Gao, Li, Peng, Li, Zhang and Gao 2020)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from collapse_bench.corpus import Batch
from collapse_bench.model import Dimensions, SequenceVAE
from collapse_bench.model.dropout import Dropout
from collapse_bench.model.embedding import every_token, token_embedding
from collapse_bench.model.transformer import Stack
from collapse_bench.remedy import Remedy


class MemoryDecoder(nn.Module):
    """A Transformer decoder each of whose layers attends to z and to the tokens so far."""

    def __init__(self, dimensions: Dimensions, embedding: bool) -> None:
        super().__init__()
        width, layers = dimensions.hidden, dimensions.layers
        self.embedding = token_embedding(dimensions)
        self.dropout = Dropout(dimensions.dropout)
        self.latent = nn.Linear(dimensions.latent, width, bias=False) if embedding else None
        self.memory = nn.Linear(dimensions.latent, layers * width, bias=False)
        self.stack = Stack(dimensions)

    def forward(self, batch: Batch, z: Tensor) -> Tensor:
        """States [B, T, H] for z [B, D] or [B, T, D]."""
        inputs = self.dropout(self.embedding(batch.inputs))
        latent = None if self.latent is None else self.latent(every_token(z, batch))
        slots = z[:, None] if z.dim() == 2 else z
        memories = self.memory(slots).chunk(len(self.stack.blocks), dim=-1)
        states = self.stack(inputs, latent, allowed(batch, slots.shape[1]), memories)
        dropped: Tensor = self.dropout(states)
        return dropped


def allowed(batch: Batch, slots: int) -> Tensor:
    """[1, T, S + T]: a token sees the only slot, or of as many as tokens its own, and the past."""
    tokens = batch.mask.shape[1]
    every = torch.ones(tokens, tokens, dtype=torch.bool, device=batch.mask.device)
    slot = every[:, :1] if slots == 1 else torch.eye(tokens, dtype=torch.bool, device=every.device)
    return torch.cat([slot, every.tril()], dim=1)[None]


@dataclass(frozen=True)
class LatentMemory(Remedy):
    """z is a memory slot beside the tokens that each layer of a Transformer attends to.

    The slot of a layer is a linear map of z of its own, key and value in one as in the paper. The
    tokens compete with it for the attention, unlike with cross-attention to z alone, which would
    add a linear map of z whatever the tokens are. A plain Transformer entry has z added to the
    embeddings alone. It guarantees nothing. With z for each token, a token sees its own.

    Attributes:
        embedding: whether z is also added to the embeddings, as in the published models.
    """

    architectures: ClassVar[tuple[str, ...]] = ("transformer",)

    embedding: bool = True

    def build(self, model: SequenceVAE) -> Mapping[str, nn.Module]:
        """Replace the decoder."""
        return {"decoder": MemoryDecoder(model.dimensions, self.embedding)}
