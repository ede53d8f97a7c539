"""Semi-amortised VAE (Kim, Wiseman, Miller, Sontag and Rush 2018, section 3 and algorithm 1)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from collapse_bench.model import Energy, SequenceVAE
from collapse_bench.model.refinement import Descent, normal_of, parameters_of
from collapse_bench.remedy import Remedy
from collapse_bench.settings import Above, AtLeast, Between


class SemiAmortisedHead(nn.Module):
    """A head around another one, whose posterior is where the descent starts."""

    def __init__(self, head: nn.Module, descent: Descent) -> None:
        super().__init__()
        self.head = head
        self.descent = descent

    def forward(self, features: Tensor, energy: Energy) -> Distribution:
        """Features [B, H] or [B, n, H] to the q(z|x) that the descent ends with."""
        q: Distribution = self.head(features, energy)
        if self.descent.steps == 0:
            return q
        through = torch.is_grad_enabled()  # not in evaluation, where nothing is updated
        return normal_of(self.descent(parameters_of(q), energy, through=through))


@dataclass(frozen=True)
class SemiAmortised(Remedy):
    """The encoder's posterior is where each sentence's own descent on its energy starts.

    The bound of the refined posterior is what is trained on: its gradient passes through the steps
    to the encoder, and to the decoder also by way of them. Evaluation refines by the same steps, so
    rate and NLL are those of the refined posterior, which has cost so many decodings of each
    sentence; other entries have the encoder's alone. In training these are paid for. It guarantees
    nothing.

    The gradient is exact; the authors' code takes differences of gradients, and clips the two in
    different ways. Their steps go down the mean over a batch, whose gradient they clip as a whole;
    here a sentence's do not depend on the others. Each has a draw and a dropout mask of its own.

    Positive case (`suites/positive.yaml`): with free bits, and for as many updates of the decoder
    as others have, NLL 8.08, R 1.77, beyond 1.09, where free bits alone have 0.85. Alone, after a
    sixth of these updates, it ends collapsed at R 0.07.

    Attributes:
        steps: of the descent; 0 is the plain VAE. Kim et al. report 10 and 20, which is their
            code's default; He et al. (2019) use 10.
        step_size: the authors' 1 for the mean over 32 sentences is 1/32 for each.
        momentum: as in the authors' code.
        clip: largest norm of a sentence's gradient, by mean and by log variance each. The authors'
            5 for the mean over 32 sentences is 28 for each of 32 that are alike.
    """

    by_construction: ClassVar[tuple[str, ...]] = ("refinement_gain",)
    neutral: ClassVar[Mapping[str, Any] | None] = {"steps": 0}
    small: ClassVar[Mapping[str, Any]] = {"steps": 2}
    signature: ClassVar[Mapping[str, str]] = {"nothing": "collapsed", "easy": "use"}

    steps: Annotated[int, AtLeast(0)] = 10
    step_size: Annotated[float, Above(0)] = 0.03125
    momentum: Annotated[float, Between(0, 1)] = 0.5
    clip: Annotated[float, Above(0)] = 28.0

    def build(self, model: SequenceVAE) -> Mapping[str, nn.Module]:
        """Wrap the head."""
        descent = Descent(self.steps, self.step_size, self.momentum, self.clip)
        return {"head": SemiAmortisedHead(model.head, descent)}
