"""Several cells at once on one device, a process each, with NVIDIA's MPS and without: tokens/s of
all of them.

Without it the GPU is one process's at a time; MPS lets kernels of several run side by side.
"""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from threading import Thread
from typing import Any

from harness import PRELOADED, Tell
from setting import ARCHITECTURES, Setting, average_batches, new_run, synchronize

from collapse_bench.runner.local import die_with_parent
from collapse_bench.training import TrainingRun

CELLS, SECONDS, PATIENCE = (1, 2, 4, 8, 16), 4.0, 45.0
"""How many at once; how long each trains; how long the last may take to be ready."""
UNDER_MPS, CONTROL = (4, 8), "nvidia-cuda-mps-control"
"""How many at once under MPS, where it is installed."""


def run(setting: Setting, tell: Tell) -> None:
    def row(architecture: str, count: int, environment: Mapping[str, str], shared: str) -> None:
        rates = at_once(architecture, count, setting, environment)
        tell.row(
            architecture=architecture,
            cells=count,
            MPS=shared,
            **{"tokens/s in all": sum(rates), "tokens/s of the slowest": min(rates)},
        )

    lstm, *others = ARCHITECTURES[: setting.of_size(2, 1)]
    for count in CELLS[: setting.of_size(len(CELLS), 2)]:
        row(lstm, count, {}, "no")
    if not setting.rehearse:
        with mps() as environment:
            tell.fact("MPS", "started" if environment else "cannot be had")
            for count in UNDER_MPS if environment else ():
                row(lstm, count, environment, "yes")
    for architecture in others:
        for count in CELLS:
            row(architecture, count, {}, "no")


@contextmanager
def mps() -> Iterator[dict[str, str]]:
    """MPS while inside: the environment of processes that use it, empty where it cannot be had."""
    control = shutil.which(CONTROL)
    if control is None:
        yield {}
        return
    with tempfile.TemporaryDirectory() as folder:
        ours = {f"CUDA_MPS_{name}_DIRECTORY": folder for name in ("PIPE", "LOG")}
        environment = os.environ | ours
        started = subprocess.run([control, "-d"], env=environment, timeout=10)
        try:
            yield ours if started.returncode == 0 else {}
        finally:
            if started.returncode == 0:
                subprocess.run([control], input="quit\n", text=True, env=environment, timeout=20)


def at_once(
    architecture: str, count: int, setting: Setting, environment: Mapping[str, str]
) -> list[float]:
    """Tokens/s of so many cells that train at the same time."""
    context = get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    barrier, rates = context.Barrier(count), context.Queue()
    processes = [
        context.Process(
            target=_train, args=(architecture, setting, barrier, rates, environment), daemon=True
        )
        for _ in range(count)
    ]
    for process in processes:
        process.start()
    try:
        return [rates.get(timeout=PATIENCE) for _ in processes]
    finally:
        for process in processes:
            process.kill()


def _train(
    architecture: str,
    setting: Setting,
    barrier: Barrier,
    rates: Any,
    environment: Mapping[str, str],
) -> None:
    os.environ.update(environment)  # read when the GPU is first used
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
