"""A normal posterior that goes on down its own energy, each sentence by itself.

Gradient descent with momentum on mean and log variance (Kim, Wiseman, Miller, Sontag and Rush 2018,
section 3 and algorithm 1; momentum and clipping as in the authors' code).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.nn.attention import SDPBackend, sdpa_kernel

from collapse_bench.model.distributions import as_normal, diagonal_normal
from collapse_bench.model.latent import Energy
from collapse_bench.model.lstm import twice_differentiable

Parameters = list[Tensor]
"""Mean and log variance of B sentences, [B, D] or [B, n, d] each."""


def parameters_of(q: Distribution) -> Parameters:
    """Mean and log variance of a diagonal normal.

    Raises:
        UserError: it is none.
    """
    normal = as_normal(q)
    return [normal.mean, 2 * normal.stddev.log()]


def normal_of(parameters: Parameters) -> Distribution:
    """The diagonal normal of this mean and log variance."""
    mean, log_variance = parameters
    return diagonal_normal(mean, (0.5 * log_variance).exp())


def leaves(parameters: Parameters) -> Parameters:
    """The same values, for gradients that go no further."""
    return [each.detach().requires_grad_() for each in parameters]


@dataclass(frozen=True)
class Descent:
    """Steps down the energy of each sentence.

    With g the gradient of the sentence's energy: v <- momentum v - clipped(g), and then
    (mean, log variance) <- (mean, log variance) + step_size v.

    Attributes:
        steps: how many; each asks for the energy, and so decodes, once.
        step_size: units of z for a gradient of 1 nat per unit.
        momentum: share of the last step's v that is kept.
        clip: largest norm of g, of mean and log variance each, nats per unit.
    """

    steps: int
    step_size: float
    momentum: float
    clip: float

    def __call__(self, start: Parameters, energy: Energy, *, through: bool = False) -> Parameters:
        """Mean and log variance after the last step.

        Args:
            start: where to begin.
            energy: nats of each sentence, [B].
            through: whether gradients are to pass through the steps: to `start`, and to the weights
                that the energy depends on. That takes a second derivative of the energy. Without,
                what is returned has no gradient.
        """
        here = [each if through and each.requires_grad else leaf
                for each, leaf in zip(start, leaves(start), strict=True)]  # fmt: skip
        velocity = [torch.zeros_like(each) for each in here]
        with torch.enable_grad():
            for _ in range(self.steps):
                gradients = gradients_of(energy, here, through=through)
                velocity = [
                    self.momentum * v - self._clipped(g)
                    for v, g in zip(velocity, gradients, strict=True)
                ]
                here = [x + self.step_size * v for x, v in zip(here, velocity, strict=True)]
                if not through:
                    here = leaves(here)
        return here if through else [each.detach() for each in here]

    def _clipped(self, gradient: Tensor) -> Tensor:
        """A gradient [B, ...] whose norm is at most `clip` in each sentence."""
        norm = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
        factor: Tensor = self.clip / norm.clamp(min=self.clip)
        return gradient * factor.view(-1, *[1] * (gradient.dim() - 1))


def gradients_of(energy: Energy, here: Parameters, *, through: bool = False) -> Parameters:
    """Gradients of each sentence's energy by its own mean and log variance."""
    with torch.enable_grad(), _kernels(through):
        total = energy(normal_of(here)).sum()
        return [*torch.autograd.grad(total, here, create_graph=through, materialize_grads=True)]


@contextmanager
def _kernels(through: bool) -> Iterator[None]:
    """Those that have a second derivative where one is needed: fused attention has none."""
    if not through:
        yield
        return
    with twice_differentiable(), sdpa_kernel(SDPBackend.MATH):
        yield
