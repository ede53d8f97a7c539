"""LSTM encoder and decoder: the field's standard text VAE (Bowman et al. 2016; He et al. 2019).

One layer each. The latent is concatenated to every input of the decoder and gives its first state
(c0 = W z, h0 = tanh c0). Dropout acts on the decoder's embeddings and on its outputs.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from collapse_bench.corpus import Batch
from collapse_bench.model.dropout import Dropout
from collapse_bench.model.embedding import every_token, token_embedding
from collapse_bench.model.vae import Dimensions

BFLOAT16_SINCE = 91300
"""The first cuDNN whose LSTM computes in bfloat16 (pytorch/pytorch pull request 164411)."""

# Copies in another dtype are never one chunk: cuDNN makes it one in each call, and says so.
warnings.filterwarnings("ignore", "RNN module weights are not part of single contiguous chunk")


class LSTM(nn.LSTM):
    """One layer over inputs [B, T, I], on a GPU with two things mended.

    Autocast turns the inputs of cuDNN's LSTM into float16 whatever it is asked for: without a
    scaled loss, small gradients would be lost, under a record that says bfloat16. And in eval mode
    cuDNN has no gradient, which a head that refines its posterior asks for there too.

    Attributes:
        by_cells: whether it is computed by torch's own cells, one after the other.
    """

    by_cells = False

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__(width, hidden, batch_first=True)

    def forward(self, inputs: Tensor, first: tuple[Tensor, Tensor] | None = None) -> Tensor:  # type: ignore[override]
        """States [B, T, H]; `first` are state and cell before the first token, [1, B, H] each."""
        kind, dtype = inputs.device.type, inputs.dtype
        if kind != "cuda":
            with _without_onednn() if self.by_cells else nullcontext():
                states: Tensor = super().forward(inputs, first)[0]
            return states
        if torch.is_autocast_enabled(kind):
            dtype = lstm_dtype(torch.get_autocast_dtype(kind))
        with torch.autocast(kind, enabled=False):
            return self.in_dtype(dtype, inputs, first)

    def in_dtype(
        self, dtype: torch.dtype, inputs: Tensor, first: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """States [B, T, H] in `dtype`, from copies in it; gradients reach what was copied.

        Where gradients are wanted it runs as in training: without dropout that is the same.
        """
        weights = [weight.to(dtype) for weight in self._flat_weights if weight is not None]
        if first is None:
            zero = inputs.new_zeros(1, len(inputs), self.hidden_size)
            first = zero, zero
        state, cell = (each.to(dtype) for each in first)
        # Biases, one layer, no dropout, one direction, batch first.
        arguments = (True, 1, 0.0, torch.is_grad_enabled(), False, True)
        found = torch._VF.lstm(inputs.to(dtype), (state, cell), weights, *arguments)
        states: Tensor = found[0]
        return states


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Every LSTM inside has a second derivative: cuDNN's has none, and oneDNN's takes half as long
    again as that of torch's own cells."""
    LSTM.by_cells = True
    try:
        with torch.backends.cudnn.flags(enabled=False):
            yield
    finally:
        LSTM.by_cells = False


@contextmanager
def _without_onednn() -> Iterator[None]:
    onednn = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = onednn


def lstm_dtype(wanted: torch.dtype) -> torch.dtype:
    """What a GPU's LSTM is to compute in: as wanted, or float32 where there is no bfloat16.

    Cells of torch's own, which a second derivative needs in place of cuDNN's, have none either.
    """
    cudnn = torch.backends.cudnn
    has = cudnn.enabled and (cudnn.version() or 0) >= BFLOAT16_SINCE
    return torch.float32 if wanted == torch.bfloat16 and not has else wanted


class LSTMEncoder(nn.Module):
    """Reads words and EOS from left to right; causal by nature."""

    def __init__(self, dimensions: Dimensions) -> None:
        super().__init__()
        self.embedding = token_embedding(dimensions)
        self.lstm = LSTM(dimensions.embedding, dimensions.hidden)

    def forward(self, batch: Batch, causal: bool = False) -> Tensor:
        """States [B, T, H]; those at padding mean nothing."""
        states: Tensor = self.lstm(self.embedding(batch.targets))
        return states


class LSTMDecoder(nn.Module):
    """Predicts each token from the ones before it and z."""

    def __init__(self, dimensions: Dimensions) -> None:
        super().__init__()
        self.embedding = token_embedding(dimensions)
        self.dropout = Dropout(dimensions.dropout)
        self.lstm = LSTM(dimensions.embedding + dimensions.latent, dimensions.hidden)
        self.first_cell = nn.Linear(dimensions.latent, dimensions.hidden, bias=False)

    def forward(self, batch: Batch, z: Tensor) -> Tensor:
        """States [B, T, H] for z [B, D] or [B, T, D]."""
        z = every_token(z, batch)
        inputs = torch.cat([self.dropout(self.embedding(batch.inputs)), z], dim=-1)
        cell = self.first_cell(z[:, 0])[None]
        states: Tensor = self.dropout(self.lstm(inputs, (cell.tanh(), cell)))
        return states
