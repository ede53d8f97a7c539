"""Whether log p(x|z) is a likelihood of words: each from those before it, in probabilities.

A sentence's first token is number 1 in what is told.
"""

import math
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from collapse_bench.corpus import Batch
from collapse_bench.corpus.batches import MOST_PADDED
from collapse_bench.corpus.vocabulary import EOS
from collapse_bench.evaluation.asked import (
    COMPARED,
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

PEEKS, FAR, FIRST = 64, 16, 8
"""Sentences in which words and ends are changed, the longest that are among them in any case, and
first places that are among those changed."""

HISTORY, TRIED = (3, 10), 2**15
"""Fewest and most words before the one that is replaced by every other where the readout is a
remedy's own and may look at them, and places of such sentences that are affordable."""

STATES, SOME = 4, 64
"""Decoder states of which the sum over all words is taken, and words that are compared with a plain
softmax where such a sum takes too long."""

SUM = 2e-4
"""Nats by which the log of a sum over all words may be off 0; float32 errs by less than 1e-5."""

ROWS, WORDS, LOOKED_AT = 3, 256, 1000
"""Of a user's model: sentences in which a word is replaced by all others, most words that replace
it, and sentences in which these are looked for."""


def causal(asked: Asked) -> str | None:
    """Whether what is predicted for a token depends on this token or on what comes after it.

    The end of a sentence is a token too: a sentence that goes on where it ended, or ends where it
    went on, leaves what is predicted up to there as it was.
    """
    if not isinstance(asked.model, SequenceVAE):
        return _causal_rows(asked)
    if not isinstance(asked.sentences, Batch):
        return None
    assert not isinstance(asked.split, Rows)
    chosen = _to_ask(asked)
    words = [asked.split.sentence(int(i)) for i in chosen]
    changes = _changes(asked, words)
    for start in range(0, len(chosen), COMPARED):
        part = slice(start, start + COMPARED)
        if found := _causal_batch(asked, chosen[part], changes[part]):
            return found
    return None


def _to_ask(asked: Asked) -> NDArray[np.int64]:
    """Some sentences and the longest ones, from short to long."""
    lengths = np.asarray(asked.split.lengths)
    longest = asked.order[np.argsort(-lengths[asked.order], kind="stable")][:FAR]
    chosen = np.union1d(asked.order[:PEEKS], longest)
    return chosen[np.argsort(lengths[chosen], kind="stable")]


class _Change(NamedTuple):
    """A sentence up to `place`, then another word there, and another end from there."""

    place: int
    word: NDArray[Any]
    end: NDArray[Any]


def _changes(asked: Asked, words: list[NDArray[Any]]) -> list[_Change]:
    """For each sentence a place: in turn its end, one of the first, and two anywhere.

    No sentence becomes longer than the longest of them. A word is replaced by any that the split
    has, all alike, since most are rare and what looks at rare words only has to be seen as well.
    """
    rng = asked.rng
    every = np.unique(asked.split.tokens)  # type: ignore[union-attr]
    changes = []
    for i, sentence in enumerate(words):
        longer = [other for other in words if len(other) > len(sentence)]
        if i % 4 == 0 and longer:
            partner, t = longer[int(rng.integers(len(longer)))], len(sentence)
        else:
            partner = _of_other_length(words, int(rng.integers(len(words))), sentence)
            # Where the shorter one of two ends, the other goes on.
            last = min(len(sentence), len(partner)) - (len(sentence) == len(partner))
            t = i // 4 % FIRST if i % 4 == 1 else int(rng.integers(max(1, last + 1)))
            t = max(0, min(t, last))
        word = np.append(sentence, EOS) if t == len(sentence) else sentence
        word = _replaced(word, t, every, rng)
        changes.append(_Change(t, word, np.concatenate([sentence[:t], partner[t:]])))
    return changes


def _causal_batch(asked: Asked, index: NDArray[np.int64], changes: list[_Change]) -> str | None:
    """The same of the sentences at `index`, so changed."""
    batch = asked.at(index)
    z = asked.infer(batch).z
    width = batch.targets.shape[1]
    place = [change.place for change in changes]
    row, at = (torch.tensor(n, device=asked.device) for n in (range(len(place)), place))
    before = torch.arange(width) < torch.tensor(place)[:, None]
    target = batch.targets[row, at][:, None]
    model: Any = asked.model
    states = model.decoder(batch, z)
    tokens = model.readout.by_position(states, batch)
    one = model.readout(states[row, at][:, None], one_token(target, batch.index))
    for told, changed in (
        ("changing token", [change.word for change in changes]),
        ("another end from token", [change.end for change in changes]),
    ):
        other = sentences_of(changed, batch.index)
        new_states = model.decoder(other, z)
        off = torch.zeros(len(place), width, dtype=torch.float64)
        # The old word as the new sentence's state predicts it.
        new = model.readout(new_states[row, at][:, None], one_token(target, batch.index))
        off[row.cpu(), at.cpu()] = asked.beyond(one, new)
        new = fitted(model.readout.by_position(new_states, other), width)
        off = off + asked.beyond(tokens, new).where(before, 0.0)
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
    changed = np.stack(
        [_replaced(row, t, seen[t], asked.rng) for row, t in zip(table, place, strict=True)]
    )
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
    if not isinstance(batch, Batch):
        return None
    words = torch.arange(model.dimensions.vocabulary, device=asked.device)
    affordable = PROBABILITIES // len(words) ** 2
    # The states of some tokens in the middle.
    at = [int(asked.rng.integers(length)) for length in batch.lengths[:STATES].tolist()]
    states = model.decoder(batch, z)[torch.arange(len(at)), at]
    if not affordable and type(model.readout) is Readout:
        return _plain_softmax(asked, states, model.readout)
    worst = 0.0
    repeat = None if type(model.readout) is Readout else _repeat(asked)
    summed = max(affordable, repeat is None)  # states
    if repeat is not None:
        number, before = repeat
        one = asked.at(np.array([number]))
        worst = _further_off(worst, _all_next(asked, one, asked.infer(one).z, 0, before))
    for state, index in list(zip(states, batch.index, strict=False))[:summed]:
        nats = []
        for some in words.split(16 * asked.batch):
            single = one_token(some[:, None], index.expand(len(some)))
            nats.append(model.readout(state.expand(len(some), 1, -1), single))
        worst = _further_off(worst, torch.cat(nats))
    spent = len(at)
    for i, before in enumerate(PLACES[: len(z)]):
        spent += before + 1
        if spent > affordable or before >= int(batch.lengths[i]):
            break
        worst = _further_off(worst, _all_next(asked, batch, z, i, before))
    if abs(worst) <= SUM * asked.slack:
        return None
    return f"the probabilities of all words sum to {math.exp(min(worst, 700)):.4g}, not to 1"


def _all_next(asked: Asked, batch: Batch, z: Tensor, i: int, before: int) -> Tensor:
    """log p of every word [V] after the first ones of a sentence of the batch."""
    model: Any = asked.model
    words = torch.arange(model.dimensions.vocabulary, device=asked.device)
    nats = []
    for some in words.split(max(1, min(16 * asked.batch, MOST_PADDED) // (before + 1))):
        ends = every_next_word(batch.targets[i, :before], some, int(batch.index[i]))
        of_z = z[i].expand(len(some), *z.shape[1:])
        nats.append(model.log_likelihood_by_position(ends, of_z)[:, before])
    return torch.cat(nats)


def _repeat(asked: Asked) -> tuple[int, int] | None:
    """A sentence and a place with some words before it, the word there among them if possible.

    What a readout adds to words that it has seen shows in the sum over all as far as these are
    likely: the most frequent word that is repeated is taken.
    """
    assert not isinstance(asked.split, Rows)
    model: Any = asked.model
    least, most = HISTORY
    most = min(most, max(least, TRIED // model.dimensions.vocabulary - 1))
    counts = np.bincount(asked.split.tokens)
    best, found = -1, None
    for number in asked.order[:LOOKED_AT].tolist():
        sentence = asked.split.sentence(number)
        for t in range(least, min(most, len(sentence)) + 1):
            again = t < len(sentence) and sentence[t] in sentence[:t]
            repeated = int(counts[sentence[t]]) if again else 0
            if repeated > best:
                best, found = repeated, (number, t)
    return found


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


def _of_other_length(words: list[NDArray[Any]], start: int, sentence: NDArray[Any]) -> NDArray[Any]:
    """Another of these sentences from `start` on, of another length where there is one."""
    others = [*words[start:], *words[:start]]
    of_other = [other for other in others if len(other) != len(sentence)]
    return [*of_other, *others][0]


def _replaced(
    row: NDArray[Any], t: int, among: NDArray[Any], rng: np.random.Generator
) -> NDArray[Any]:
    """The row with another one of these words at t, if there is one."""
    changed, others = row.copy(), among[among != row[t]]
    if len(row) and len(others):
        changed[t] = rng.choice(others)
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
