"""Stochastic variational inference that the encoder starts (Krishnan, Liang and Hoffman 2018).

VAE+SVI and VAE+SVI+KL of Kim, Wiseman, Miller, Sontag and Rush (2018).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from torch import Tensor, nn
from torch.distributions import Distribution, kl_divergence

from collapse_bench.model import Energy, SequenceVAE
from collapse_bench.model.refinement import (
    Descent,
    gradients_of,
    leaves,
    normal_of,
    parameters_of,
)
from collapse_bench.remedy import Remedy
from collapse_bench.settings import Above, AtLeast, Between


class RefinedHead(nn.Module):
    """A head around another one, whose posterior it refines and whose gradient it replaces.

    The loss is that of the refined posterior, and its gradient ends there. What the inner head gets
    in its place is the gradient of its own bound, or of its distance from the refined posterior.
    """

    def __init__(self, head: nn.Module, descent: Descent, encoder: str) -> None:
        super().__init__()
        self.head = head
        self.descent = descent
        self.encoder = encoder

    def forward(self, features: Tensor, energy: Energy) -> Distribution:
        """Features [B, H] or [B, n, H] to the q(z|x) that the descent ends with."""
        q: Distribution = self.head(features, energy)
        if self.descent.steps == 0:
            return q
        start = parameters_of(q)
        end = self.descent(start, energy)
        if not any(each.requires_grad for each in start):
            return normal_of(end)
        aim = energy if self.encoder == "bound" else partial(kl_divergence, q=normal_of(end))
        gradients = [each / len(features) for each in gradients_of(aim, leaves(start))]
        return normal_of([replaced(*each) for each in zip(start, end, gradients, strict=True)])


def replaced(start: Tensor, end: Tensor, gradient: Tensor) -> Tensor:
    """The value of `end`, whose gradient `start` gets as the given one, whatever arrives."""
    value = start + (end - start).detach()
    if value.requires_grad:
        value.register_hook(lambda arrived: gradient)
    return value


@dataclass(frozen=True)
class Svi(Remedy):
    """The decoder is trained at the refined posterior, the encoder at its own.

    Each sentence's posterior goes on from the encoder's down its energy, without a gradient through
    the steps. Evaluation refines by the same steps, so rate and NLL are those of the refined
    posterior, which has cost so many decodings of each sentence; other entries have the encoder's
    alone. In training these are paid for, and so is the one for the encoder's own bound. It
    guarantees nothing.

    Both halves are one update on one batch, as in the authors' code, and the gradient's norm is
    that of both together. The variant without an encoder is left out: nothing would be amortised.

    Positive case (`suites/positive.yaml`): with free bits and seven times the budget, for as many
    updates of the decoder as others, NLL 8.04, R 1.49, beyond 1.00, where those alone have 8.03,
    1.94 and 0.85 for their budget. Alone it ends collapsed at R 0.01; with an
    annealing R 0.33, beyond 0.30, where that alone has 0.51.

    Attributes:
        steps: of the descent; 0 is the plain VAE. Kim et al. use 20.
        encoder: what it is trained by. `bound`: the objective at its own posterior (VAE+SVI).
            `refined posterior`: the divergence KL(q_0 || q_K) of its own posterior from the refined
            one, which stays as it is (VAE+SVI+KL).
        step_size: the authors' 1 for the mean over 32 sentences is 1/32 for each.
        momentum: as in the authors' code.
        clip: largest norm of a sentence's gradient, by mean and by log variance each. The authors'
            5 for the mean over 32 sentences is 28 for each of 32 that are alike.
    """

    by_construction: ClassVar[tuple[str, ...]] = ("refinement_gain",)
    neutral: ClassVar[Mapping[str, Any] | None] = {"steps": 0}
    small: ClassVar[Mapping[str, Any]] = {"steps": 2}
    signature: ClassVar[Mapping[str, str]] = {"nothing": "collapsed", "easy": "use"}

    steps: Annotated[int, AtLeast(0)] = 20
    encoder: Literal["bound", "refined posterior"] = "bound"
    step_size: Annotated[float, Above(0)] = 0.03125
    momentum: Annotated[float, Between(0, 1)] = 0.5
    clip: Annotated[float, Above(0)] = 28.0

    def build(self, model: SequenceVAE) -> Mapping[str, nn.Module]:
        """Wrap the head."""
        descent = Descent(self.steps, self.step_size, self.momentum, self.clip)
        return {"head": RefinedHead(model.head, descent, self.encoder)}
