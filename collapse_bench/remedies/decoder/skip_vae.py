"""Skip-VAE (Dieng, Kim, Rush and Blei 2019)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from collapse_bench.corpus import Batch
from collapse_bench.model import SequenceVAE, readout_for
from collapse_bench.model.embedding import beside
from collapse_bench.remedy import Remedy


class SkipDecoder(nn.Module):
    """A decoder whose states have z beside them."""

    def __init__(self, decoder: nn.Module, latent: int) -> None:
        super().__init__()
        self.decoder = decoder
        self.latent = latent

    def forward(self, batch: Batch, z: Tensor) -> Tensor:
        """States [B, T, H + D], the wrapped decoder's and z."""
        return beside(self.decoder(batch, z), z, batch, self.latent)


@dataclass(frozen=True)
class SkipVae(Remedy):
    """z is an input of every layer of the decoder, the softmax included: logits W [h; z].

    A layer that is given z beside its input adds a linear map of z to what it computes. Both
    architectures do so for all layers but the softmax: the LSTM's one has z at every step, and what
    the Transformer adds to its embeddings stays in the sum from which each block reads. So only the
    softmax is new, a matrix of H + D columns, and z is not dropped out, as in the authors' code.
    Theirs starts the LSTM with h = W z + b, ours with c = W z and h = tanh c, as it always does.

    It guarantees nothing: the weights of z may become 0.

    Positive case (`suites/positive.yaml`): NLL 7.98, R 0.13, beyond 0.12.
    """

    signature: ClassVar[Mapping[str, str]] = {"nothing": "collapsed", "hard": "use", "easy": "use"}

    def build(self, model: SequenceVAE) -> Mapping[str, nn.Module]:
        """Wrap the decoder and widen the readout."""
        sizes = model.dimensions
        return {
            "decoder": SkipDecoder(model.decoder, sizes.latent),
            "readout": readout_for(sizes, sizes.hidden + sizes.latent),
        }
