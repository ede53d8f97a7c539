"""Word dropout (Bowman, Vilnis, Vinyals, Dai, Jozefowicz and Bengio 2016, section 3.1)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from collapse_bench.corpus import Batch
from collapse_bench.corpus.vocabulary import BOS, UNK
from collapse_bench.model import SLOTS, Forward, Objective, SequenceVAE, plain
from collapse_bench.remedy import Remedy, Run, Step
from collapse_bench.settings import Between


class WordDropoutDecoder(nn.Module):
    """A decoder that in training reads <unk> in place of some words, and never of <bos>.

    In place of the values of some steps it reads zeros.
    """

    def __init__(self, decoder: nn.Module, rate: float) -> None:
        super().__init__()
        self.decoder = decoder
        self.rate = rate

    def forward(self, batch: Batch, z: Tensor) -> Tensor:
        """States [B, T, H] of the wrapped decoder."""
        if self.training and self.rate > 0:
            dropped = torch.rand(batch.mask.shape, device=z.device) < self.rate
            if batch.inputs.is_floating_point():
                inputs = batch.inputs.masked_fill(dropped[:, :, None], 0)
            else:
                inputs = batch.inputs.masked_fill(dropped & (batch.inputs != BOS), UNK)
            batch = replace(batch, inputs=inputs)
        states: Tensor = self.decoder(batch, z)
        return states


@dataclass(frozen=True)
class WordDropout(Remedy):
    """The decoder's history loses words, so that what they said has to come through z.

    Only in training: a model is evaluated on the whole history. The annealed rate is that of the
    code of Pelsmaeker and Aziz (2020), which falls by a step a pass; there validation passes count
    too, <bos> is dropped as well, and a rate that has not fallen below 1 hides every word from
    validation.

    Positive case (`suites/positive.yaml`): NLL 8.00, R 1.32, beyond 1.15.

    Attributes:
        rate: probability that an input word becomes <unk>; 0 is the plain VAE, 1 leaves no history.
        warmup: share of the training budget in which the rate falls linearly from 1 to `rate`; 0
            keeps it constant.
    """

    # A decoder that knows less of the past gains more from z.
    by_construction: ClassVar[tuple[str, ...]] = (
        "useful_beyond",
        "useful_information",
        "useful_rate",
        "shuffle_gap",
        "shuffle_gap_any",
        "shuffle_gap_later",
    )

    neutral: ClassVar[Mapping[str, Any] | None] = {"rate": 0.0}
    signature: ClassVar[Mapping[str, str]] = {"nothing": "collapsed", "hard": "use", "easy": "use"}

    rate: Annotated[float, Between(0, 1)] = 0.25
    warmup: Annotated[float, Between(0, 1)] = 0.0

    def rate_at(self, progress: float) -> float:
        """The rate when `progress` (0 to 1) of the budget is spent."""
        if progress >= self.warmup:
            return self.rate
        return 1 + (self.rate - 1) * progress / self.warmup

    def build(self, model: SequenceVAE) -> Mapping[str, nn.Module]:
        """Wrap the decoder."""
        return {"decoder": WordDropoutDecoder(model.decoder, self.rate)}

    def step(self, step: Step, run: Run) -> Step:
        """Set the rate before each update."""
        if self.warmup == 0:
            return step
        decoders = [part for part in run.model.modules() if isinstance(part, WordDropoutDecoder)]

        def annealed(
            batch: Batch, *, only: tuple[str, ...] = SLOTS, then: Objective = plain
        ) -> Forward:
            for decoder in decoders:
                decoder.rate = self.rate_at(run.progress)
            return step(batch, only=only, then=then)

        return annealed
