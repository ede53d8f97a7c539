"""One point of `growth.py`, measured in a process of its own: `growth_point.py JSON [--quick]`.

Prints seconds, MiB and what they depend on as JSON. Nothing large is imported at the top, since
`growth.py` imports this module, and on Linux a process begins with the peak of its parent.
"""

import io
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BATCH, BATCHES = 32, 8
"""Sentences in a training step, and steps before the sentences come again."""
EMBEDDING, HIDDEN, LAYERS, HEADS = 256, 256, 1, 4
SEED = 1

WORKERS = 2
CELL_SENTENCES, CELL_WIDTH, CELL_LATENT, CELL_BUDGET, CELL_SAMPLES = 400, 32, 8, 15_000, 4
"""A tiny cell: sentences of `newswire`, embedding and hidden, latent, tokens, draws."""

WARM_UP, LEAST, MOST = 2, 3, 100
"""Repetitions before the measured ones, and the fewest and the most of those."""
SECONDS, QUICK_SECONDS = 1.5, 0.1
"""No further repetition is begun after so long."""

COPIES = 4
"""Weights, gradients and Adam's two moments."""


@dataclass(frozen=True)
class Point:
    """What one process measures; sizes that its work does not have are ignored."""

    work: str
    architecture: str = "lstm"
    vocabulary: int = 10_000
    length: int = 22
    latent: int = 32
    sentences: int = 0
    cells: int = 0


def measure(point: Point, quick: bool) -> dict[str, Any]:
    """Import, do a point's work, and tell seconds, the peak in MiB, and how much of it came with
    the work and not with the imports.
    """
    import torch

    from collapse_bench import precision, runner
    from collapse_bench.device import peak_memory_mib

    if point.work == "step":
        import torch._dynamo  # else the optimiser imports it

    torch.set_num_threads(runner.cores())
    torch.set_flush_denormal(True)  # as a cell does
    facts: dict[str, Any] = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "precision": precision.resolve_precision("auto", "cpu"),
    }
    before = peak_memory_mib()
    facts |= WORKS[point.work](point, QUICK_SECONDS if quick else SECONDS)
    peak = peak_memory_mib()
    return facts | {"imports": before, "peak": peak, "beyond": peak - before}


def training_step(point: Point, limit: float) -> dict[str, Any]:
    """Draw a batch and update on it; parameters and their copy in MiB."""
    from collapse_bench.model import Dimensions, build_model
    from collapse_bench.precision import resolve_precision
    from collapse_bench.remedy import chain
    from collapse_bench.suite import Training
    from collapse_bench.training import TrainingRun

    settings = Training(budget=10**12, batch=BATCH, precision="auto")
    dimensions = Dimensions(
        point.vocabulary, EMBEDDING, HIDDEN, point.latent, LAYERS, HEADS, settings.dropout,
        BATCH * BATCHES, point.length,
    )  # fmt: skip
    model = build_model(point.architecture, dimensions).train()
    text = random_text(point.vocabulary, point.length)
    run = TrainingRun(model, chain([]), text, settings, budget=10**12, seed=SEED)
    seconds = median_seconds(lambda: run.update(run.draw()), limit)
    reduced = resolve_precision(settings.precision, "cpu") == "bfloat16"
    return {
        "seconds": seconds,
        "parameters": COPIES * sum(p.nbytes for p in model.parameters()) / 2**20,
        "copy": reduced * model.readout.weight.nbytes / 2 / 2**20,
    }


def random_text(vocabulary: int, length: int) -> Any:
    """A corpus of sentences of T tokens, EOS counted, any of the V - 4 words being as likely.

    A training step sees ids only, so there are no words to them.
    """
    import numpy as np

    from collapse_bench.corpus import Corpus, Split
    from collapse_bench.corpus.vocabulary import SPECIALS, Vocabulary

    n = BATCH * BATCHES
    ids = np.random.default_rng(SEED).integers(len(SPECIALS), vocabulary, n * (length - 1))
    split = Split(ids.astype(np.int32), np.arange(n + 1) * (length - 1))
    words = Vocabulary.of_words([])
    return Corpus("random", "random", "", False, words, train=split, valid=split, test=split)


