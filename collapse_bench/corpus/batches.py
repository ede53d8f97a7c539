"""Sentences to padded batches, in an order that is a pure function of seed and epoch."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from collapse_bench.corpus.corpus import Split
from collapse_bench.corpus.vocabulary import BOS, EOS, PAD

MOST_PADDED = 2**14
"""Places `B T` of a batch, padding included, where it holds more than one sentence. One sentence of
4,000 words would otherwise pad the fifty short ones beside it to its length. Three times what 64
sentences of the Penn Treebank need at most, so that batches of ordinary sentences are as asked."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Sentences of similar length; T is the longest of them, its end included.

    Attributes:
        targets: `[B, T]` what a decoder predicts: the words, then eos; or `[B, T, Y]`, the values
            of each step, whose number is known beforehand.
        inputs: the same shape, what it reads: bos, then the words; or zeros, then the values.
        mask: `[B, T]` bool, false at padding; the same for inputs and targets.
        lengths: `[B]` targets a sentence, eos included.
        index: `[B]` positions of the sentences in their split.
        kinds: `[B]` which of the corpus's combinations of labels each has. For an oracle alone: in
            a batch of any other model all are -1.
        counted: number of targets, where the host knows it.
    """

    targets: Tensor
    inputs: Tensor
    mask: Tensor
    lengths: Tensor
    index: Tensor
    kinds: Tensor
    counted: int | None = field(default=None, kw_only=True)

    @property
    def tokens(self) -> int:
        """Number of targets. Of sentences chosen by `rows`, a GPU is waited for."""
        return int(self.lengths.sum()) if self.counted is None else self.counted

    def rows(self, index: Tensor) -> Self:
        """The sentences at `index` `[M]` of this batch, any of them any number of times."""
        return replace(
            self,
            targets=self.targets[index],
            inputs=self.inputs[index],
            mask=self.mask[index],
            lengths=self.lengths[index],
            index=self.index[index],
            kinds=self.kinds[index],
            counted=None,
        )

    def to(self, device: torch.device | str) -> Self:
        """The same batch on `device`; a copy to a GPU is not waited for."""

        to_gpu = torch.device(device).type == "cuda"

        def moved(tensor: Tensor) -> Tensor:
            from_host = to_gpu and tensor.device.type == "cpu"
            tensor = tensor.pin_memory() if from_host else tensor
            return tensor.to(device, non_blocking=from_host)

        return replace(
            self,
            targets=moved(self.targets),
            inputs=moved(self.inputs),
            mask=moved(self.mask),
            lengths=moved(self.lengths),
            index=moved(self.index),
            kinds=moved(self.kinds),
        )


def training_batches(split: Split, batch: int, seed: int, epoch: int) -> Iterator[Batch]:
    """Every sentence once, in batches of similar length; the one small batch may come anywhere.

    A batch of more than `MOST_PADDED` places comes as several, one after the other. None has a
    single sentence, which has no statistics that a batch normalisation could use: a rest of one
    joins another batch. But where batches of one are asked for, or a sentence is so long that two
    are more than those places.
    """
    rng = np.random.default_rng([seed, epoch])
    shuffled = rng.permutation(len(split))
    by_length = shuffled[np.argsort(split.lengths[shuffled], kind="stable")]
    full, rest = divmod(len(split), batch)
    # Were the small batch always the last, it would always hold the longest sentences.
    sizes = [batch] * full + [rest] * (rest > 0)
    if rest == 1 and full and batch > 1:
        sizes = [batch] * (full - 1) + [batch + 1]
    groups = np.split(by_length, np.cumsum(rng.permutation(sizes))[:-1])
    for i in rng.permutation(len(groups)):
        group = groups[i]
        yield from _within_bounds(split, group, max(batch, len(group)), least=2)


def evaluation_batches(split: Split, batch: int) -> Iterator[Batch]:
    """Every sentence once, from short to long, `batch` at a time within `MOST_PADDED` places."""
    yield from _within_bounds(split, np.argsort(split.lengths, kind="stable"), batch)


def _within_bounds(
    split: Split, by_length: NDArray[np.int64], batch: int, least: int = 1
) -> Iterator[Batch]:
    """Sentences from short to long in as few batches as the bounds allow.

    The last batch gets `least` sentences from the one before, where the bounds allow that too.
    """
    lengths = split.lengths[by_length]
    start = 0
    while start < len(by_length):
        places = lengths[start : start + batch] * np.arange(1, len(lengths[start:][:batch]) + 1)
        # A sentence that is too long by itself is a batch of one.
        end = start + max(1, int(np.searchsorted(places, MOST_PADDED, side="right")))
        left = len(by_length) - end
        if 0 < left < least and end - start > least and least * lengths[-1] <= MOST_PADDED:
            end -= least - left
        yield collate(split, by_length[start:end])
        start = end


def collate(split: Split, index: NDArray[np.int64]) -> Batch:
    """The sentences at `index` as one padded batch."""
    lengths = split.lengths[index]
    mask = np.arange(lengths.max()) < lengths[:, None]
    targets = _values(split, index, mask) if split.real else _words(split, index, mask)
    kinds = split.kinds
    return Batch(
        targets=torch.from_numpy(targets),
        inputs=torch.from_numpy(shifted(targets, mask)),
        mask=torch.from_numpy(mask),
        lengths=torch.from_numpy(lengths),
        index=torch.from_numpy(index.astype(np.int64)),
        kinds=torch.from_numpy(kinds[index] if kinds is not None else np.full(len(index), -1)),
        counted=int(lengths.sum()),
    )


def _words(split: Split, index: NDArray[np.int64], mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Ids and eos of these sentences, [B, T]."""
    targets = np.full(mask.shape, PAD, dtype=np.int64)
    for row, i, length in zip(targets, index, split.lengths[index], strict=True):
        row[: length - 1] = split.sentence(i)
        row[length - 1] = EOS
    return targets


def _values(split: Split, index: NDArray[np.int64], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Values of these sequences, [B, T, Y], zero at padding."""
    targets = np.zeros((*mask.shape, split.tokens.shape[1]), dtype=np.float32)
    for row, i, length in zip(targets, index, split.lengths[index], strict=True):
        row[:length] = split.sentence(i)
    return targets


def shifted(targets: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[Any]:
    """What a decoder reads that predicts these targets, [B, T] or [B, T, Y]: a place later, after
    bos or zeros, and padded as they are."""
    first = np.full_like(targets[:, :1], BOS if targets.ndim == 2 else 0)
    inputs = np.concatenate([first, targets[:, :-1]], axis=1)
    inputs[~mask] = PAD
    return inputs
