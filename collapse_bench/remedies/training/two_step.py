"""Decoder first, then the encoder, then both (after Park and Lee 2021).

"Finetuning pretrained transformers into variational autoencoders", without what was pre-trained.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from collapse_bench.corpus import Batch
from collapse_bench.errors import UserError
from collapse_bench.model import (
    GENERATIVE,
    INFERENCE,
    SLOTS,
    Forward,
    Objective,
    SequenceVAE,
    distortion_alone,
    plain,
)
from collapse_bench.remedy import Remedy, Run, Step
from collapse_bench.settings import Between

DECODER, ENCODER, BOTH = range(3)
"""The stages, after what is trained."""


class Switch(nn.Module):
    """Whether z is heard: 1, or 0."""

    heard: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("heard", torch.ones(()))


class SwitchedDecoder(nn.Module):
    """A decoder that while z is not heard gets zeros in its place: a language model."""

    def __init__(self, decoder: nn.Module, switch: Switch) -> None:
        super().__init__()
        self.decoder = decoder
        self.switch = switch

    def forward(self, batch: Batch, z: Tensor) -> Tensor:
        """States [B, T, H] of the wrapped decoder."""
        states: Tensor = self.decoder(batch, self.switch.heard * z)
        return states


@dataclass(frozen=True)
class TwoStep(Remedy):
    """The decoder becomes a language model, then the encoder learns to steer it.

    Park and Lee have a pre-trained decoder, into which z enters by new weights. Here the decoder is
    first trained alone, on z = 0, so that the weights that take z in stay as they were drawn. Then
    follow their two phases: the encoder alone, while the decoder stays as it is and the objective
    is the distortion alone; and everything. As theirs, each begins with an optimiser that knows
    nothing, and progress counts from the last one, so that an annealing in the chain begins there.
    Fang, Zeng, Liu, Bo, Dong and Chen (2021) also begin with a language model, whose weights they
    keep for a tenth of the training, but train the ways in for z from the start. It guarantees
    nothing. List it after any remedy that wraps the decoder: one that comes later is given z.

    Their code swaps words and mask where it drops words of the encoder; that part is left out, and
    so are their floor under the rate and their pooling, which are remedies of their own. Weights of
    any stage may be selected.

    Positive case (`suites/positive.yaml`): with a tenth of the budget for each of the first two
    stages and free bits NLL 8.08, R 1.89, beyond 1.08, where free bits alone have 0.85; with a
    quarter for the first it collapses. Alone it ends collapsed at R 0.01; with an annealing R 0.34,
    beyond 0.33, where that alone has 0.51.

    Attributes:
        decoder: share of the budget for the decoder alone; the value is ours.
        encoder: share of the budget for the encoder alone; the value is ours. Theirs is at most 15
            epochs before 10 of all. With 0 for both it is the plain VAE.
    """

    neutral: ClassVar[Mapping[str, Any] | None] = {"decoder": 0.0, "encoder": 0.0}
    # While z is not heard, what takes it in stays as it is: a law asks that every step changes all.
    small: ClassVar[Mapping[str, Any]] = {"decoder": 0.0, "encoder": 0.04}
    signature: ClassVar[Mapping[str, str]] = {"nothing": "collapsed", "hard": "collapsed"}

    decoder: Annotated[float, Between(0, 1)] = 0.25
    encoder: Annotated[float, Between(0, 1)] = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.decoder + self.encoder > 1:
            raise UserError(
                f"two_step: decoder and encoder are shares of one budget, got decoder = "
                f"{self.decoder} and encoder = {self.encoder}; lower one of them"
            )

    def stage(self, progress: float) -> int:
        """Which one it is."""
        if progress < self.decoder:
            return DECODER
        return ENCODER if progress < self.decoder + self.encoder else BOTH

    def build(self, model: SequenceVAE) -> Mapping[str, nn.Module]:
        """Wrap the decoder."""
        switch = Switch()
        return {"decoder": SwitchedDecoder(model.decoder, switch), "two_step": switch}

    def step(self, step: Step, run: Run) -> Step:
        """The decoder's updates, then the encoder's, then all."""
        state = run.state.setdefault("two_step", {"stage": self.stage(0.0)})
        heard: Any = run.model.further["two_step"].heard

        def staged(
            batch: Batch, *, only: tuple[str, ...] = SLOTS, then: Objective = plain
        ) -> Forward:
            if state["stage"] < BOTH and run.progress < 1:
                # Another remedy's `begin` may have taken progress back, but no stage comes twice.
                stage = max(state["stage"], self.stage(run.progress))
                heard.fill_(stage > DECODER)
                if stage > state["stage"]:
                    state["stage"] = stage
                    run.forget(SLOTS)
                    if stage == BOTH:
                        run.begin()
            if state["stage"] == BOTH:
                return step(batch, only=only, then=then)
            if only == SLOTS:
                only = GENERATIVE if state["stage"] == DECODER else INFERENCE
            return step(batch, only=only, then=lambda forward: then(distortion_alone(forward)))

        return staged
