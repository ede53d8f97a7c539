"""What any model has to offer so that the bench can score it: three methods over rows of sentences.

`LatentModel` is what a user writes around a model; `Scored` and `Rows` turn it and its sentences
into what the evaluation works on, which `SequenceVAE` and `Split` are already.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from collapse_bench.errors import UserError
from collapse_bench.model import Noise
from collapse_bench.model.distributions import base, shape_of

ROUNDING = 1e-3
"""Nats by which a sum in floating point may leave the log-probability of words above 0."""


class LatentModel(Protocol):
    """A text VAE, or any model with a latent, as its user offers it.

    `sentences` is a tensor, an array or a list with one row a sentence, B of those that were handed
    in. Dropout has to be off: a model that is an `nn.Module` is put into eval mode.
    """

    def posterior(self, sentences: Any) -> Distribution:
        """q(z|x) over z `[B, D]` or `[B, n, D]`: a normal with diagonal covariance, or any
        distribution that offers `from_noise(noise)`, which turns standard normal noise of z's
        shape into a draw, and a `log_prob(z)` that broadcasts `[M, 1, ...]` to `[M, B]`."""
        ...

    def prior(self, sentences: Any) -> Distribution:
        """p(z) for the same B sentences, of the posterior's shape and of any such family. It may
        not look at the sentences, which are handed to it for their number and device."""
        ...

    def log_likelihood(self, sentences: Any, z: Tensor) -> Tensor:
        """log p(x|z) in nats, `[B]`; or `[B, T]` by position, zero past a sentence's end. Of words
        it is a probability's, so never above 0."""
        ...


@dataclass(frozen=True, eq=False)
class Rows:
    """Sentences of any kind: all of them, or a batch.

    Attributes:
        values: a tensor, an array or a list, one row a sentence.
        lengths: `[N]` tokens of each; they group sentences that may be compared, and are what
            perplexity divides by.
        index: `[N]` places of these rows among all sentences.
    """

    values: Any
    lengths: Tensor
    index: Tensor

    @classmethod
    def of(cls, values: Any, lengths: Sequence[int] | NDArray[Any] | Tensor | None = None) -> Self:
        """All sentences; without lengths each counts as one token, so perplexity is exp(NLL).

        Raises:
            UserError: there is no sentence, or not one length for each.
        """
        countable = hasattr(values, "__len__") and not isinstance(values, Mapping)
        if not countable or getattr(values, "ndim", 1) == 0 or len(values) == 0:
            raise UserError(
                "sentences: at least one is needed, as a tensor, an array or a list with one row a"
                f" sentence, not {type(values).__name__} {values!r:.60}"
            )
        tokens = torch.ones(len(values), dtype=torch.int64)
        if lengths is not None:
            try:
                tokens = torch.as_tensor(lengths).cpu()
            except (TypeError, ValueError, RuntimeError) as error:
                raise UserError(f"lengths: must be whole numbers: {error}") from error
        if tokens.shape != (len(values),) or tokens.is_floating_point() or tokens.min() < 1:
            raise UserError(
                f"lengths: one whole number from 1 on for each of the {len(values)} sentences is"
                f" needed, not shape {list(tokens.shape)} of {tokens.dtype}"
            )
        return cls(values, tokens.long(), torch.arange(len(values)))

    def __len__(self) -> int:
        return len(self.index)

    @property
    def real(self) -> bool:
        """Whether the rows are floating point numbers, whose likelihood is a density; all others
        are words, whose likelihood is a probability."""
        value = self.values
        while isinstance(value, list | tuple):
            value = next((part for part in value if not isinstance(part, list) or part), "")
        if isinstance(value, Tensor):
            return value.is_floating_point()
        return np.asarray(value).dtype.kind == "f"

    def batches(self, size: int) -> Iterator[Self]:
        """Every sentence once, from short to long."""
        for part in self.lengths.argsort(stable=True).split(size):
            yield self.rows(part)

    def rows(self, index: Tensor) -> Self:
        """The sentences at `index` `[M]` of these, any of them any number of times."""
        values = self.values
        if isinstance(values, Tensor):
            chosen: Any = values[index.to(values.device)]
        elif isinstance(values, np.ndarray):
            chosen = values[index.cpu().numpy()]
        else:
            chosen = [values[i] for i in index.tolist()]
        return type(self)(chosen, self.lengths[index], self.index[index])

    def to(self, device: torch.device | str) -> Self:
        """The same rows; a tensor of values is moved too."""
        values = self.values.to(device) if isinstance(self.values, Tensor) else self.values
        return type(self)(values, self.lengths.to(device), self.index.to(device))


