"""What refinement and annealing share: noise that belongs to the sentence, and gradients of z."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from collapse_bench.errors import UserError

LogLikelihood = Callable[[Any, Tensor], Tensor]
"""log p(x|z) in nats, [B], of a batch of B sentences and z [B, D] or [B, n, D]."""


class SentenceStreams:
    """A stream of random numbers for each of B sentences: what the others are changes nothing.

    Args:
        index: places of the sentences in their split, [B].
        seed: not negative.
    """

    def __init__(self, index: Tensor, seed: int) -> None:
        self.generators = [np.random.default_rng([seed, i]) for i in index.tolist()]

    def normal(self, draws: int, like: Tensor) -> Tensor:
        """Standard normal noise [draws, B, ...] for z of the shape of `like` [B, ...]."""
        shape = (draws, *like.shape[1:])
        noise = np.stack([g.standard_normal(shape) for g in self.generators], axis=1)
        return torch.from_numpy(noise).to(like)

    def uniform(self, draws: int, like: Tensor) -> Tensor:
        """Uniform numbers from 0 to 1, [draws, B], in the dtype of `like`."""
        numbers = np.stack([g.random(draws) for g in self.generators], axis=1)
        return torch.from_numpy(numbers).to(like)


WANTED = "log_likelihood: its gradient with respect to z is needed"


class NoGradientError(UserError):
    """A log-likelihood that depends on z without a gradient."""


@contextmanager
def gradients_of_latents() -> Iterator[None]:
    """Gradients inside, whatever they are outside, of a model in eval mode too.

    cuDNN's recurrent layers have none in eval mode; torch's own have.
    """
    with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
        yield


def gradient(value: Tensor, wanted: list[Tensor]) -> tuple[Tensor, ...]:
    """The gradient of a sum over sentences, zero for what it does not depend on; no parameter's
    `.grad` is touched."""
    if not value.requires_grad:
        return tuple(torch.zeros_like(tensor) for tensor in wanted)
    found = torch.autograd.grad(value, wanted, allow_unused=True)
    return tuple(
        torch.zeros_like(tensor) if part is None else part
        for tensor, part in zip(wanted, found, strict=True)
    )


def check_gradient(log_likelihood: LogLikelihood, batch: Any, z: Tensor) -> None:
    """Refuse a log-likelihood whose gradient is missing; that of one that ignores z is zero.

    Args:
        log_likelihood: to be checked.
        batch: B sentences.
        z: any, [B, D] or [B, n, D].

    Raises:
        NoGradientError: it depends on z, and torch cannot see how.
    """
    z = z.detach().requires_grad_()
    try:
        nats = log_likelihood(batch, z)
    except RuntimeError as error:  # as z.numpy() does
        raise NoGradientError(f"{WANTED}; with one wanted, it fails: {error}") from error
    if nats.requires_grad:
        (found,) = torch.autograd.grad(nats.sum(), [z], allow_unused=True)
        if found is not None:
            return
    if not torch.equal(nats, log_likelihood(batch, z.detach() + 1)):
        raise NoGradientError(
            f"{WANTED}, and what was returned has none though it depends on z; compute it by torch"
            " operations on z, without detach(), numpy or no_grad()"
        )
