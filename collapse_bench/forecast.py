"""What the cells of a suite will take on this machine: time, room on the disk, memory."""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from collapse_bench import record
from collapse_bench.cell import build, gone_on_from
from collapse_bench.damage import damaged
from collapse_bench.device import peak_memory_mib, prepare, wait_for
from collapse_bench.job import Job
from collapse_bench.remedy import chain
from collapse_bench.suite import Cell
from collapse_bench.training import TrainingRun

WARM_UP, TIMED = 2, 3.0
"""Updates that are not counted, and seconds that a model is timed for."""


@dataclass(frozen=True)
class Forecast:
    """What is left of a suite.

    Attributes:
        seconds: that its cells take, so many at a time.
        evaluated: whether evaluation is in that, as finished cells of the suite have taken it.
        rates: decoded tokens a second of one cell, by kind of model.
        finished: cells of the suite whose records the rates are from; 0 where models were timed.
        memory_mib: most that a cell has held, or a model as it was timed.
    """

    seconds: float
    evaluated: bool
    rates: Mapping[str, float]
    finished: int
    memory_mib: float


def forecast(jobs: Sequence[Job], left: Sequence[Job], workers: int) -> Forecast:
    """Count the budgets of cells that are left at the speed of those that have finished here.

    Where none has, or one kind is missing, a language model or a plain VAE of the architecture is
    timed for a moment. Then a remedy counts as the plain VAE does; one that decodes twice pays for
    both out of its budget.

    Args:
        jobs: all of a run.
        left: those of them that are due.
        workers: cells at a time.
    """
    finished = [(job, told) for job in jobs if (told := _finished_here(job))]
    rates: dict[str, float] = {}
    for name in {_kind(job) for job, _ in finished}:
        rates[name] = fmean(_rate(told) for job, told in finished if _kind(job) == name)
    of_cell = {_entry(job): _rate(told) for job, told in finished}
    memory = max((told["cost"]["peak_memory_mib"] for _, told in finished), default=0.0)
    seconds = 0.0
    for job in left:
        if not (tokens := remaining(job)):
            continue
        if _kind(job) not in rates:
            rates[_kind(job)] = tokens_a_second(job)
            memory = max(memory, peak_memory_mib())
        seconds += tokens / of_cell.get(_entry(job), rates[_kind(job)])
    evaluations = [
        told["cost"]["seconds"] - told["cost"]["training_seconds"] for _, told in finished
    ]
    if evaluations:
        seconds += fmean(evaluations) * len(left)
    at_once = max(1, min(workers, len(left)))
    return Forecast(seconds / at_once, bool(evaluations), rates, len(finished), memory)


def remaining(job: Job) -> int:
    """Tokens that a cell still trains for: it goes on from its newest checkpoint that is not
    refused, and one whose arrays alone are lost is only evaluated again."""
    if job.trained_in is not None or _is_only_evaluated(job):
        return 0
    done, _ = gone_on_from(job)
    return max(0, job.budget - done)


def room(jobs: Sequence[Job], workers: int) -> int:
    """Bytes of disk that cells will need at most: what all leave, and what some write meanwhile."""
    return sum(job.leaves for job in jobs) + sum(sorted(job.writes for job in jobs)[-workers:])


def tokens_a_second(job: Job) -> float:
    """Decoded tokens a second of training the plain model of a job's kind."""
    plain: Cell = replace(job.cell, entry=replace(job.cell.entry, remedies=(), told=None))
    prepare(plain.training.threads or 1, plain.training.deterministic)
    model, _ = build(plain, job.corpus, job.remedy_files)
    model.to(job.device).train()
    run = TrainingRun(
        model, chain([]), job.corpus, plain.training, budget=sys.maxsize, seed=plain.seed
    )
    step = run.start()
    for _ in range(WARM_UP):
        step(run.draw())
    wait_for(job.device)
    tokens, began = run.meter.tokens, time.perf_counter()
    while time.perf_counter() < began + TIMED:
        step(run.draw())
    wait_for(job.device)
    return (run.meter.tokens - tokens) / (time.perf_counter() - began)


def _is_only_evaluated(job: Job) -> bool:
    """Whether a cell that is due has a result, and the model that it is of."""
    told = record.read_if_whole(job.folder)
    if told is None or told["status"] != "done":
        return False
    path = job.folder / record.MODEL
    return path.exists() and path not in [each for each, _ in damaged(job.folder)]


def _kind(job: Job) -> str:
    model = "language model" if job.cell.sizes.latent == 0 else "VAE"
    return f"{job.cell.architecture} {model}"


def _entry(job: Job) -> tuple[str, str]:
    return job.cell.entry.name, job.cell.architecture


def _finished_here(job: Job) -> dict[str, Any] | None:
    """The record of a cell that was trained as the cells of this run will be; else None."""
    told = record.read_if_whole(job.folder)
    if job.trained_in is not None or told is None:
        return None
    alike = told["status"] == "done" and told["environment"]["device"] == job.device_name
    return told if alike and told["cost"]["training_seconds"] else None


def _rate(told: Mapping[str, Any]) -> float:
    return float(told["cost"]["tokens_decoded"] / told["cost"]["training_seconds"])
