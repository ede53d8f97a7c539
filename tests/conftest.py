"""What tests share: the tiny corpus and models that laws are tried on."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from dataclasses import replace

import pytest

from collapse_bench.corpus import Batch, Corpus
from collapse_bench.laws.bench import (
    ARCHITECTURES,
    SIZES,
    TRAINING,
    WORDS,
    Built,
    make,
    noise_of,
    parameters,
    same,
    same_arrays,
    tiny_batch,
    tiny_corpus,
)
from collapse_bench.laws.evaluation import other_word

__all__ = [
    "SIZES",
    "TRAINING",
    "WORDS",
    "Built",
    "change_input",
    "make",
    "noise_of",
    "other_word",
    "parameters",
    "same",
    "same_arrays",
]


@pytest.fixture(params=ARCHITECTURES)
def architecture(request) -> str:
    return request.param


@pytest.fixture(scope="session")
def corpus() -> Corpus:
    return tiny_corpus()


@pytest.fixture(scope="session")
def batch() -> Batch:
    """Five sentences of different lengths."""
    return tiny_batch()


def change_input(batch, row, token):
    """The same batch with one input word, or <bos>, replaced."""
    inputs = batch.inputs.clone()
    inputs[row, token] = other_word(int(inputs[row, token]))
    return replace(batch, inputs=inputs)
