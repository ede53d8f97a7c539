"""A corpus in memory: three splits of sentences or of sequences of values, and what is known."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from collapse_bench.corpus.vocabulary import UNK, Vocabulary
from collapse_bench.errors import UserError

SPLITS = ("train", "valid", "test")
LEAST = {"train": 1, "valid": 1, "test": 2}
"""Sentences that a split must have: of a single one in test nothing can be told apart."""

MOST_KINDS = 5_000
"""Combinations of labels that an oracle can be told."""

Labels = Mapping[str, NDArray[np.str_]]
"""Name of a label to its value for each sentence `[N]`, "" where a sentence has none."""


class Settings(Protocol):
    """What a suite says about its corpus."""

    @property
    def name(
        self,
    ) -> Literal[
        "ptb", "text", "bible", "newswire", "he2019", "values", "linear_gaussian", "sine_maps"
    ]: ...
    @property
    def level(self) -> Literal["easy", "medium", "hard"]: ...
    @property
    def otherwise(self) -> Literal["bible", "newswire"] | None: ...
    @property
    def path(self) -> str | None: ...
    @property
    def hub(self) -> str | None: ...
    @property
    def revision(self) -> str | None: ...
    @property
    def vocabulary(self) -> int | None: ...
    @property
    def tokenizer(self) -> Literal["word", "bpe"]: ...
    @property
    def sentences(self) -> int | None: ...
    @property
    def steps(self) -> int | None: ...


@dataclass(frozen=True)
class Texts:
    """A corpus as it was read, before it has a vocabulary.

    Attributes:
        name: What it really is, which after a fall-back is not what the suite asked for.
        sentences: For each of `SPLITS` its sentences, words joined by one space, none empty.
        labels: For each of `SPLITS` its labels, maybe none.
        standard: Whether the text is the one known under this name, by its digest.
        facts: What else is known about the text, for the record.
    """

    name: str
    sentences: Mapping[str, Sequence[str]]
    labels: Mapping[str, Labels] = field(default_factory=dict)
    standard: bool = False
    facts: Mapping[str, float | str] = field(default_factory=dict)


@dataclass(frozen=True)
class Values:
    """A corpus of real-valued sequences, as a model is to see it.

    Attributes:
        name: As of `Texts`; so are `labels`, `standard` and `facts`.
        sequences: For each of `SPLITS` its sequences, `[T, Y]` each, all numbers finite.
    """

    name: str
    sequences: Mapping[str, Sequence[NDArray[np.float32]]]
    labels: Mapping[str, Labels] = field(default_factory=dict)
    standard: bool = False
    facts: Mapping[str, float | str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Split:
    """Encoded sentences end to end, none cut, without bos and eos; or sequences of values.

    Attributes:
        tokens: `[total]` ids, or `[total, Y]` values, a step of a sequence being a token.
        offsets: `[N + 1]` where each sentence begins and the last one ends.
        labels: Values of each label `[N]`.
        kinds: `[N]` which of `Corpus.kinds` each sentence is; None where the model is not to know.
    """

    tokens: NDArray[Any]
    offsets: NDArray[np.int64]
    labels: Labels = field(default_factory=dict)
    kinds: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def real(self) -> bool:
        """Whether these are values, whose likelihood is a density, in place of words."""
        return self.tokens.ndim == 2

    def sentence(self, i: int) -> NDArray[Any]:
        """Ids of sentence `i`, or its values."""
        return self.tokens[self.offsets[i] : self.offsets[i + 1]]

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens to predict in each sentence `[N]`: its ids and eos; of values, whose end is known
        beforehand, its steps."""
        return np.diff(self.offsets) + (0 if self.real else 1)

    @property
    def n_tokens(self) -> int:
        """Tokens to predict in the split, one eos a sentence of words."""
        return int(self.lengths.sum())


