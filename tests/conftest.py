"""What tests share: the tiny corpus and models that laws are tried on."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

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

__all__ = [
    "SIZES",
    "TRAINING",
    "WORDS",
    "Built",
    "make",
    "noise_of",
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
