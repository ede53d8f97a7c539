"""Whether log p(x|z) is a likelihood of words: each from those before it, in probabilities.

A sentence's first token is number 1 in what is told.
"""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from collapse_bench.corpus import Batch
from collapse_bench.evaluation.asked import (
    Asked,
    every_next_word,
    fitted,
    one_token,
    sentences_of,
    table_of,
)
from collapse_bench.latent_model import Rows
from collapse_bench.model import SequenceVAE
from collapse_bench.model.readout import Readout

PROBABILITIES = 2**22
"""Probabilities formed for sums over all words. Each word is asked for by itself, and a readout
forms all of them each time: a sum takes the square of the vocabulary."""

PLACES = (0, 1, 3)
"""Words before the one that is replaced by every other, as far as `PROBABILITIES` reach."""

STATES, SOME = 4, 64
"""Decoder states of which the sum over all words is taken, and words that are compared with a plain
softmax where such a sum takes too long."""

SUM = 1e-3
"""Nats by which the log of a sum over all words may be off 0; float32 errs by less than 1e-5."""

ROWS, WORDS, LOOKED_AT = 3, 256, 1000
"""Of a user's model: sentences in which a word is replaced by all others, most words that replace
it, and sentences in which these are looked for."""


def causal(asked: Asked) -> str | None:
    """Whether what is predicted for a token depends on this token or on what comes after it."""
    if not isinstance(asked.model, SequenceVAE):
        return _causal_rows(asked)
    batch, z = asked.sentences, asked.own.z
    if not isinstance(batch, Batch) or batch.targets.is_floating_point():
        return None
    assert not isinstance(asked.split, Rows)
    assert asked.tokens is not None
    words = [asked.split.sentence(int(i)) for i in batch.index]
    every = np.concatenate(words)
    place: list[int] = []
    other_word, other_end = [], []
    for i, sentence in enumerate(words):
        partner = _of_other_length(words, i)
        t = int(asked.rng.integers(min(len(sentence), len(partner))))
        place.append(t)
        other_word.append(_replaced(sentence, t, every))
        other_end.append(np.concatenate([sentence[:t], partner[t:]]))
    width = batch.targets.shape[1]
    row, at = torch.arange(len(words)), torch.tensor(place)
    before = torch.arange(width) < at[:, None]
    target = batch.targets[row, at][:, None]
    readout: Any = asked.model.readout
    states = asked.model.decoder(batch, z)
    for told, changed in (("changing token", other_word), ("another end from token", other_end)):
        other = sentences_of(changed, batch.index)
        new_states = asked.model.decoder(other, z)
        off = torch.zeros(len(words), width, dtype=torch.float64)
        # The old word as the new sentence's state predicts it.
        one, new = (
            readout(each[row, at][:, None], one_token(target, batch.index))
            for each in (states, new_states)
        )
        off[row, at] = asked.beyond(one, new)
        new = fitted(readout.by_position(new_states, other), width)
        off = off + asked.beyond(asked.tokens, new).where(before, 0.0)
        if off.any():
            return _peeks(told, place, off)
    return None


def _peeks(told: str, place: list[int], off: Tensor) -> str:
    """The reason, with the largest change [B, T]."""
    row, token = divmod(int(off.argmax()), off.shape[1])
    return (
        f"the decoder sees what it predicts: {told} {place[row] + 1} changes what is predicted for"
        f" token {token + 1} by {float(off[row, token]):.2g} nats"
    )


def _causal_rows(asked: Asked) -> str | None:
    """The same of rows of whole numbers, whose likelihood is told by position.

    A model that goes from right to left is as good: what changes both before and after it is not.
    """
    rows, nats = asked.sentences, asked.tokens
    table = table_of(rows)
    if table is None or nats is None or nats.shape != table.shape or table.shape[1] < 3:
        return None
    ends = _ends(asked, rows, table)
    place = [int(asked.rng.integers(1, end - 1)) if end > 2 else 0 for end in ends]
    seen = _seen_at_each_place(asked, table.shape[1])
    changed = np.stack([_replaced(row, t, seen[t]) for row, t in zip(table, place, strict=True)])
    new = asked.model.log_likelihood_by_position(_with(rows, changed), asked.own.z)
    if new is None:
        return None
    at = torch.arange(table.shape[1])
    middle = torch.tensor(place)[:, None]
    off = asked.beyond(nats, new).where(middle > 0, 0.0)
    before, after = off.where(at < middle, 0.0), off.where(at > middle, 0.0)
    return _peeks("changing token", place, before) if before.any() and after.any() else None


