"""Aggressive inference training (He, Spokoyny, Neubig and Berg-Kirkpatrick 2019, algorithm 1)."""

import math
from dataclasses import dataclass
from typing import Annotated

from collapse_bench.corpus import Batch
from collapse_bench.model import GENERATIVE, INFERENCE, SLOTS, Forward, Objective, plain
from collapse_bench.remedy import Remedy, Run, Step
from collapse_bench.settings import AtLeast


@dataclass(frozen=True)
class AggressiveInference(Remedy):
    """The encoder is trained until it stops gaining before each update of the decoder.

    It ends for good when the mutual information on the validation split first falls from one
    epoch to the next. An epoch is a pass over the training sentences, inner draws included, and
    the mutual information is the full-sum lower bound; the authors' code counts outer steps only
    and averages over batches of 32.

    Attributes:
        window: inner updates over which the loss per token is averaged; the inner loop ends when a
            window is no better than the one before.
        longest: bound on the inner updates before one decoder update; 0 is the plain VAE.
    """

    window: Annotated[int, AtLeast(1)] = 15
    longest: Annotated[int, AtLeast(0)] = 100

    def step(self, step: Step, run: Run) -> Step:
        """While aggressive, an inner loop on the encoder, then the decoder alone."""
        state = run.state.setdefault(
            "aggressive_inference",
            {"aggressive": self.longest > 0, "epoch": 0, "mutual_information": 0.0},
        )

        def aggressive(
            batch: Batch, *, only: tuple[str, ...] = SLOTS, then: Objective = plain
        ) -> Forward:
            if only != SLOTS or not state["aggressive"]:
                return step(batch, only=only, then=then)
            self.train_encoder(batch, step, run)
            forward = step(batch, only=GENERATIVE, then=then)
            if run.epoch > state["epoch"]:
                information = run.measure("mutual_information")
                state["aggressive"] = information >= state["mutual_information"]
                state["epoch"], state["mutual_information"] = run.epoch, information
            return forward

        return aggressive

    def train_encoder(self, batch: Batch, step: Step, run: Run) -> None:
        """Update the inference slots until a window of updates is no better than the last."""
        best, loss, tokens = math.inf, 0.0, 0
        for update in range(1, self.longest + 1):
            loss += float(step(batch, only=INFERENCE).per_sentence().detach().sum())
            tokens += batch.tokens
            if update % self.window == 0:
                if loss / tokens >= best:
                    return
                best, loss, tokens = loss / tokens, 0.0, 0
            batch = run.draw()
