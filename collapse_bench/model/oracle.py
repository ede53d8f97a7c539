"""An oracle's decoder: a language model that is told something of the sentence in advance.

What it gains over the language model is what a latent that held just this could save a decoder.
"""

from dataclasses import replace

from torch import Tensor, nn

from collapse_bench.corpus import Batch
from collapse_bench.model.transformer import positions
from collapse_bench.model.vae import Dimensions

WIDTH = 16
"""Numbers that tell a length: sines and cosines, so that lengths that are near look alike."""


class ToldLength(nn.Module):
    """A decoder that sees each sentence's length, EOS counted, where others see z.

    Args:
        decoder: the class of an architecture's decoder.
        dimensions: of the language model.
    """

    def __init__(self, decoder: type[nn.Module], dimensions: Dimensions) -> None:
        super().__init__()
        self.decoder = decoder(replace(dimensions, latent=WIDTH))

    def forward(self, batch: Batch, z: Tensor) -> Tensor:
        """States [B, T, H]; of z [B, 0] only the dtype is looked at."""
        # No sentence is longer than the batch is wide, which a GPU need not be asked for.
        table = positions(batch.mask.shape[1] + 1, WIDTH, batch.lengths.device)
        states: Tensor = self.decoder(batch, table[batch.lengths].to(z.dtype))
        return states
