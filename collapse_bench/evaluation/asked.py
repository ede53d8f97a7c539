"""A model and the sentences that it is asked about, to see whether its bound is one."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Distribution

from collapse_bench.corpus import Batch, Split
from collapse_bench.corpus.batches import MOST_PADDED, collate
from collapse_bench.corpus.vocabulary import BOS
from collapse_bench.device import full_float32
from collapse_bench.evaluation.evaluate import Evaluable, device_of, evaluating
from collapse_bench.evaluation.noise import SentenceNoise
from collapse_bench.latent_model import Rows
from collapse_bench.model.distributions import draw, shape_of
from collapse_bench.precision import products_in

COMPARED = 16
"""Sentences that are asked about again and again; looked at once they take little time."""

LONGEST = MOST_PADDED // 64
"""Tokens of the longest sentence that is asked about, since up to 64 are padded to it."""

NATS, SHARE = 0.005, 5e-5
"""What two computations of one number may differ by: nats, and a share of it. Other padding and
other batches round otherwise; the most that was seen of remedies, sizes and architectures was 5e-5
at 300 nats a sentence and 2e-4 at 2,000, a hundredth to a five-hundredth of what is let pass. And
that is too little to matter: from 0.1 nats on a latent counts as used."""


@dataclass(frozen=True)
class Inferred:
    """What is inferred of B sentences before anything is decoded: q, p, and a draw z of q."""

    q: Distribution
    p: Distribution
    z: Tensor


class Asked:
    """A model, the N sentences of a split, and noise that belongs to each of them.

    Attributes:
        order: the sentences, but for very long ones, in a random order.
        rng: for whatever else is chosen at random.
        sentences: the first of them, as one batch.
        own: what is inferred of these.
        nats: log p(x|z) of these with z their own draw, `[B]`.
        tokens: the same by position, `[B, T]`, or None.
    """

    def __init__(self, model: Evaluable, split: Split | Rows, batch: int, seed: int) -> None:
        self.model, self.split, self.batch = model, split, batch
        self.device = device_of(model)
        self.noise = SentenceNoise(len(split), seed)
        self.rng = np.random.default_rng(seed)
        lengths = np.asarray(split.lengths)
        short = lengths <= max(LONGEST, int(lengths.min()))
        self.order = self.rng.permutation(np.flatnonzero(short))
        kinds = [p.dtype for p in model.parameters() if p.is_floating_point()]
        coarsest = max((torch.finfo(kind).eps for kind in kinds), default=0.0)
        # Coarser weights round more; no more than their errors' square root adds up.
        self.slack = max(1.0, (coarsest / torch.finfo(torch.float32).eps) ** 0.5)
        self.sentences = self.at(self.order[:COMPARED])
        self.own = self.infer(self.sentences)
        self.nats = model.log_likelihood(self.sentences, self.own.z)
        self.tokens = model.log_likelihood_by_position(self.sentences, self.own.z)

    @property
    def of_values(self) -> bool:
        """Whether the sentences are sequences of values that a model of the bench reads."""
        return isinstance(self.split, Split) and self.split.real

    def at(self, index: NDArray[np.int64]) -> Any:
        """These sentences as one batch."""
        if isinstance(self.split, Rows):
            return self.split.rows(torch.from_numpy(index)).to(self.device)
        return collate(self.split, index).to(self.device)

    def infer(self, sentences: Any, numbered: Any = None) -> Inferred:
        """Posterior, prior and a draw; the noise is that of the sentences in `numbered`."""
        numbers = sentences if numbered is None else numbered
        q = self.model.posterior(sentences, self.noise.of_refinement(numbers))
        p = self.model.prior(q, sentences)
        z = draw(q, self.noise.of(numbers, 0)(shape_of(q)))
        return Inferred(q, p, z)

    def beyond(self, one: Tensor, other: Tensor, strict: float = 1.0) -> Tensor:
        """By how much two computations of the same numbers differ where that is too much, else 0.

        Args:
            one: `[B]` or `[B, ...]`.
            other: as many of them.
            strict: times as little is let pass.

        Returns:
            The same shape, infinite where one is a number and the other is none.
        """
        one, other = one.detach().double().cpu(), other.detach().double().cpu()
        apart = (one - other).abs()
        same = (one == other) | (one.isnan() & other.isnan())
        apart = apart.nan_to_num(torch.inf, torch.inf).masked_fill(same, 0.0)
        allowed = self.slack / strict * (NATS + SHARE * one.abs().nan_to_num(0.0, 0.0, 0.0))
        return apart.masked_fill(apart <= allowed, 0.0)


@contextmanager
def asking(model: Evaluable) -> Iterator[None]:
    """Eval mode, no gradients, float32 products; modes and generators as before afterwards."""
    device = device_of(model)
    cards = [device] if device.type == "cuda" else []
    with (
        full_float32(),
        torch.random.fork_rng(cards),
        evaluating(model),
        products_in("float32", device.type),
    ):
        yield


def sentences_of(words: Sequence[NDArray[Any]], index: Tensor) -> Batch:
    """Sentences of these words as a batch, numbered by `index`."""
    offsets = np.cumsum([0, *map(len, words)])
    batch = collate(Split(np.concatenate(words), offsets), np.arange(len(words)))
    return replace(batch.to(index.device), index=index)


def every_next_word(prefix: Tensor, words: Tensor, number: int) -> Batch:
    """One unfinished sentence a word: the prefix `[t]`, then that word of the `words` `[M]`."""
    count, length = len(words), len(prefix) + 1
    targets = torch.cat([prefix.expand(count, -1), words[:, None]], dim=1)
    first = targets.new_full((count, 1), BOS)
    return Batch(
        targets=targets,
        inputs=torch.cat([first, targets[:, :-1]], dim=1),
        mask=torch.ones_like(targets, dtype=torch.bool),
        lengths=targets.new_full((count,), length),
        index=targets.new_full((count,), number),
        kinds=targets.new_full((count,), -1),
        counted=count * length,
    )


def one_token(targets: Tensor, index: Tensor) -> Batch:
    """Unfinished sentences of one token each, targets `[M, 1]`."""
    return replace(every_next_word(targets[0, :0], targets[:, 0], 0), index=index)


def fitted(nats: Tensor, tokens: int) -> Tensor:
    """Nats `[B, T]` cut or filled up with zeros to so many tokens."""
    return torch.nn.functional.pad(nats, (0, tokens - nats.shape[1]))


def table_of(rows: Any) -> NDArray[Any] | None:
    """Whole numbers [B, T], where the rows of a user's model are such a table."""
    values = rows.values if isinstance(rows, Rows) else None
    if isinstance(values, Tensor):
        values = values.cpu().numpy()
    whole = isinstance(values, np.ndarray) and values.ndim == 2 and values.dtype.kind in "iu"
    return values if whole else None
