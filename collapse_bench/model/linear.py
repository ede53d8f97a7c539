"""Linear encoder and decoder: the linear VAE of vectors, with a known optimum (Lucas et al. 2019).

Of sequences of one step. With a Gaussian readout the decoder is probabilistic principal components
(Tipping and Bishop 1999). It has no history, so that nothing but z tells one vector from another.
"""

from torch import Tensor, nn

from collapse_bench.corpus import Batch
from collapse_bench.model.dropout import Dropout
from collapse_bench.model.vae import Dimensions


class LinearEncoder(nn.Module):
    """One linear map of the values."""

    def __init__(self, dimensions: Dimensions) -> None:
        super().__init__()
        self.map = nn.Linear(dimensions.channels, dimensions.hidden)

    def forward(self, batch: Batch, causal: bool = False) -> Tensor:
        """States [B, 1, H]."""
        states: Tensor = self.map(batch.targets)
        return states


class LinearDecoder(nn.Module):
    """One linear map of z."""

    def __init__(self, dimensions: Dimensions) -> None:
        super().__init__()
        self.dropout = Dropout(dimensions.dropout)
        self.map = nn.Linear(dimensions.latent, dimensions.hidden)

    def forward(self, batch: Batch, z: Tensor) -> Tensor:
        """States [B, 1, H] for z [B, D]."""
        states: Tensor = self.dropout(self.map(z.flatten(1)))[:, None]
        return states
