"""Three tiny tasks whose answer is known, and what becomes of a remedy on each.

A law of form cannot tell a remedy from one that does nothing, or from one that throws z away. Here
a small LSTM is trained for about a hundred updates, a second or two, on strings in which what there
is to tell is known exactly, and one word is said of what it has become. That word is
measured, not derived, and other machines round otherwise: so a remedy states what came of all of
the seeds 1 to 5, and leaves out a task on which they disagree. Of the plain VAE came `collapsed`,
`collapsed` and `use`.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np

from collapse_bench.corpus import Corpus
from collapse_bench.corpus.corpus import SPLITS, Texts, encoded
from collapse_bench.laws.bench import make
from collapse_bench.laws.law import DoesNotApply, LawBroken, Subject
from collapse_bench.metrics import score
from collapse_bench.metrics.verdict import COLLAPSED, NOTABLE_RATE
from collapse_bench.suite import CorpusSettings

KINDS = ("red", "green", "blue", "black")
BETWEEN = ("and", "or", "but")
SENTENCES = {"train": 4000, "valid": 128, "test": 256}

HIDDEN, BATCH, LEARNING_RATE = 40, 64, 0.04
"""So wide and so fast that a decoder copies a word from two before within a hundred updates."""

OUTCOMES = ("collapsed", "rate without use", "use")
"""Useful information below `COLLAPSED`, of these a rate of `NOTABLE_RATE` or more; and the rest."""


@dataclass(frozen=True)
class Task:
    """Strings of colours, and how a model is trained on them.

    Attributes:
        colours: words of a string that are one of `KINDS`.
        same: whether they are all the same one, which is the string's global information.
        between: whether one of `BETWEEN` stands between two of them, at random.
        embedding: width of a word's vector.
        dropout: share of the decoder's embeddings and outputs that is dropped in training.
        updates: of the plain VAE; their tokens are the budget, whatever a remedy does with them.
    """

    colours: int
    same: bool
    between: bool
    embedding: int
    dropout: float
    updates: int

    @property
    def global_information(self) -> float:
        """Nats that all colours of a string share."""
        return math.log(len(KINDS)) if self.same else 0.0

    @property
    def entropy(self) -> float:
        """Of a string, in nats; no NLL is below it."""
        of_colours = math.log(len(KINDS)) * (1 if self.same else self.colours)
        of_others = math.log(len(BETWEEN)) * (self.colours - 1) if self.between else 0.0
        return of_colours + of_others

    @property
    def tokens(self) -> int:
        """Of a string, its end included."""
        return self.colours + (self.colours - 1) * self.between + 1

    def draw(self, count: int, generator: np.random.Generator) -> list[str]:
        """Strings, words joined by one space."""
        shape = (count, self.colours)
        kinds = generator.integers(len(KINDS), size=(count, 1) if self.same else shape)
        colours = np.array(KINDS)[np.broadcast_to(kinds, shape)]
        if not self.between:
            return [" ".join(row) for row in colours]
        others = np.array(BETWEEN)[generator.integers(len(BETWEEN), size=shape)]
        pairs = np.stack([colours, others], 2).reshape(count, -1)
        return [" ".join(row[:-1]) for row in pairs]


TASKS = {
    "nothing": Task(4, same=False, between=True, embedding=32, dropout=0.0, updates=60),
    "hard": Task(4, same=True, between=True, embedding=32, dropout=0.0, updates=110),
    "easy": Task(6, same=True, between=False, embedding=8, dropout=0.7, updates=110),
}
"""- `nothing`: every colour is drawn anew. z could tell single words only, one at a time.
- `hard`: one colour, 1.39 nats. The decoder soon copies it from the past, after which z saves as
  much as it costs: the plain VAE never begins, and use is only there if something holds it.
- `easy`: the same, but in training the decoder loses most of a narrow past, so that the plain VAE
  tells the colour. A remedy after which it does not has broken something."""


class Became(NamedTuple):
    """What a model has become, in nats a string.

    Attributes:
        outcome: one of `OUTCOMES`.
        rate: R.
        information: I.
        useful: U.
        nll: of the test strings.
    """

    outcome: str
    rate: float
    information: float
    useful: float
    nll: float


def became(subject: Subject, task: Task, seed: int = 1) -> Became:
    """Train the LSTM with a remedy, at its settings for tiny sizes, and measure it.

    Args:
        subject: the remedy, or none.
        task: one of `TASKS`.
        seed: of the weights, the batches and all noise.
    """
    corpus = corpus_of(task)
    chosen = {subject.name: subject.remedy.small} if subject.name else {}
    built = make(
        "lstm", chosen, seed=seed, files=subject.files, corpus=corpus,
        hidden=HIDDEN, embedding=task.embedding, dropout=task.dropout,
    )  # fmt: skip
    budget = task.updates * BATCH * task.tokens
    built.train(corpus, budget, batch=BATCH, learning_rate=LEARNING_RATE, validations=1)
    metrics = score(built.evaluate(corpus.test, samples=16, batch=128)).metrics
    rate, information = metrics["kl"], metrics["mutual_information"]
    outcome = "rate without use" if rate >= NOTABLE_RATE else "collapsed"
    if metrics["useful_information"] >= COLLAPSED:
        outcome = "use"
    return Became(outcome, rate, information, metrics["useful_rate"], metrics["nll"])


@cache
def corpus_of(task: Task) -> Corpus:
    """The strings of a task, the same every time."""
    generator = np.random.default_rng(1)
    texts = {split: task.draw(SENTENCES[split], generator) for split in SPLITS}
    return encoded(Texts("colours", texts), CorpusSettings())


def its_signature_is_as_it_says(subject: Subject) -> None:
    """What `signature` says becomes of a small LSTM on the tasks `nothing`, `hard` and `easy` is
    what becomes of it: `collapsed`, `rate without use` or `use`."""
    signature = subject.remedy.signature
    if not signature:
        raise DoesNotApply("it states no signature")
    for task, outcome in signature.items():
        if task not in TASKS:
            raise LawBroken(f"signature names the task {task!r}; there are {', '.join(TASKS)}")
        if outcome not in OUTCOMES:
            raise LawBroken(
                f"signature says {outcome!r} of {task}; legal: {', '.join(map(repr, OUTCOMES))}"
            )
    if subject.architecture != "lstm":
        raise DoesNotApply("signatures are those of the LSTM")
    found = {task: became(subject, TASKS[task]) for task in signature}
    wrong = [
        f"on {task} it is {got.outcome!r} (R {got.rate:.2f}, I {got.information:.2f}, U"
        f" {got.useful:.2f}) and not {signature[task]!r}"
        for task, got in found.items()
        if got.outcome != signature[task]
    ]
    if wrong:
        raise LawBroken("; ".join(wrong))
