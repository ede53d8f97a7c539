"""VAEs with autoregressive decoders: six slots, filled by an LSTM, a Transformer or linear maps."""

import warnings
from dataclasses import replace
from typing import Literal

from collapse_bench.errors import UserError
from collapse_bench.model.distributions import Noise, diagonal_normal
from collapse_bench.model.latent import (
    Energy,
    GaussianHead,
    LastState,
    NoEncoder,
    StandardNormal,
)
from collapse_bench.model.linear import LinearDecoder, LinearEncoder
from collapse_bench.model.lstm import LSTMDecoder, LSTMEncoder
from collapse_bench.model.oracle import (
    KnownLabels,
    LabelHead,
    LabelPrior,
    ToldLabels,
    ToldLength,
    known_labels,
)
from collapse_bench.model.readouts import readout_for
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
    "KnownLabels",
    "Noise",
    "Objective",
    "SequenceVAE",
    "build_model",
    "diagonal_normal",
    "distortion_alone",
    "known_labels",
    "plain",
    "readout_for",
]

ARCHITECTURES = {
    "lstm": (LSTMEncoder, LSTMDecoder),
    "transformer": (TransformerEncoder, TransformerDecoder),
    "linear": (LinearEncoder, LinearDecoder),
}


def build_model(
    architecture: str,
    dimensions: Dimensions,
    told: Literal["length"] | KnownLabels | None = None,
) -> SequenceVAE:
    """The plain VAE of an architecture; with a latent of size 0 it is the language model.

    Weights come from torch's global generator: seed it first.

    Args:
        architecture: a key of `ARCHITECTURES`.
        dimensions: the sizes of every part.
        told: for an oracle. `length` is a language model that knows each sentence's length; with
            known labels these are the latent, whose size the dimensions then need not give.

    Raises:
        UserError: the architecture is linear, and there are words, or sequences of several steps.
    """
    if architecture == "linear" and (not dimensions.channels or dimensions.longest > 1):
        what = f"sequences of {dimensions.longest} steps" if dimensions.channels else "words"
        raise UserError(
            f"architecture linear: for vectors, which are sequences of one step, not for {what};"
            f" take another corpus, such as linear_gaussian with steps: 1, or another architecture"
        )
    encoder, decoder = ARCHITECTURES[architecture]
    if isinstance(told, KnownLabels):
        dimensions = replace(dimensions, latent=told.codebook.shape[1])
    has_latent = dimensions.latent > 0
    with warnings.catch_warnings():
        if not has_latent:
            warnings.filterwarnings("ignore", "Initializing zero-element tensors is a no-op")
        slots = {
            "encoder": encoder(dimensions) if has_latent else NoEncoder(),
            "pool": LastState(),
            "head": GaussianHead(dimensions.hidden if has_latent else 0, dimensions.latent),
            "prior": StandardNormal(),
            "decoder": ToldLength(decoder, dimensions) if told == "length" else decoder(dimensions),
            "readout": readout_for(dimensions, dimensions.hidden),
        }
    if isinstance(told, KnownLabels):
        slots |= {"encoder": ToldLabels(), "head": LabelHead(told), "prior": LabelPrior(told)}
    return SequenceVAE(dimensions, slots)
