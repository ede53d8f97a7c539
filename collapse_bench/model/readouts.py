"""Which readout a model has: of words or of values."""

from collapse_bench.model.gaussian_readout import GaussianReadout
from collapse_bench.model.readout import Readout
from collapse_bench.model.vae import Dimensions


def readout_for(dimensions: Dimensions, width: int) -> Readout | GaussianReadout:
    """The plain readout of decoder states [B, T, W], whatever the corpus has for tokens.

    Args:
        dimensions: of the model.
        width: W, H unless a remedy widens the states.
    """
    if dimensions.channels:
        return GaussianReadout(width, dimensions.channels)
    return Readout(width, dimensions.vocabulary)
