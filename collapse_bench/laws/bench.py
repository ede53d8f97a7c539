"""Corpora and models so small that a law can be tried on every remedy and both architectures.

All sizes differ, so that a mistaken axis shows: batch 5, embedding 10, hidden 15, latent 8, three
heads, two layers, 41 words. A remedy that is for values only is tried on sequences of two channels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from collapse_bench.cell import build
from collapse_bench.corpus import Batch, Corpus, Split, load_corpus
from collapse_bench.corpus.batches import collate
from collapse_bench.corpus.corpus import SPLITS, Values, measured
from collapse_bench.evaluation import evaluate
from collapse_bench.model import Noise, SequenceVAE
from collapse_bench.plugins import remedy_files
from collapse_bench.remedy import Chain, Remedy, chain, find_class
from collapse_bench.suite import (
    Architecture,
    Cell,
    CorpusSettings,
    Entry,
    Evaluation,
    RemedySettings,
    Sizes,
    Training,
)
from collapse_bench.training import Selection, TrainingRun, train

ARCHITECTURES = ("lstm", "transformer")
SIZES = Sizes(embedding=10, hidden=15, latent=8, layers=2, heads=3)
TRAINING = Training(budget=600, batch=5, validations=2, learning_rate=0.01, precision="float32")
SENTENCES, WORDS = 60, 41

Arrays = dict[str, NDArray[Any]]

Chosen = Mapping[str, Mapping[str, Any]]
"""Remedies in order, by name, with their settings."""


@dataclass
class Built:
    """A model with its remedies built in."""

    model: SequenceVAE
    remedies: list[Remedy]
    seed: int

    @property
    def remedy(self) -> Chain:
        """All remedies as one."""
        return chain(self.remedies)

    def run(self, corpus: Corpus, budget: int = 10_000, **changes: Any) -> TrainingRun:
        """A run that nothing has been trained in yet; `changes` are settings of the training."""
        training = replace(TRAINING, **changes)
        self.model.train()
        return TrainingRun(self.model, self.remedy, corpus, training, budget=budget, seed=self.seed)

    def steps(self, corpus: Corpus, count: int, **changes: Any) -> TrainingRun:
        """A run after some steps, on the streams of randomness of a whole one."""
        torch.manual_seed(self.seed)
        run = self.run(corpus, **changes)
        step = self.remedy.step(run.update, run)
        for _ in range(count):
            step(run.draw())
            run.steps += 1
        return run

    def train(
        self, corpus: Corpus, budget: int = 600, **changes: Any
    ) -> tuple[TrainingRun, Selection]:
        """A whole short training."""
        run = self.run(corpus, budget, **changes)
        selection = Selection(run)
        train(run, selection, lambda run, forward: None)
        return run, selection

    def evaluate(self, split: Split, samples: int = 2, batch: int = 16, seed: int = 3) -> Arrays:
        """The per-sentence arrays of a split."""
        return evaluate(self.model, split, samples=samples, batch=batch, seed=seed)


def make(
    architecture: str,
    chosen: Chosen | Sequence[str] = (),
    *,
    seed: int = 1,
    files: Mapping[str, Path] | None = None,
    corpus: Corpus | None = None,
    **changes: Any,
) -> Built:
    """A model as a cell builds it.

    Args:
        architecture: one of `ARCHITECTURES`.
        chosen: remedies; one given by name alone has its settings for tiny sizes.
        seed: of the weights.
        files: where remedies are, the known ones if None.
        corpus: what it is for; if None the tiny one, of words where all remedies can do with them.
        changes: sizes, or `dropout`.

    Raises:
        UserError: a remedy refuses its settings, or the contract what it builds.
    """
    files = remedy_files() if files is None else files
    if not isinstance(chosen, Mapping):
        chosen = {name: find_class(name, files[name]).small for name in chosen}
    if corpus is None:
        real = any(find_class(name, files[name]).values for name in chosen)
        corpus = tiny_values() if real else tiny_corpus()
    training = replace(TRAINING, dropout=changes.pop("dropout", TRAINING.dropout))
    remedies = tuple(RemedySettings(name, dict(settings)) for name, settings in chosen.items())
    cell = Cell(
        "tiny",
        Entry("+".join(chosen) or "vae", remedies),
        cast(Architecture, architecture),
        seed,
        CorpusSettings(),
        replace(SIZES, **changes),
        training,
        Evaluation(),
    )
    return Built(*build(cell, corpus, files), seed)


@cache
def tiny_corpus() -> Corpus:
    """Sixty sentences of newswire, six to validate on, and 41 words."""
    settings = CorpusSettings(sentences=SENTENCES, vocabulary=WORDS)
    return load_corpus(settings, None, say=lambda text: None)


@cache
def tiny_values() -> Corpus:
    """As many sequences of two channels and three to nine steps, each about a value of its own."""
    rng = np.random.default_rng(1)

    def sequences(count: int) -> list[NDArray[np.float32]]:
        return [
            (rng.normal(size=2) + 0.5 * rng.normal(size=(length, 2))).astype(np.float32)
            for length in rng.integers(3, 10, count)
        ]

    sizes = zip(SPLITS, (SENTENCES, SENTENCES // 10, SENTENCES // 10), strict=True)
    return measured(
        Values("tiny", {split: sequences(n) for split, n in sizes}),
        CorpusSettings("linear_gaussian"),
    )


@cache
def tiny_batch(real: bool = False) -> Batch:
    """Five sentences, or sequences of values, of different lengths."""
    split = (tiny_values() if real else tiny_corpus()).train
    by_length = np.argsort(split.lengths, kind="stable")
    return collate(split, by_length[::12])


def head_of(split: Split, count: int) -> Split:
    """The first sentences of a split."""
    return Split(split.tokens[: split.offsets[count]], split.offsets[: count + 1])


def noise_of(seed: int) -> Noise:
    """Standard normal noise that is the same at every first call."""
    generator = torch.Generator().manual_seed(seed)
    return lambda shape: torch.randn(shape, generator=generator)


def same_arrays(one: Arrays, other: Arrays) -> bool:
    """Whether two evaluations are bitwise equal."""
    return one.keys() == other.keys() and all(same_array(one[k], other[k]) for k in one)


def same_array(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Whether two arrays are bitwise equal; a sentence that was not looked at is NaN in both."""
    return np.array_equal(one, other, equal_nan=one.dtype.kind == other.dtype.kind == "f")


def numbers(arrays: Arrays) -> Arrays:
    """Those of an evaluation's arrays that are numbers."""
    return {name: value for name, value in arrays.items() if value.dtype.kind in "if"}


def parameters(model: SequenceVAE) -> list[Tensor]:
    """Copies of all parameters, slot by slot, whatever wraps what."""
    return [parameter.detach().clone() for parameter in model.parameters()]


def same(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    """Whether two lists of tensors are bitwise equal."""
    return len(one) == len(other) and all(map(torch.equal, one, other))
