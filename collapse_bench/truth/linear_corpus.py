"""The bench's own linear VAE at its optimum on the corpus `linear_gaussian`, one step a sequence.

Its slots hold the closed form of `truth.linear`: encoder and readout hand through what they get,
the head has the posterior's map and variance, the decoder the loading. So a corpus of values goes
the whole way of a cell, batches and masks and readout, to numbers that are known.
"""

import numpy as np
import torch

from collapse_bench.corpus import Split
from collapse_bench.corpus.linear_gaussian import CHANNELS, LENGTHS, NOISE, draw, loading
from collapse_bench.model import Dimensions, SequenceVAE, build_model
from collapse_bench.model.gaussian_readout import FixedVariance, GaussianReadout, OfVariance
from collapse_bench.truth.gaussian import LinearGaussian, linear_gaussian


def exact_model() -> LinearGaussian:
    """The model that the corpus is drawn from, with its exact posterior, which is diagonal."""
    noise = NOISE * torch.eye(CHANNELS, dtype=torch.float64)
    return linear_gaussian(torch.from_numpy(loading()), noise)


def drawn(count: int, seed: int) -> Split:
    """Sequences of the corpus's process as a split of it."""
    x = draw(count, 1, np.random.default_rng(seed))
    return Split(x[:, 0], np.arange(count + 1))


def optimum() -> SequenceVAE:
    """The same as a linear VAE of the bench."""
    exact, latent = exact_model(), len(LENGTHS)
    model = build_model(
        "linear",
        Dimensions(
            vocabulary=0, embedding=1, hidden=CHANNELS, latent=latent, layers=1, heads=1,
            dropout=0.0, sentences=1, longest=1, channels=CHANNELS,
        ),
    )  # fmt: skip
    readout = OfVariance(GaussianReadout(CHANNELS, CHANNELS), FixedVariance(NOISE))
    model = model.with_parts({"readout": readout}, "decoder_variance")
    head = model.get_submodule("head.mean_and_log_variance")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        for name in ("encoder.map", "readout.readout.mean"):
            model.get_submodule(name).get_parameter("weight").copy_(torch.eye(CHANNELS))
        model.get_submodule("decoder.map").get_parameter("weight").copy_(exact.loading)
        head.get_parameter("weight")[:latent] = exact.gain
        head.get_parameter("bias")[latent:] = exact.variance.log()
    return model
