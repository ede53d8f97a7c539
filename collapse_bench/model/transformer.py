"""Transformer encoder and causal decoder (Vaswani et al. 2017), pre-norm (Xiong et al. 2020).

z is projected and added to the decoder's input at every position. Cross-attention to a memory of
one slot puts all its weight on that slot, so it adds a linear map of z too; adding it directly says
so, costs nothing, and lets z differ between positions. Slots among the keys of self-attention are
something else, since the tokens compete with them; remedies can ask for such. Dropout acts where
the LSTM has it, on the decoder's embeddings and outputs, so that the architecture is all that
differs.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from collapse_bench.corpus import Batch
from collapse_bench.model.dropout import Dropout
from collapse_bench.model.embedding import every_token, token_embedding
from collapse_bench.model.vae import Dimensions


def positions(tokens: int, width: int, device: torch.device) -> Tensor:
    """Sinusoids [T, W] (Vaswani et al. 2017, section 3.5): no longest sentence has to be known."""
    frequency = torch.exp(torch.arange(0, width, 2, device=device) * (-math.log(10000.0) / width))
    angle = torch.arange(tokens, device=device)[:, None] * frequency
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[:, :width]


def attention(query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None) -> Tensor:
    """Scaled dot-product attention (Vaswani et al. 2017, equation 1).

    Sentences are short: on a processor, written out it is several times faster than the fused
    kernel made for long texts.

    Args:
        query: [B, heads, T, D].
        key, value: [B, heads, K, D].
        allowed: which key each query may see, to be broadcast to [B, heads, T, K]; at least one.
            On a GPU None is what `causal_mask` would be.

    Returns:
        [B, heads, T, D].
    """
    if allowed is None or query.device.type == "cuda":
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=allowed, is_causal=allowed is None
        )
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    weights = scores.masked_fill(~allowed, -math.inf).softmax(-1)
    seen: Tensor = weights.to(value.dtype) @ value
    return seen


class Block(nn.Module):
    """Self-attention and a feed-forward layer, each behind a layer norm and around a residual."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attention_output = nn.Linear(width, width)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor, allowed: Tensor | None, memory: Tensor | None = None) -> Tensor:
        """One layer.

        Args:
            x: tokens [B, T, H].
            allowed: [B or 1, T, S + T], which slot or token (second) each token (first) may see.
            memory: [B, S, H], slots that are keys and values beside the tokens; None is S = 0.

        Returns:
            [B, T, H].
        """
        split = self.query_key_value(self.attention_norm(x)).chunk(3, dim=-1)
        query, key, value = (self._by_head(part) for part in split)
        if memory is not None:
            slots = self._by_head(memory)
            key, value = torch.cat([slots, key], 2), torch.cat([slots, value], 2)
        seen = attention(query, key, value, allowed if allowed is None else allowed[:, None])
        x = x + self.attention_output(seen.transpose(1, 2).flatten(2))
        deeper: Tensor = x + self.feed_forward(x)
        return deeper

    def _by_head(self, x: Tensor) -> Tensor:
        heads: Tensor = x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return heads


class Stack(nn.Module):
    """Blocks and a last norm over inputs [B, T, E]."""

    def __init__(self, dimensions: Dimensions) -> None:
        super().__init__()
        self.enter = nn.Linear(dimensions.embedding, dimensions.hidden)
        self.blocks = nn.ModuleList(
            Block(dimensions.hidden, dimensions.heads) for _ in range(dimensions.layers)
        )
        self.norm = nn.LayerNorm(dimensions.hidden)

    def forward(
        self,
        inputs: Tensor,
        latent: Tensor | None,
        allowed: Tensor | None,
        memories: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """States [B, T, H]; `latent` [B, T, H] is added before the first block.

        `memories` are the slots [B, S, H] of each block, where there are any.
        """
        # Vaswani et al. (2017), section 3.4: else the words drown in the positions.
        x = self.enter(inputs * math.sqrt(inputs.shape[2]))
        x = x + positions(x.shape[1], x.shape[2], x.device)
        if latent is not None:
            x = x + latent
        for i, block in enumerate(self.blocks):
            x = block(x, allowed, memories[i] if memories else None)
        states: Tensor = self.norm(x)
        return states


def causal_mask(batch: Batch) -> Tensor | None:
    """[1, T, T], true where the second token is not after the first.

    None on a GPU, whose kernel knows which these are and skips the others.
    """
    if batch.mask.device.type == "cuda":
        return None
    tokens = batch.mask.shape[1]
    ones = torch.ones(tokens, tokens, dtype=torch.bool, device=batch.mask.device)
    return ones.tril()[None]


class TransformerEncoder(nn.Module):
    """Every token sees the whole sentence, or with `causal` what came before it."""

    def __init__(self, dimensions: Dimensions) -> None:
        super().__init__()
        self.embedding = token_embedding(dimensions)
        self.stack = Stack(dimensions)

    def forward(self, batch: Batch, causal: bool = False) -> Tensor:
        """States [B, T, H]; those at padding mean nothing."""
        allowed = (
            causal_mask(batch)
            if causal
            else batch.mask[:, None, :].expand(-1, batch.mask.shape[1], -1)
        )
        states: Tensor = self.stack(self.embedding(batch.targets), None, allowed)
        return states


class TransformerDecoder(nn.Module):
    """Predicts each token from the ones before it and z."""

    def __init__(self, dimensions: Dimensions) -> None:
        super().__init__()
        self.embedding = token_embedding(dimensions)
        self.dropout = Dropout(dimensions.dropout)
        self.latent = nn.Linear(dimensions.latent, dimensions.hidden, bias=False)
        self.stack = Stack(dimensions)

    def forward(self, batch: Batch, z: Tensor) -> Tensor:
        """States [B, T, H] for z [B, D] or [B, T, D]."""
        inputs = self.dropout(self.embedding(batch.inputs))
        latent = self.latent(every_token(z, batch))
        states: Tensor = self.dropout(self.stack(inputs, latent, causal_mask(batch)))
        return states
