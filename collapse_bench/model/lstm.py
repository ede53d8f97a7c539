"""LSTM encoder and decoder: the field's standard text VAE (Bowman et al. 2016; He et al. 2019).

One layer each. The latent is concatenated to every input of the decoder and gives its first state
(c0 = W z, h0 = tanh c0). Dropout acts on the decoder's embeddings and on its outputs.
"""

import torch
from torch import Tensor, nn

from collapse_bench.corpus import Batch
from collapse_bench.model.dropout import Dropout
from collapse_bench.model.embedding import WordEmbedding, every_token
from collapse_bench.model.vae import Dimensions


class LSTMEncoder(nn.Module):
    """Reads words and EOS from left to right; causal by nature."""

    def __init__(self, dimensions: Dimensions) -> None:
        super().__init__()
        self.embedding = WordEmbedding(dimensions)
        self.lstm = nn.LSTM(dimensions.embedding, dimensions.hidden, batch_first=True)

    def forward(self, batch: Batch, causal: bool = False) -> Tensor:
        """States [B, T, H]; those at padding mean nothing."""
        states: Tensor = self.lstm(self.embedding(batch.targets))[0]
        return states


class LSTMDecoder(nn.Module):
    """Predicts each token from the ones before it and z."""

    def __init__(self, dimensions: Dimensions) -> None:
        super().__init__()
        self.embedding = WordEmbedding(dimensions)
        self.dropout = Dropout(dimensions.dropout)
        self.lstm = nn.LSTM(
            dimensions.embedding + dimensions.latent, dimensions.hidden, batch_first=True
        )
        self.first_cell = nn.Linear(dimensions.latent, dimensions.hidden, bias=False)

    def forward(self, batch: Batch, z: Tensor) -> Tensor:
        """States [B, T, H] for z [B, D] or [B, T, D]."""
        z = every_token(z, batch)
        inputs = torch.cat([self.dropout(self.embedding(batch.inputs)), z], dim=-1)
        cell = self.first_cell(z[:, 0])[None]
        states: Tensor = self.dropout(self.lstm(inputs, (cell.tanh(), cell))[0])
        return states
