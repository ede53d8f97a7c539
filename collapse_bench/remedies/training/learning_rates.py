"""Encoder and decoder at rates of their own (two time scales, as in Heusel et al. 2017 for GANs).

For VAEs it is found in code: that of He, Spokoyny, Neubig and Berg-Kirkpatrick (2019) has an
optimiser for each side, and that of Marino, Cvitkovic and Yue (2018) a learning rate.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from collapse_bench.model import GENERATIVE, INFERENCE
from collapse_bench.remedy import Remedy, Run, Step
from collapse_bench.settings import AtLeast


@dataclass(frozen=True)
class LearningRates(Remedy):
    """The decoder learns more slowly than the encoder, which so lags less behind it.

    Aggressive inference is the limit, where the encoder is done before the decoder moves at all.
    Here the decoder sees as many sentences as ever, and learns less from each. It guarantees
    nothing.

    Positive case (`suites/positive.yaml`): with free bits R 1.97, beyond 0.93, where those alone
    have 0.85, at 0.14 nats of NLL. Alone it ends collapsed at R 0.02; with an annealing it has R
    0.18, beyond 0.12, where that alone has 0.51.

    Attributes:
        encoder: factor of the suite's learning rate for encoder, pool and head. At 0 they stay as
            they were drawn, and rate and mutual information are those of a random encoder.
        decoder: the same for prior, decoder and readout. No value for text has been published; 1 to
            4 is the ratio of Zhang, Goodfellow, Metaxas and Odena (2019) for GANs. With 1 for both
            it is the plain VAE.
    """

    neutral: ClassVar[Mapping[str, Any] | None] = {"encoder": 1.0, "decoder": 1.0}
    signature: ClassVar[Mapping[str, str]] = {"nothing": "collapsed", "easy": "use"}

    encoder: Annotated[float, AtLeast(0)] = 1.0
    decoder: Annotated[float, AtLeast(0)] = 0.25

    def step(self, step: Step, run: Run) -> Step:
        """The step as it is; the optimiser is told the factors."""
        for slots, factor in ((INFERENCE, self.encoder), (GENERATIVE, self.decoder)):
            run.scale_learning_rate(slots, factor)
        return step
