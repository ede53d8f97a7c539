"""Dilated convolutions (Yang, Hu, Salakhutdinov and Berg-Kirkpatrick 2017)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from collapse_bench.corpus import Batch
from collapse_bench.model import Dimensions, SequenceVAE
from collapse_bench.model.dropout import Dropout
from collapse_bench.model.embedding import every_token, token_embedding
from collapse_bench.remedy import Remedy

DILATIONS = {
    "small": (1, 2, 4),
    "medium": (1, 2, 4, 8, 16),
    "large": (1, 2, 4, 8, 16) * 2,
    "very large": (1, 2, 4, 8, 16) * 3,
}
"""Of the blocks of each size. A block adds twice its dilation to the tokens that are seen."""


class DilatedBlock(nn.Module):
    """Three tokens that are `dilation` apart, seen at half the width, around a residual."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        inner = max(1, width // 2)
        self.past = 2 * dilation
        self.narrow = nn.Conv1d(width, inner, 1)
        self.dilated = nn.Conv1d(inner, inner, 3, dilation=dilation)
        self.widen = nn.Conv1d(inner, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, H, T], to which is added what was seen of each token and of those before it."""
        seen = self.dilated(F.pad(self.narrow(x).relu(), (self.past, 0)))
        added: Tensor = self.widen(seen.relu())
        return x + added


class DilatedDecoder(nn.Module):
    """Predicts each token from z and the tokens that its blocks reach back to."""

    def __init__(self, dimensions: Dimensions, dilations: tuple[int, ...]) -> None:
        super().__init__()
        width = dimensions.hidden
        self.embedding = token_embedding(dimensions)
        self.dropout = Dropout(dimensions.dropout)
        self.enter = nn.Linear(dimensions.embedding + dimensions.latent, width)
        self.blocks = nn.Sequential(*(DilatedBlock(width, dilation) for dilation in dilations))

    def forward(self, batch: Batch, z: Tensor) -> Tensor:
        """States [B, T, H] for z [B, D] or [B, T, D]."""
        words = self.dropout(self.embedding(batch.inputs))
        x = self.enter(torch.cat([words, every_token(z, batch)], dim=-1)).transpose(1, 2)
        states: Tensor = self.dropout(self.blocks(x).transpose(1, 2))
        return states


@dataclass(frozen=True)
class DilatedConvolutions(Remedy):
    """A convolutional decoder whose depth sets how many tokens of the past it sees.

    z is beside the word at every position. A block is a pointwise convolution to half the width, a
    causal one over three tokens that are its dilation apart, and a pointwise one back, with ReLU
    between them. The paper's widths are 1024 and 512; its dropout, 0.1 after each layer, gives way
    to the suite's. The same decoder in every architecture. Public code under this name
    (contiguous-succotash, and TextBox after it) has three plain dilated layers instead.

    It guarantees that nothing beyond its reach is seen other than through z. Its larger sizes reach
    back to the start of almost every sentence of a corpus of single sentences, and are only another
    decoder there.

    Positive case: trained as in `suites/quick-grid.yaml`, on newswire at its easy level, alone NLL
    40.39, R 2.04, beyond 1.80; the plain VAE collapses there. In `suites/positive.yaml`, whose
    strings its smallest size sees whole, it collapses.

    Attributes:
        size: 15, 63, 125 or 187 tokens of history, <bos> included (SCNN, MCNN, LCNN and VLCNN).
    """

    # A decoder that knows less of the past gains more from z.
    by_construction: ClassVar[tuple[str, ...]] = (
        "useful_beyond",
        "useful_information",
        "useful_rate",
        "shuffle_gap",
        "shuffle_gap_any",
        "shuffle_gap_later",
    )
    signature: ClassVar[Mapping[str, str]] = {"nothing": "collapsed", "hard": "use", "easy": "use"}

    size: Literal["small", "medium", "large", "very large"] = "small"

    def build(self, model: SequenceVAE) -> Mapping[str, nn.Module]:
        """Replace the decoder."""
        return {"decoder": DilatedDecoder(model.dimensions, DILATIONS[self.size])}