def information(point: Point, limit: float) -> dict[str, Any]:
    """Mutual information of N posteriors, as the evaluation leaves them."""
    from collapse_bench.metrics.mutual_information import mutual_information

    z, mean, scale = posteriors(point)
    log_prior = -0.5 * (z**2).sum(axis=1)
    seconds = median_seconds(lambda: mutual_information(z, mean, scale, log_prior), limit)
    return {"seconds": seconds}


def units(point: Point, limit: float) -> dict[str, Any]:
    """Active units of N posteriors."""
    from collapse_bench.metrics.active_units import active_units

    _, mean, _ = posteriors(point)
    return {"seconds": median_seconds(lambda: active_units(mean), limit)}


def posteriors(point: Point) -> tuple[Any, Any, Any]:
    """Draws, means and scales, each [N, D], float32."""
    import numpy as np

    rng = np.random.default_rng(SEED)
    shape = point.sentences, point.latent
    mean, noise = (rng.standard_normal(shape, np.float32) for _ in range(2))
    scale = rng.uniform(0.5, 1, shape).astype(np.float32)
    return mean + scale * noise, mean, scale


def cells(point: Point, limit: float) -> dict[str, Any]:
    """A run of tiny cells that differ in their seed; the peak is of the process that starts them.

    Raises:
        RuntimeError: a cell has failed.
    """
    from collapse_bench import runner
    from collapse_bench.corpus import load_corpus
    from collapse_bench.plugins import remedy_files
    from collapse_bench.progress import Progress

    chosen = [tiny_cell(seed) for seed in range(point.cells)]
    corpus = load_corpus(chosen[0].corpus, None, say=lambda text: None)
    with tempfile.TemporaryDirectory() as folder:
        jobs = runner.plan(
            chosen, corpus, Path(folder), budget=None, device="cpu", remedy_files=remedy_files()
        )
        began = time.perf_counter()
        records = runner.run_jobs(jobs, runner.Local(WORKERS), Progress(len(jobs), io.StringIO()))
        seconds = time.perf_counter() - began
    if errors := [record["error"] for record in records if record["status"] != "done"]:
        raise RuntimeError(errors[0])
    largest = max(record["cost"]["peak_memory_mib"] for record in records)
    return {"seconds": seconds, "largest_cell": largest}


def tiny_cell(seed: int) -> Any:
    """A plain VAE on a little generated text."""
    from collapse_bench.suite import Cell, CorpusSettings, Entry, Evaluation, Sizes, Training

    return Cell(
        suite="growth",
        entry=Entry("vae"),
        architecture="lstm",
        seed=seed,
        corpus=CorpusSettings(sentences=CELL_SENTENCES),
        sizes=Sizes(embedding=CELL_WIDTH, hidden=CELL_WIDTH, latent=CELL_LATENT),
        training=Training(budget=CELL_BUDGET, validations=2),
        evaluation=Evaluation(samples=CELL_SAMPLES),
    )


WORKS: dict[str, Callable[[Point, float], dict[str, Any]]] = {
    "step": training_step,
    "information": information,
    "units": units,
    "cells": cells,
}


def median_seconds(work: Callable[[], Any], limit: float) -> float:
    """Median duration of `work` once it is warm; `limit` as `SECONDS`."""
    for _ in range(WARM_UP):
        work()
    durations: list[float] = []
    while len(durations) < LEAST or (sum(durations) < limit and len(durations) < MOST):
        began = time.perf_counter()
        work()
        durations.append(time.perf_counter() - began)
    return statistics.median(durations)


if __name__ == "__main__":
    print(json.dumps(measure(Point(**json.loads(sys.argv[1])), "--quick" in sys.argv)))