class Scored(nn.Module):
    """A `LatentModel` behind the interface that the evaluation works on.

    What the model returns is held against the protocol at every call.
    """

    def __init__(self, model: LatentModel) -> None:
        super().__init__()
        self.model = model

    def posterior(self, batch: Rows, noise: Noise) -> Distribution:
        """q(z|x) of a batch; the noise, which serves a refining posterior, is not used."""
        q = _one_event(self.model.posterior(batch.values), "posterior")
        if q.batch_shape != (len(batch),) or len(q.event_shape) not in (1, 2):
            raise UserError(
                f"posterior: must be one distribution for each of {len(batch)} sentences, over z"
                f" of shape [B, D] or [B, n, D], not a {type(base(q)).__name__} of batch shape"
                f" {list(q.batch_shape)} and event shape {list(q.event_shape)}"
            )
        return _drawable(q, "posterior")

    def prior(self, q: Distribution, batch: Rows) -> Distribution:
        """p(z) for the sentences of a batch."""
        p = _drawable(_one_event(self.model.prior(batch.values), "prior"), "prior")
        if p.event_shape != q.event_shape or p.batch_shape != q.batch_shape:
            raise UserError(
                f"prior: must have the posterior's shape, {list(shape_of(q))}, not"
                f" {list(shape_of(p))}"
            )
        return p

    def log_likelihood(self, batch: Rows, z: Tensor) -> Tensor:
        """log p(x|z) in nats, [B]."""
        nats = self._nats(batch, z)
        return nats if nats.dim() == 1 else nats.sum(1)

    def log_likelihood_by_position(self, batch: Rows, z: Tensor) -> Tensor | None:
        """log p(x_t | x_<t, z) in nats, [B, T], or None where the model gives sums only."""
        nats = self._nats(batch, z)
        return None if nats.dim() == 1 else nats

    def _nats(self, batch: Rows, z: Tensor) -> Tensor:
        nats = self.model.log_likelihood(batch.values, z)
        if not isinstance(nats, Tensor) or nats.dim() not in (1, 2) or len(nats) != len(batch):
            shape = list(nats.shape) if isinstance(nats, Tensor) else type(nats).__name__
            raise UserError(
                f"log_likelihood: must be a tensor [B] or [B, T] with B = {len(batch)}, not {shape}"
            )
        if nats.numel() and not batch.real and (highest := float(nats.detach().max())) > ROUNDING:
            raise UserError(
                f"log_likelihood: gave {highest:.4g} nats, and the logarithm of a probability is"
                " never above 0: a loss has the opposite sign, and logits need log_softmax. Only a"
                " density may be above 1, and is taken for one where the sentences are floating"
                " point numbers"
            )
        longest = int(batch.lengths.max())
        if nats.dim() == 2 and longest > 1:  # lengths are known
            over = torch.arange(nats.shape[1], device=nats.device) >= batch.lengths[:, None]
            if (nats[over] != 0).any():
                raise UserError(
                    "log_likelihood: must be zero past a sentence's end, as its lengths tell it,"
                    f" not {float(nats[over].detach().abs().max()):.4g} nats; mask the padding"
                )
        return nats


def _one_event(distribution: Any, what: str) -> Distribution:
    """The distribution with one event a sentence."""
    if not isinstance(distribution, Distribution):
        raise UserError(
            f"{what}: must return a torch.distributions.Distribution, not"
            f" {type(distribution).__name__}"
        )
    extra = len(distribution.batch_shape) - 1
    if extra > 0 and not distribution.event_shape:
        if type(distribution) is Normal:
            # Not validated: what is not finite is told by the array that it ends in.
            distribution = Normal(distribution.mean, distribution.stddev, validate_args=False)
        return Independent(distribution, extra, validate_args=False)
    return distribution


def _drawable(distribution: Distribution, what: str) -> Distribution:
    """The distribution, from which given noise has to make a draw."""
    part = base(distribution)
    if not (isinstance(part, Normal) or hasattr(part, "from_noise")):
        raise UserError(
            f"{what}: a {type(part).__name__} cannot be drawn from with given noise; give it a"
            f" method from_noise(noise) that turns standard normal noise of shape"
            f" {list(shape_of(distribution))} into a draw, or return a Normal"
        )
    return distribution
