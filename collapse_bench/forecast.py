"""How long the cells of a suite will train on this machine, from a few updates of plain models."""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from collapse_bench.cell import Job, build
from collapse_bench.device import prepare, wait_for
from collapse_bench.remedy import chain
from collapse_bench.suite import Cell
from collapse_bench.training import TrainingRun

WARM_UP, TIMED = 2, 3.0
"""Updates that are not counted, and seconds that a model is timed for."""


@dataclass(frozen=True)
class Forecast:
    """What is left of a suite.

    Attributes:
        seconds: that they train, so many at a time.
        rates: decoded tokens a second of one cell, by architecture and kind of model.
    """

    seconds: float
    rates: Mapping[str, float]


def forecast(jobs: Sequence[Job], workers: int) -> Forecast:
    """Time a language model and a plain VAE of each architecture, and count the jobs' budgets.

    A remedy counts as the plain VAE does; one that decodes twice pays for both out of its budget.

    Args:
        jobs: those that are to be trained.
        workers: cells at a time.
    """
    rates: dict[str, float] = {}
    seconds = 0.0
    for job in jobs:
        kind = "language model" if job.cell.sizes.latent == 0 else "VAE"
        name = f"{job.cell.architecture} {kind}"
        if name not in rates:
            rates[name] = tokens_a_second(job)
        seconds += job.budget / rates[name]
    at_once = max(1, min(workers, len(jobs)))
    return Forecast(seconds / at_once, rates)


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