@dataclass(frozen=True, eq=False)
class Corpus:
    """Three splits under one vocabulary, or of values with as many channels.

    Attributes:
        sha256: over the normalised text, or the values, of all three splits.
        vocabulary: None where there are values in place of words.
        channels: Y, numbers of a step; 0 of words.
        labels_sha256: over the labels of all three splits, None where there are none.
        kinds: Of `with_kinds`: the combinations of labels that there are.
    """

    name: str
    requested: str
    sha256: str
    standard: bool
    vocabulary: Vocabulary | None
    train: Split
    valid: Split
    test: Split
    facts: Mapping[str, float | str] = field(default_factory=dict)
    labels_sha256: str | None = None
    kinds: Sequence[Mapping[str, str]] = ()
    channels: int = 0

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest sentence of all splits, its eos counted."""
        return max(int(getattr(self, name).lengths.max()) for name in SPLITS)

    def record(self) -> dict[str, Any]:
        """What a record says about the corpus."""
        splits = {name: getattr(self, name) for name in SPLITS}
        return {
            "name": self.name,
            "requested": self.requested,
            "sha256": self.sha256,
            "standard": self.standard,
            "sentences": {name: len(split) for name, split in splits.items()},
            "tokens": {name: split.n_tokens for name, split in splits.items()},
            "vocabulary": self.vocabulary
            and {
                "types": self.vocabulary.size,
                "tokenizer": self.vocabulary.tokenizer_name,
                "unknown_share_of_test": float(np.mean(self.test.tokens == UNK)),
            },
            **({"channels": self.channels} if self.channels else {}),
            "labels_sha256": self.labels_sha256,
            "labelled": {
                label: {
                    name: int((np.asarray(split.labels.get(label, ())) != "").sum())
                    for name, split in splits.items()
                }
                for label in sorted({label for split in splits.values() for label in split.labels})
            },
            **self.facts,
        }


def encoded(texts: Texts, settings: Settings) -> Corpus:
    """`texts` under a vocabulary built from its training split alone.

    Raises:
        UserError: If a split has fewer sentences than `LEAST`.
    """
    _check_enough(texts.name, texts.sentences)
    build = Vocabulary.of_pieces if settings.tokenizer == "bpe" else Vocabulary.of_words
    vocabulary = build(texts.sentences["train"], settings.vocabulary)
    train, valid, test = (
        Split(*vocabulary.encode(texts.sentences[name]), texts.labels.get(name, {}))
        for name in SPLITS
    )
    digests = " ".join(digest(texts.sentences[name]) for name in SPLITS)
    return Corpus(
        name=texts.name,
        requested=settings.name,
        sha256=hashlib.sha256(digests.encode()).hexdigest(),
        standard=texts.standard,
        vocabulary=vocabulary,
        train=train,
        valid=valid,
        test=test,
        facts=texts.facts,
        labels_sha256=labels_digest(texts.labels),
    )


def measured(values: Values, settings: Settings) -> Corpus:
    """`values` as a corpus.

    Raises:
        UserError: If a split has fewer sequences than `LEAST`.
    """
    _check_enough(values.name, values.sequences)
    splits = {
        name: Split(
            np.concatenate(rows).astype(np.float32),
            np.cumsum([0, *map(len, rows)]),
            values.labels.get(name, {}),
        )
        for name, rows in values.sequences.items()
    }
    return Corpus(
        name=values.name,
        requested=settings.name,
        sha256=values_digest(values.sequences),
        standard=values.standard,
        vocabulary=None,
        train=splits["train"],
        valid=splits["valid"],
        test=splits["test"],
        facts=values.facts,
        labels_sha256=labels_digest(values.labels),
        channels=splits["train"].tokens.shape[1],
    )


def _check_enough(name: str, splits: Mapping[str, Sequence[Any]]) -> None:
    """Raise UserError where a split has fewer sentences than `LEAST`."""
    for split, least in LEAST.items():
        if len(splits[split]) < least:
            raise UserError(
                f"corpus {name}: {split} must have at least {least} sentences, not"
                f" {len(splits[split])}: of a single test sentence nothing can be told;"
                f" add some, a thousand for numbers that mean something"
            )


def labels_found(corpus: Corpus) -> str:
    """In words, which labels there are in which splits, their values, and who has none."""
    splits = {name: getattr(corpus, name).labels for name in SPLITS}
    found = []
    for label in sorted({label for labels in splits.values() for label in labels}):
        values = [value for labels in splits.values() for value in map(str, labels.get(label, ()))]
        told = [f"{len(set(values) - {''})} values"]
        if "" in values:
            told.append(f"{values.count('')} sentences without one")
        if without := [name for name, labels in splits.items() if label not in labels]:
            told.append(f"none in {' and '.join(without)}")
        found.append(f"{label} ({', '.join(told)})")
    return f"labels found: {', '.join(found) or 'none'}"


def with_kinds(corpus: Corpus) -> Corpus:
    """The corpus as an oracle sees it: each sentence with its combination of labels.

    That a sentence has no label is a value of it like any other.

    Raises:
        UserError: Two splits have not the same labels, there are none, or there are so many
            combinations that they tell sentences from each other.
    """
    names = sorted(corpus.train.labels)
    has = {split: ", ".join(sorted(getattr(corpus, split).labels)) or "none" for split in SPLITS}
    if not names or len(set(has.values())) > 1:
        raise UserError(
            f"corpus {corpus.name}: told: labels needs labels, the same in every split, and there"
            f" are: {'; '.join(f'{split}: {which}' for split, which in has.items())}. Of a text"
            f" they stand beside it, in train.labels, valid.labels and test.labels (see Labels in"
            f" docs/suites.md); or remove the entry"
        )
    rows = {
        split: list(zip(*(map(str, getattr(corpus, split).labels[n]) for n in names), strict=True))
        for split in SPLITS
    }
    kinds = sorted({kind for split in SPLITS for kind in rows[split]})
    if len(kinds) > MOST_KINDS:
        counts = {name: len({kind[i] for kind in kinds}) for i, name in enumerate(names)}
        raise UserError(
            f"corpus {corpus.name}: told: labels is for at most {MOST_KINDS:,} combinations of"
            f" labels, and there are {len(kinds):,} ("
            + ", ".join(f"{name}: {count:,} values" for name, count in counts.items())
            + "); leave out what tells single sentences"
        )
    place = {kind: i for i, kind in enumerate(kinds)}
    told = {
        split: replace(getattr(corpus, split), kinds=np.array([place[row] for row in rows[split]]))
        for split in SPLITS
    }
    return replace(corpus, **told, kinds=[dict(zip(names, kind, strict=True)) for kind in kinds])


def digest(sentences: Iterable[str]) -> str:
    """SHA-256 of the normalised text: one sentence a line, each line ended."""
    return hashlib.sha256("".join(f"{sentence}\n" for sentence in sentences).encode()).hexdigest()


def values_digest(sequences: Mapping[str, Sequence[NDArray[np.float32]]]) -> str:
    """SHA-256 of the sequences of all splits: how long each is, then all values."""
    whole = hashlib.sha256()
    for name in SPLITS:
        whole.update(np.array([len(x) for x in sequences[name]], dtype="<i8").tobytes())
        for x in sequences[name]:
            whole.update(x.astype("<f4").tobytes())
    return whole.hexdigest()


def labels_digest(labels: Mapping[str, Labels]) -> str | None:
    """SHA-256 of the labels of all splits, split by split and name by name; None of none."""
    if not any(labels.values()):
        return None
    listed = [
        [split, name, list(map(str, values))]
        for split in SPLITS
        for name, values in sorted(labels.get(split, {}).items())
    ]
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()
