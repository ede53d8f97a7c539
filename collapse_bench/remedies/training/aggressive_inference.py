"""Aggressive inference training (He, Spokoyny, Neubig and Berg-Kirkpatrick 2019, algorithm 1)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from collapse_bench.corpus import Batch
from collapse_bench.model import GENERATIVE, INFERENCE, SLOTS, Forward, Objective, plain
from collapse_bench.remedy import Remedy, Run, Step
from collapse_bench.settings import Above, AtLeast


@dataclass(frozen=True)
class AggressiveInference(Remedy):
    """The encoder is trained until it stops gaining before each update of the decoder.

    It ends for good when the mutual information on the validation split first falls from one look
    at it to the next, or is below 0 at the first. A look comes after as many sentences of decoder
    updates as an epoch has, as in the authors' code: looks that are closer see noise. The mutual
    information is the full-sum lower bound; theirs is a mean over batches of 32. The inner updates
    spend the budget too, 30 to 40 of them for one of the decoder: at the budget of the plain VAE
    the decoder sees as small a share of the sentences.

    Inner batches are the next of the same shuffled stream; the authors draw them with replacement,
    beside the decoder's, and clip by a norm in which the decoder's gradient counts.

    Positive case (`suites/positive.yaml`): NLL 8.07, R 0.66, beyond 0.57. On the authors' synthetic
    text (`suites/he2019-synthetic.yaml`), with a tenth of the rate for the encoder, R 1.32, beyond
    0.95, where the plain VAE has 0.00.

    Attributes:
        window: inner updates over which the loss per token is averaged; the inner loop ends when a
            window is no better than the one before.
        longest: bound on the inner updates before one decoder update; 0 is the plain VAE. The
            authors' 100 allows 99.
        interval: epochs of decoder updates between two looks at the mutual information.
    """

    neutral: ClassVar[Mapping[str, Any] | None] = {"longest": 0}
    small: ClassVar[Mapping[str, Any]] = {"window": 2, "longest": 4}
    signature: ClassVar[Mapping[str, str]] = {"nothing": "collapsed", "hard": "use", "easy": "use"}

    window: Annotated[int, AtLeast(1)] = 15
    longest: Annotated[int, AtLeast(0)] = 100
    interval: Annotated[float, Above(0)] = 1.0

    def step(self, step: Step, run: Run) -> Step:
        """While aggressive, an inner loop on the encoder, then the decoder alone."""
        state = run.state.setdefault(
            "aggressive_inference",
            {"aggressive": self.longest > 0, "since_look": 0, "mutual_information": 0.0},
        )

        def aggressive(
            batch: Batch, *, only: tuple[str, ...] = SLOTS, then: Objective = plain
        ) -> Forward:
            if only != SLOTS or not state["aggressive"]:
                return step(batch, only=only, then=then)
            self.train_encoder(batch, step, run, then)
            forward = step(batch, only=GENERATIVE, then=then)
            state["since_look"] += len(batch.lengths)
            if state["since_look"] >= self.interval * run.sentences:
                information = run.measure("mutual_information")
                state["aggressive"] = information >= state["mutual_information"]
                state["since_look"], state["mutual_information"] = 0, information
            return forward

        return aggressive

    def train_encoder(self, batch: Batch, step: Step, run: Run, then: Objective = plain) -> None:
        """Update the inference slots until a window of updates is no better than the last."""
        previous, tokens = math.inf, 0
        losses: list[Tensor] = []
        for update in range(1, self.longest + 1):
            if update > 1:
                batch = run.draw()
            forward = step(batch, only=INFERENCE, then=then)
            # Kept on the device, so that a GPU is waited for once a window.
            losses.append(forward.per_sentence().detach().sum())
            tokens += batch.tokens
            if update % self.window == 0:
                loss = float(torch.stack(losses).sum()) / tokens
                if loss >= previous:
                    return
                previous, losses, tokens = loss, [], 0
