"""Text VAEs with autoregressive decoders: six slots, filled by an LSTM or a Transformer."""

import warnings

from collapse_bench.model.distributions import Noise, diagonal_normal
from collapse_bench.model.latent import (
    Energy,
    GaussianHead,
    LastState,
    NoEncoder,
    StandardNormal,
)
from collapse_bench.model.lstm import LSTMDecoder, LSTMEncoder
from collapse_bench.model.oracle import ToldLength
from collapse_bench.model.readout import Readout
from collapse_bench.model.transformer import TransformerDecoder, TransformerEncoder
from collapse_bench.model.vae import (
    GENERATIVE,
    INFERENCE,
    SLOTS,
    Dimensions,
    Forward,
    Objective,
    SequenceVAE,
    distortion_alone,
    plain,
)

__all__ = [
    "ARCHITECTURES",
    "GENERATIVE",
    "INFERENCE",
    "SLOTS",
    "Dimensions",
    "Energy",
    "Forward",
    "GaussianHead",
    "Noise",
    "Objective",
    "SequenceVAE",
    "build_model",
    "diagonal_normal",
    "distortion_alone",
    "plain",
]

ARCHITECTURES = {
    "lstm": (LSTMEncoder, LSTMDecoder),
    "transformer": (TransformerEncoder, TransformerDecoder),
}


def build_model(architecture: str, dimensions: Dimensions, told: str | None = None) -> SequenceVAE:
    """The plain VAE of an architecture; with a latent of size 0 it is the language model.

    Weights come from torch's global generator: seed it first.

    Args:
        architecture: a key of `ARCHITECTURES`.
        dimensions: the sizes of every part.
        told: `length` for an oracle, a language model that is told each sentence's length.
    """
    encoder, decoder = ARCHITECTURES[architecture]
    has_latent = dimensions.latent > 0
    with warnings.catch_warnings():
        if not has_latent:
            warnings.filterwarnings("ignore", "Initializing zero-element tensors is a no-op")
        slots = {
            "encoder": encoder(dimensions) if has_latent else NoEncoder(),
            "pool": LastState(),
            "head": GaussianHead(dimensions.hidden if has_latent else 0, dimensions.latent),
            "prior": StandardNormal(),
            "decoder": ToldLength(decoder, dimensions) if told else decoder(dimensions),
            "readout": Readout(dimensions.hidden, dimensions.vocabulary),
        }
    return SequenceVAE(dimensions, slots)
