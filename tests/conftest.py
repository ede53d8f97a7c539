"""A corpus and models so small that a law can be tried on every remedy and both architectures.

All sizes differ, so that a mistaken axis shows: batch 5, embedding 10, hidden 15, latent 8, three
heads, two layers, 41 words.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from torch import Tensor

from collapse_bench.cell import build
from collapse_bench.corpus import Batch, Corpus, Split, evaluation_batches, load_corpus
from collapse_bench.errors import UserError
from collapse_bench.evaluation import evaluate
from collapse_bench.model import SequenceVAE
from collapse_bench.plugins import remedy_files
from collapse_bench.precision import resolve_precision
from collapse_bench.remedy import Chain, Remedy, chain, find_class
from collapse_bench.suite import (
    Cell,
    CorpusSettings,
    Entry,
    Evaluation,
    RemedySettings,
    Sizes,
    Training,
)
from collapse_bench.training import Selection, TrainingRun, train


def computes_in_bfloat16() -> bool:
    """Whether this machine has bfloat16, be it emulated."""
    try:
        return resolve_precision("bfloat16", "cpu") == "bfloat16"
    except UserError:
        return False


needs_bfloat16 = pytest.mark.skipif(
    not computes_in_bfloat16(), reason="this processor cannot compute in bfloat16"
)

ARCHITECTURES = ("lstm", "transformer")
SIZES = Sizes(embedding=10, hidden=15, latent=8, layers=2, heads=3)
TRAINING = Training(
    budget=600, batch=5, validations=2, learning_rate=0.01, precision="float32"
)  # fmt: skip
WORDS = 41

SMALL: dict[str, dict[str, Any]] = {
    name: dict(find_class(name, path).small) for name, path in remedy_files().items()
}
"""Settings for tiny sizes, of the remedies whose defaults are too large for quick laws."""

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
        return chain(self.remedies)

    def run(self, corpus: Corpus, budget: int = 10_000, **changes: Any) -> TrainingRun:
        """A run that nothing has been trained in yet."""
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

    def evaluate(self, split: Split, samples: int = 2, batch: int = 16, seed: int = 3):
        return evaluate(self.model, split, samples=samples, batch=batch, seed=seed)


def make(
    architecture: str, chosen: Chosen | Sequence[str] = (), *, seed: int = 1, **changes: Any
) -> Built:
    """A model as a cell builds it; a remedy given by name alone has its `SMALL` settings.

    `changes` are sizes, or `dropout`.
    """
    if not isinstance(chosen, Mapping):
        chosen = {name: SMALL.get(name, {}) for name in chosen}
    training = replace(TRAINING, dropout=changes.pop("dropout", TRAINING.dropout))
    sizes = replace(SIZES, **changes)
    remedies = tuple(RemedySettings(name, dict(settings)) for name, settings in chosen.items())
    entry = Entry("+".join(chosen) or "vae", remedies)
    cell = Cell(
        "tiny", entry, architecture, seed, CorpusSettings(), sizes, training, Evaluation()
    )  # fmt: skip
    return Built(*build(cell, tiny_corpus(), remedy_files()), seed)


def noise_of(seed: int):
    """Standard normal noise that is the same at every first call."""
    generator = torch.Generator().manual_seed(seed)
    return lambda shape: torch.randn(shape, generator=generator)


def same_arrays(one, other) -> bool:
    """Whether two evaluations are bitwise equal."""
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)


def parameters(model: SequenceVAE) -> list[Tensor]:
    """Copies of all parameters, slot by slot, whatever wraps what."""
    return [parameter.detach().clone() for parameter in model.parameters()]


def same(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    """Whether two lists of tensors are bitwise equal."""
    return len(one) == len(other) and all(map(torch.equal, one, other))


@pytest.fixture(params=ARCHITECTURES)
def architecture(request) -> str:
    return request.param


@cache
def tiny_corpus() -> Corpus:
    """Sixty sentences of newswire, six to validate on, and 41 words."""
    corpus = load_corpus(CorpusSettings(sentences=60, vocabulary=WORDS), None, print)
    assert corpus.vocabulary.size == WORDS
    return corpus


@pytest.fixture(scope="session")
def corpus() -> Corpus:
    return tiny_corpus()


@pytest.fixture(scope="session")
def batch(corpus) -> Batch:
    """Five sentences of different lengths."""
    batches = list(evaluation_batches(corpus.train, 12))
    index = [int(each.index[0]) for each in batches]
    pieces = [corpus.train.sentence(i) for i in index]
    offsets = np.cumsum([0, *map(len, pieces)])
    batch = next(evaluation_batches(Split(np.concatenate(pieces), offsets), 5))
    assert len(set(batch.lengths.tolist())) > 2
    return batch
