"""What tests share: the tiny corpus and models that laws are tried on."""

import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")

from dataclasses import replace

import hypothesis
import pytest
import torch

from collapse_bench.corpus import Batch, Corpus
from collapse_bench.errors import UserError
from collapse_bench.laws import bench
from collapse_bench.laws.bench import (
    ARCHITECTURES,
    SIZES,
    TRAINING,
    WORDS,
    Built,
    noise_of,
    parameters,
    same,
    same_arrays,
    tiny_batch,
    tiny_corpus,
)
from collapse_bench.laws.evaluation import other_word
from collapse_bench.plugins import remedy_files
from collapse_bench.precision import resolve_precision
from collapse_bench.remedy import find_class

__all__ = [
    "SIZES",
    "TRAINING",
    "WORDS",
    "Built",
    "change_input",
    "in_turn",
    "make",
    "needs_bfloat16",
    "noise_of",
    "other_word",
    "parameters",
    "same",
    "same_arrays",
]


# What a shell starts in the background ignores Ctrl-C, and so would all that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says how much else runs on the machine.
hypothesis.settings.register_profile(
    "bench",
    deadline=None,
    max_examples=50,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("bench")


KNOWN = remedy_files()
"""The built-in remedies, looked for once."""


def make(architecture, chosen=(), *, files=None, **given) -> Built:
    """`bench.make`; a test of a remedy in an architecture that it is not for is skipped, and one of
    a remedy that is for values only, unless it has such a corpus."""
    files = KNOWN if files is None else files
    for name in chosen:
        remedy = find_class(name, files[name])
        if architecture not in remedy.architectures:
            pytest.skip(f"{name} is not for {architecture}")
        if remedy.values and "corpus" not in given:
            pytest.skip(f"{name} is for values only")
    return bench.make(architecture, chosen, files=files, **given)


def computes_in_bfloat16() -> bool:
    """Whether this machine has bfloat16, be it emulated."""
    try:
        return resolve_precision("bfloat16", "cpu") == "bfloat16"
    except UserError:
        return False


needs_bfloat16 = pytest.mark.skipif(
    not computes_in_bfloat16(), reason="this processor cannot compute in bfloat16"
)


@pytest.fixture(autouse=True)
def denormals():
    """A cell flushes denormal numbers to zero for the whole process; the next test has them."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture(params=ARCHITECTURES)
def architecture(request) -> str:
    return request.param


def in_turn():
    """Parameters `name` and `architecture`: the plain VAE ("") in both, and each remedy in one of
    those that it is for, which the length of its name decides. A sample, where the laws ask about
    the same in both."""
    pairs = [("", architecture) for architecture in ARCHITECTURES]
    for name, path in sorted(KNOWN.items()):
        remedy = find_class(name, path)
        if remedy.values:  # which `test_values` has all of
            continue
        its = [each for each in ARCHITECTURES if each in remedy.architectures]
        pairs.append((name, its[len(name) % len(its)]))
    ids = [f"{name or 'vae'}-{architecture}" for name, architecture in pairs]
    return pytest.mark.parametrize(("name", "architecture"), pairs, ids=ids)


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