def normalised(asked: Asked) -> str | None:
    """Whether the probabilities of all words at a place of a sentence sum to 1."""
    if not isinstance(asked.model, SequenceVAE):
        return _normalised_rows(asked)
    model, batch, z = asked.model, asked.sentences, asked.own.z
    if not isinstance(batch, Batch) or batch.targets.is_floating_point():
        return None
    words = torch.arange(model.dimensions.vocabulary, device=asked.device)
    affordable = PROBABILITIES // len(words) ** 2
    # The states of some tokens in the middle.
    at = [int(asked.rng.integers(length)) for length in batch.lengths[:STATES].tolist()]
    states = model.decoder(batch, z)[torch.arange(len(at)), at]
    if not affordable and type(model.readout) is Readout:
        return _plain_softmax(asked, states, model.readout)
    worst = 0.0
    for state, number in list(zip(states, batch.index, strict=False))[: max(1, affordable)]:
        nats = []
        for some in words.split(16 * asked.batch):
            single = one_token(some[:, None], number.expand(len(some)))
            nats.append(model.readout(state.expand(len(some), 1, -1), single))
        worst = _further_off(worst, torch.cat(nats))
    spent = len(at)
    for i, before in enumerate(PLACES[: len(z)]):
        spent += before + 1
        if spent > affordable or before >= int(batch.lengths[i]):
            break
        nats = []
        for some in words.split(max(1, 16 * asked.batch // (before + 1))):
            ends = every_next_word(batch.targets[i, :before], some, int(batch.index[i]))
            of_z = z[i].expand(len(some), *z.shape[1:])
            nats.append(model.log_likelihood_by_position(ends, of_z)[:, before])
        worst = _further_off(worst, torch.cat(nats))
    if abs(worst) <= SUM * asked.slack:
        return None
    return f"the probabilities of all words sum to {math.exp(min(worst, 700)):.4g}, not to 1"


def _plain_softmax(asked: Asked, states: Tensor, readout: Readout) -> str | None:
    """Whether the bench's own readout of these states [M, H] is the softmax of its products."""
    numbers = asked.sentences.index[: len(states)]
    words = asked.rng.integers(len(readout.weight), size=(len(states), SOME))
    targets = torch.from_numpy(words).to(asked.device)
    plain = (states @ readout.weight.T).log_softmax(1).gather(1, targets)
    rows = states.repeat_interleave(SOME, dim=0)[:, None]
    own = readout(rows, one_token(targets.view(-1, 1), numbers.repeat_interleave(SOME)))
    worst = float(asked.beyond(plain.flatten(), own).max())
    return f"log p of a word is off a plain softmax by {worst:.2g} nats" if worst else None


def _normalised_rows(asked: Asked) -> str | None:
    """The same of rows of whole numbers: over some of the words the sum is at most 1.

    At a place only those are tried that were seen there: others need not mean anything.
    """
    rows = asked.sentences
    table = table_of(rows)
    z, nats = asked.own.z, asked.tokens
    if table is None or nats is None or nats.shape != table.shape:
        return None
    ends = _ends(asked, rows, table)
    seen = _seen_at_each_place(asked, table.shape[1])
    worst = 0.0
    for i, end in enumerate(ends[:ROWS]):
        place = int(asked.rng.integers(end))
        ids = seen[place]
        changed = np.repeat(table[i : i + 1], len(ids), axis=0)
        changed[:, place] = ids
        many = rows.rows(torch.full((len(ids),), i, device=asked.device))
        found = asked.model.log_likelihood_by_position(
            _with(many, changed), z[i].expand(len(ids), *z.shape[1:])
        )
        if found is None:
            return None
        told = found[:, place]
        # A word at which the model takes the sentence to be over is none of it.
        worst = max(worst, _further_off(0.0, told[told != 0])) if (told != 0).any() else worst
    if worst <= SUM * asked.slack:
        return None
    return f"the probabilities of some words sum to {math.exp(min(worst, 700)):.4g}, above 1"


def _further_off(worst: float, nats: Tensor) -> float:
    """The log of the sum of these probabilities, or `worst` where that is further from 0."""
    off = float(nats.double().logsumexp(0))
    return off if abs(off) > abs(worst) or math.isnan(off) else worst


def _of_other_length(words: list[NDArray[Any]], i: int) -> NDArray[Any]:
    """Another of these sentences, of another length where there is one."""
    others = [*words[i + 1 :], *words[:i]]
    of_other = [other for other in others if len(other) != len(words[i])]
    return [*of_other, *others, words[i]][0]


def _replaced(row: NDArray[Any], t: int, among: NDArray[Any]) -> NDArray[Any]:
    """The row with another one of these words at t, if there is one."""
    changed, others = row.copy(), among[among != row[t]]
    if len(others):
        changed[t] = others[(7 * t + len(row)) % len(others)]
    return changed


def _with(rows: Rows, table: NDArray[Any]) -> Rows:
    """The same rows of other words."""
    if isinstance(rows.values, Tensor):
        return replace(rows, values=torch.from_numpy(table).to(rows.values))
    return replace(rows, values=table)


def _seen_at_each_place(asked: Asked, columns: int) -> list[NDArray[Any]]:
    """The most frequent words of each column, at most `WORDS`."""
    rows = asked.at(asked.order[:LOOKED_AT])
    table = table_of(rows)
    assert table is not None
    inside = np.arange(columns) < np.array(_ends(asked, rows, table))[:, None]
    seen = []
    for column, there in zip(table.T, inside.T, strict=True):
        words, counts = np.unique(column[there], return_counts=True)
        seen.append(words[np.argsort(-counts, kind="stable")][:WORDS])
    return seen


def _ends(asked: Asked, rows: Rows, table: NDArray[Any]) -> list[int]:
    """Where each sentence ends; all at the last column where no lengths are known."""
    lengths = asked.split.lengths
    known = isinstance(lengths, Tensor) and int(lengths.max()) > 1
    return rows.lengths.tolist() if known else [table.shape[1]] * len(table)
