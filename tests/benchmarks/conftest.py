"""What every benchmark starts from: corpus, suite, models, and the race of two sides."""

import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import reference
from collapse_bench.cell import build
from collapse_bench.corpus import Batch, Corpus, Split, load_corpus, training_batches
from collapse_bench.corpus.vocabulary import BOS, UNK
from collapse_bench.model import Objective, SequenceVAE, plain
from collapse_bench.plugins import remedy_files
from collapse_bench.precision import resolve_precision
from collapse_bench.remedy import chain
from collapse_bench.suite import Cell, CorpusSettings, Suite, cells_of, load_suite, select
from collapse_bench.training import TrainingRun

ROOT = Path(__file__).parents[2]
SUITE = ROOT / "suites" / "ptb.yaml"
STEPS = 8
"""Training steps in a round."""
TRAINED = 120
"""Training steps of the plain VAE that is evaluated."""
INFORMED, LIGHT_RATE, UNKNOWN = 600, 0.1, 0.9
"""Training steps of the model whose latent is to say something, weight of its rate, and share of
the words that its decoder does not see. It ends with more than a nat of mutual information."""
CEILING_WIDTH, CEILING_PRODUCTS = 2048, 10

FACTS = pytest.StashKey[dict[str, Any]]()


@dataclass
class Pair:
    """The same weights on both sides."""

    bench: SequenceVAE
    reference: reference.VAE


def quiet(text: str) -> None:
    """Whoever is told something here has heard it before."""


def pick(split: Split, index: Any) -> Split:
    """Some sentences of a split; `index` is a slice or positions."""
    kept = [split.sentence(int(i)) for i in np.arange(len(split))[index]]
    return Split(np.concatenate(kept), np.cumsum([0, *map(len, kept)]))


def ceiling(dtype: torch.dtype) -> float:
    """GFLOP/s of a square product in `dtype`, median of a few: what no matrix code can pass."""
    a, b = (torch.randn(CEILING_WIDTH, CEILING_WIDTH).to(dtype) for _ in range(2))
    a @ b
    seconds = []
    for _ in range(CEILING_PRODUCTS):
        began = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - began)
    return 2 * CEILING_WIDTH**3 / statistics.median(seconds) / 1e9


@pytest.fixture(scope="session", autouse=True)
def machine(pytestconfig, corpus, suite) -> Iterator[dict[str, Any]]:
    """As many threads as a cell has, denormals flushed, and what the figures depend on.

    A cell flushes denormals before it trains; the setting is the process's, so the reference has it
    too. It would be slower without, where Adam's averages of rare words decay.
    """
    torch.set_num_threads(suite.training.threads or 1)
    torch.set_flush_denormal(True)
    began, others = time.monotonic(), used_by_others()
    facts: dict[str, Any] = {
        "corpus": corpus.name,
        "vocabulary": corpus.vocabulary.size,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "gflop_per_s_float32": ceiling(torch.float32),
    }
    if resolve_precision("auto", "cpu") == "bfloat16":  # emulated it takes minutes
        facts["gflop_per_s_bfloat16"] = ceiling(torch.bfloat16)
    pytestconfig.stash[FACTS] = facts
    yield facts
    if others is not None:
        facts["cores_used_by_others"] = (used_by_others() - others) / (time.monotonic() - began)


def used_by_others() -> float | None:
    """CPU seconds that all other processes of this machine have used; None where Linux is not."""
    statistics_of_linux = Path("/proc/stat")
    if not statistics_of_linux.exists():
        return None
    user, nice, system = map(int, statistics_of_linux.read_text().split()[1:4])
    own = os.times()
    return (user + nice + system) / os.sysconf("SC_CLK_TCK") - sum(own[:4])


def pytest_benchmark_update_machine_info(config, machine_info) -> None:
    machine_info.update(config.stash.get(FACTS, {}))


@pytest.fixture
def race(benchmark):
    """Time the bench, with a round of the reference before every round of it.

    Both sides then see the same machine: its clock, its temperature, its caches and allocator, and
    whatever else runs on it change in the course of minutes, which is more than what is measured.
    What the reference's rounds took is kept beside them, so that ratios are taken pair by pair.
    """

    def run(
        *,
        reference: Callable[[], Any],
        bench: Callable[[], Any],
        rounds: int,
        warmup_rounds: int = 1,
        **facts: Any,
    ) -> None:
        seconds: list[float] = []
        values: list[Any] = []

        def one_round_of_the_reference() -> None:  # pedantic() takes what it returns for arguments
            began = time.perf_counter()
            values.append(reference())
            seconds.append(time.perf_counter() - began)

        value = benchmark.pedantic(
            bench, setup=one_round_of_the_reference, rounds=rounds, warmup_rounds=warmup_rounds
        )
        benchmark.extra_info.update(facts, reference_seconds=seconds[-rounds:])
        if isinstance(value, int | float):
            benchmark.extra_info["values"] = [float(values[-1]), float(value)]

    return run


