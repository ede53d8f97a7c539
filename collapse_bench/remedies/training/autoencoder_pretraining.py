"""Autoencoder pre-training (Li, He, Neubig, Berg-Kirkpatrick and Yang 2019)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from collapse_bench.corpus import Batch
from collapse_bench.model import SLOTS, Forward, Objective, distortion_alone, plain
from collapse_bench.remedy import Remedy, Run, Step
from collapse_bench.settings import Between


@dataclass(frozen=True)
class AutoencoderPretraining(Remedy):
    """First an autoencoder, then its encoder in a VAE whose decoder starts anew.

    In the first stage the objective is the distortion alone. z is a draw of the posterior there
    too, as in the authors' code, and nothing holds its variance up. Then the decoder with its
    embedding and its vocabulary matrix (slots `decoder` and `readout`) is drawn anew, the optimiser
    forgets it, and progress counts from there, so that a chained schedule begins with the VAE. It
    guarantees nothing, and alone it makes no objective but the plain one in the end.

    The first stage is paid for by the budget. The authors' ends when its learning rate has been
    halved five times for want of gain, or after 100 epochs, with the least reconstruction error on
    the validation split; their second stage has optimisers of its own and the first learning rate.
    Here Adam goes on for the encoder, and the learning rate as it was. Their best is
    `[autoencoder_pretraining, free_bits, kl_annealing]`: a floor of 8 nats a sentence, a quarter
    for each of 32 dimensions, the weight rising from 0 over ten epochs. Weights of either stage may
    be selected.

    Positive case (`suites/positive.yaml`): none alone, where it ends collapsed at R 0.02; with free
    bits and an annealing NLL 8.07, R 1.93, beyond 0.94.

    Attributes:
        share: of the budget, for the first stage; 0 is the plain VAE. The authors' is no share.
        reset: whether the decoder starts anew. Bosc and Vincent (2020) find that it matters a lot.
    """

    neutral: ClassVar[Mapping[str, Any] | None] = {"share": 0.0}
    # Steps of both stages are among those that a law makes.
    small: ClassVar[Mapping[str, Any]] = {"share": 0.04}
    signature: ClassVar[Mapping[str, str]] = {"nothing": "collapsed", "easy": "use"}

    share: Annotated[float, Between(0, 1)] = 0.25
    reset: bool = True

    def step(self, step: Step, run: Run) -> Step:
        """The step without a rate, until the first stage is over."""
        state = run.state.setdefault("autoencoder_pretraining", {"done": self.share == 0})

        def staged(
            batch: Batch, *, only: tuple[str, ...] = SLOTS, then: Objective = plain
        ) -> Forward:
            if not state["done"] and self.share <= run.progress < 1:
                state["done"] = True
                for slot in ("decoder", "readout") if self.reset else ():
                    run.reset(slot)
                run.begin()
            if state["done"]:
                return step(batch, only=only, then=then)
            return step(batch, only=only, then=lambda forward: then(distortion_alone(forward)))

        return staged
