"""What all steps work on: device, corpus, and the suites at full size or at that of a rehearsal."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from collapse_bench.cell import build
from collapse_bench.corpus import Batch, Corpus, load_corpus, training_batches
from collapse_bench.device import prepare
from collapse_bench.errors import UserError
from collapse_bench.plugins import remedy_files
from collapse_bench.precision import resolve_precision
from collapse_bench.remedy import chain
from collapse_bench.suite import Cell, CorpusSettings, Sizes, Suite, cells_of, load_suite, select
from collapse_bench.training import TrainingRun

ROOT = Path(__file__).parents[2]
PAPER, SMOKE = ROOT / "suites" / "ptb-paper.yaml", ROOT / "suites" / "smoke.yaml"
TINY = Sizes(embedding=16, hidden=16, latent=4, layers=1, heads=2)
TINY_SENTENCES = 200
ARCHITECTURES = ("lstm", "transformer")


@dataclass(frozen=True)
class Setting:
    """Where and on what is measured.

    Attributes:
        device: `cuda`, or `cpu` in a rehearsal.
        rehearse: whether everything is tiny: figures that mean nothing, in seconds.
        out: folder of what is written.
        data: folder of PTB; None where there is none, and newswire takes its place.
        corpus: that text, loaded once.
    """

    device: str
    rehearse: bool
    out: Path
    data: Path | None
    corpus: Corpus

    def of_size(self, full: int, rehearsed: int) -> int:
        """A number of repetitions or rows."""
        return rehearsed if self.rehearse else full

    def suite(self, path: Path) -> Suite:
        """A suite, of tiny sizes and few tokens in a rehearsal."""
        suite = load_suite(path, remedy_files())
        if self.rehearse:
            training = replace(suite.training, budget=600, validations=1, batch=8)
            evaluation = replace(suite.evaluation, samples=2, precision="auto")
            suite = replace(suite, sizes=TINY, training=training, evaluation=evaluation)
        return suite

    def cell(self, name: str, path: Path = PAPER) -> Cell:
        """The cell of this name, entry/architecture/seed."""
        return select(cells_of(self.suite(path)), name)[0]

    def precisions(self) -> list[str]:
        """Those that the device can compute in."""
        found = ["float32"]
        with suppress(UserError):
            found.append(resolve_precision("bfloat16", self.device))
        return found


def corpus_of(data: Path | None, rehearse: bool, say: Callable[[str], None]) -> Corpus:
    """PTB where its folder is, else newswire, tiny in a rehearsal."""
    if rehearse:
        return load_corpus(CorpusSettings(sentences=TINY_SENTENCES), None, say)
    if data and (data / "ptb").is_dir():
        return load_corpus(CorpusSettings("ptb"), data, say)
    say("no folder ptb in $COLLAPSE_BENCH_DATA: going on with newswire")
    return load_corpus(CorpusSettings(), None, say)


def new_run(
    cell: Cell, setting: Setting, *, dropout: bool = True, deterministic: bool = False
) -> TrainingRun:
    """A training run of the cell at its first step, with tokens for more than is decoded here."""
    prepare(1, deterministic)
    if not dropout:
        cell = replace(cell, training=replace(cell.training, dropout=0.0))
    model, remedies = build(cell, setting.corpus, remedy_files())
    model.to(setting.device).train()
    return TrainingRun(
        model, chain(remedies), setting.corpus, cell.training, budget=10**12, seed=cell.seed
    )


def average_batches(cell: Cell, setting: Setting, count: int) -> list[Batch]:
    """Training batches of about the average number of tokens, on the device."""
    split, size = setting.corpus.train, cell.training.batch
    average = split.n_tokens / len(split) * size
    every = sorted(training_batches(split, size, 0, 0), key=lambda b: abs(b.tokens - average))
    return [batch.to(setting.device) for batch in every[:count]]


def synchronize(device: str) -> None:
    """Wait for a GPU."""
    if device == "cuda":
        torch.cuda.synchronize()


def forget_peak(device: str) -> None:
    """Count the most memory that a GPU has held from here on."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()


def seconds_of(do: Callable[[], Any], setting: Setting, repeats: int, warmup: int = 3) -> float:
    """Seconds that one call takes, the device's work included: mean of the repeats."""
    for _ in range(warmup):
        do()
    synchronize(setting.device)
    began = time.perf_counter()
    for _ in range(repeats):
        do()
    synchronize(setting.device)
    return (time.perf_counter() - began) / repeats


def kernels_of(do: Callable[[], Any], setting: Setting) -> list[tuple[str, float]]:
    """Name and milliseconds of each kernel or copy that a call starts on a GPU; none on a CPU."""
    from torch.profiler import ProfilerActivity, profile

    if setting.device == "cpu":
        do()
        return []
    synchronize(setting.device)
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        do()
        synchronize(setting.device)
    return [
        (event.name, event.time_range.elapsed_us() / 1000)
        for event in profiled.events()
        if event.device_type == torch.autograd.DeviceType.CUDA
        and not getattr(event, "is_user_annotation", False)
    ]