@pytest.fixture(scope="session")
def suite() -> Suite:
    return load_suite(SUITE, remedy_files())


@pytest.fixture(scope="session")
def corpus(suite) -> Corpus:
    """PTB where the data folder has it, else the built-in corpus; the hub is not asked."""
    settings = suite.corpus if _data() else CorpusSettings(sentences=suite.corpus.sentences)
    return load_corpus(settings, _data(), lambda text: print(text, file=sys.stderr))


@pytest.fixture(scope="session")
def texts(corpus, tmp_path_factory) -> Path:
    """A folder of the corpus as plain text, one sentence a line."""
    folder = tmp_path_factory.mktemp("texts")
    for name in ("train", "valid", "test"):
        split = getattr(corpus, name)
        lines = (corpus.vocabulary.decode(split.sentence(i)) for i in range(len(split)))
        (folder / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return folder


@pytest.fixture(scope="session")
def source(suite, texts) -> tuple[CorpusSettings, Path | None]:
    """What the bench loads: text on both sides, also where the text was generated."""
    data = _data()
    return (suite.corpus, data) if data else (CorpusSettings("text", path=str(texts)), None)


def _data() -> Path | None:
    folder = Path(os.environ.get("COLLAPSE_BENCH_DATA") or os.devnull)
    return folder if (folder / "ptb").is_dir() else None


@pytest.fixture(scope="session")
def cells(suite) -> dict[str, Cell]:
    """The plain VAE of the suite by architecture."""
    return {
        architecture: select(cells_of(suite), f"vae/{architecture}/{suite.seeds[0]}")[0]
        for architecture in suite.architectures
    }


@pytest.fixture(scope="session")
def batches(corpus, suite) -> list[Batch]:
    """Training batches of about average length; a whole epoch has other lengths too, see `cell`."""
    every = list(training_batches(corpus.train, suite.training.batch, 0, 0))
    average = corpus.train.n_tokens / len(corpus.train) * suite.training.batch
    return sorted(every, key=lambda batch: abs(batch.tokens - average))[:STEPS]


def new_run(cell: Cell, corpus: Corpus) -> TrainingRun:
    """A run of the bench at its first step, with tokens for more than a benchmark decodes."""
    model, remedies = build(cell, corpus, remedy_files())
    model.train()
    return TrainingRun(model, chain(remedies), corpus, cell.training, budget=10**12, seed=cell.seed)


def new_reference(cell: Cell, corpus: Corpus) -> reference.VAE:
    """The reference at the sizes of the cell."""
    return reference.VAE(
        cell.architecture, cell.sizes, corpus.vocabulary.size, cell.training.dropout
    )


def trained(
    cell: Cell,
    corpus: Corpus,
    steps: int,
    unknown: float = 0.0,
    then: Objective = plain,
) -> Pair:
    """A model after a little training, on both sides; `unknown` is a share of the words."""
    run, same = new_run(cell, corpus), new_reference(cell, corpus)
    torch.manual_seed(1)
    for _ in range(steps):
        batch = run.draw()
        hidden = (torch.rand(batch.inputs.shape) < unknown) & (batch.inputs != BOS)
        seen = batch.inputs.masked_fill(hidden, UNK)
        run.update(replace(batch, inputs=seen), then=then)
    run.meter.stop()
    same.load_state_dict(run.model.state_dict())
    return Pair(run.model, same)


@pytest.fixture(scope="session")
def collapsing(cells, corpus) -> Pair:
    """The plain VAE, whose posterior is on its way to the prior."""
    return trained(cells["lstm"], corpus, TRAINED)


@pytest.fixture(scope="session")
def informative(cells, corpus) -> Pair:
    """A smaller VAE whose posteriors inform, so that sentences need many draws."""
    cell = cells["lstm"]
    cell = replace(
        cell,
        sizes=replace(cell.sizes, embedding=64, hidden=128, latent=16),
        training=replace(cell.training, learning_rate=3e-3),
    )
    return trained(
        cell, corpus, INFORMED, UNKNOWN, lambda pass_: replace(pass_, kl=LIGHT_RATE * pass_.kl)
    )
