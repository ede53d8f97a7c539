"""Several cells at once on one device, a process each: tokens/s of all of them."""

import time
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from threading import Thread
from typing import Any

from harness import PRELOADED, Tell
from setting import ARCHITECTURES, Setting, average_batches, new_run, synchronize

from collapse_bench.runner import die_with_parent
from collapse_bench.training import TrainingRun

CELLS, SECONDS, PATIENCE = (1, 2, 4, 8, 16), 4.0, 45.0
"""How many at once; how long each trains; how long the last may take to be ready."""


def run(setting: Setting, tell: Tell) -> None:
    for architecture in ARCHITECTURES[: setting.of_size(2, 1)]:
        for count in CELLS[: setting.of_size(len(CELLS), 2)]:
            rates = at_once(architecture, count, setting)
            tell.row(
                architecture=architecture,
                cells=count,
                **{"tokens/s in all": sum(rates), "tokens/s of the slowest": min(rates)},
            )


def at_once(architecture: str, count: int, setting: Setting) -> list[float]:
    """Tokens/s of so many cells that train at the same time."""
    context = get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    barrier, rates = context.Barrier(count), context.Queue()
    processes = [
        context.Process(target=_train, args=(architecture, setting, barrier, rates), daemon=True)
        for _ in range(count)
    ]
    for process in processes:
        process.start()
    try:
        return [rates.get(timeout=PATIENCE) for _ in processes]
    finally:
        for process in processes:
            process.kill()


def _train(architecture: str, setting: Setting, barrier: Barrier, rates: Any) -> None:
    Thread(target=die_with_parent, daemon=True).start()
    cell = setting.cell(f"vae/{architecture}/1")
    training = new_run(cell, setting)
    batches = average_batches(cell, setting, 20)
    _updates(training, batches, 0.0)
    synchronize(setting.device)
    barrier.wait(PATIENCE)
    began, before = time.perf_counter(), training.meter.tokens
    _updates(training, batches, setting.of_size(1, 0) * SECONDS)
    synchronize(setting.device)
    rates.put((training.meter.tokens - before) / (time.perf_counter() - began))
    rates.close()
    rates.join_thread()
    barrier.wait(PATIENCE)  # no process ends while another one is still counting


def _updates(training: TrainingRun, batches: list, seconds: float) -> None:
    """All batches at least once, then again until the time is over; the host is held back by a
    look at the device after each round, so that it does not run ahead of it."""
    ends = time.perf_counter() + seconds
    while True:
        for batch in batches:
            training.update(batch)
        synchronize(training.device.type)
        if time.perf_counter() >= ends:
            return
