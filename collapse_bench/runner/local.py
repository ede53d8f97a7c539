"""Cells on this machine: a process for each, so that a cell that dies takes no other along."""

import ctypes
import os
import platform
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import forkserver, get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Event, Thread
from typing import Any

from collapse_bench import lease
from collapse_bench.errors import UserError
from collapse_bench.interruption import SIGNALS
from collapse_bench.job import Job
from collapse_bench.runner.attempt import attempt
from collapse_bench.runner.engine import Ended, Outcome, Reported

# oneDNN keeps a compiled plan for each of the last 1024 shapes, and a batch has a shape of its own:
# up to a gigabyte.
ENVIRONMENT = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64"}
"""Of the processes that cells run in; read as they start. What the user has set stays."""

_NAME, _VERSION = platform.libc_ver()
if _NAME == "glibc" and tuple(map(int, _VERSION.split(".")[:2])) >= (2, 35):
    # glibc gives large blocks back to the system, which zeroes them before they are used again: a
    # twentieth of a training step and a fifth of an evaluation. Here it keeps them; an older one
    # refuses the first of these settings and is slowed down by the second.
    ENVIRONMENT |= {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**32)}

PR_SET_PDEATHSIG = 1
"""Of `prctl(2)`: which signal the system sends as the parent ends."""

LOST = 255
"""What multiprocessing tells of a process whose fork server has died."""


@dataclass
class Worker:
    """A running cell: its process and the end of the pipe on which it reports.

    Attributes:
        measuring: whether its model has been evaluated and only metrics are left.
        outcome: of its attempt, once it has told that.
    """

    job: Job
    process: BaseProcess
    reports: Connection
    measuring: bool = False
    outcome: Outcome | None = None

    @property
    def in_the_way(self) -> bool:
        """Whether it keeps the next cell waiting: not on a GPU that it no longer computes on."""
        return self.job.device == "cpu" or not self.measuring


class Local:
    """The engine of one machine.

    Args:
        workers: cells that train at a time; no more than as many again are measured.
    """

    queues = False

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._running: list[Worker] = []

    def room(self) -> bool:
        busy = sum(each.in_the_way for each in self._running)
        return busy < self.workers and len(self._running) < 2 * self.workers

    def submit(self, job: Job) -> None:
        """Start a cell's process.

        Raises:
            UserError: there is no process to fork it from.
        """
        self._running.append(_start(job))

    def events(self, seconds: float) -> list[Reported | Ended]:
        found: list[Reported | Ended] = []
        pipes = {each.reports: each for each in self._running if not each.reports.closed}
        sentinels = {each.process.sentinel: each for each in self._running}
        ready = wait([*pipes, *sentinels], timeout=seconds)
        for pipe in pipes.keys() & ready:
            found += _reports(pipes[pipe])
        for sentinel in sentinels.keys() & ready:
            worker = sentinels[sentinel]
            worker.process.join()
            found += _reports(worker)
            worker.reports.close()
            self._running.remove(worker)
            found.append(Ended(worker.job, _outcome(worker)))
        return found

    def kill(self, job: Job) -> None:
        for worker in self._running:
            if worker.job is job:
                worker.process.kill()

    def close(self, grace: float) -> None:
        for worker in self._running if grace else ():
            worker.process.terminate()  # which asks it to stop
        until = time.monotonic() + grace
        for worker in self._running:
            if not worker.measuring:
                worker.process.join(max(0.0, until - time.monotonic()))
        for worker in self._running:
            worker.process.kill()
        for worker in self._running:
            worker.process.join()
        self._running.clear()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start(job: Job) -> Worker:
    # Every worker is forked from a process that has only imported: loading torch, and Dynamo, which
    # an optimiser loads, takes some six seconds, more than all else in a small cell. Apple's
    # libraries do not survive a fork.
    context: Any = get_context("spawn" if sys.platform == "darwin" else "forkserver")
    context.set_forkserver_preload(["collapse_bench.runner.attempt", "torch._dynamo"])
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(job, send), name=job.cell.name, daemon=True)
    # A signal to the process group is for the run to handle: the fork server inherits the mask,
    # which the start of the resource tracker would undo.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        with _environment():
            process.start()
    except (EOFError, ConnectionError) as error:
        raise UserError(
            "the process that cells are forked from has died as it started; what it said is above"
        ) from error
    except OSError as error:
        raise UserError(
            f"no process can be started for {job.cell.name}: {error.strerror}; close what else is"
            " open, or have fewer cells at a time with --workers"
        ) from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    send.close()
    return Worker(job, process, receive)


@contextmanager
def _environment() -> Iterator[None]:
    """The environment that the fork server starts with; afterwards the user's again.

    It is started with `python -c`, which looks for modules in the current folder first: a file of
    the user's that is called as a module is would be run in its place.
    """
    before = dict(os.environ)
    package = str(Path(__file__).parents[2])
    os.environ.update({**ENVIRONMENT, **before})
    os.environ["PYTHONSAFEPATH"] = "1"
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [package, before.get("PYTHONPATH")]))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _work(job: Job, reports: Connection) -> None:
    """The worker process: its parent handles signals, and terminates it to have it stop."""
    stop = Event()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    _die_with_the_fork_server()
    Thread(target=die_with_parent, daemon=True).start()

    def report(told: dict[str, Any]) -> None:
        with suppress(OSError):  # the parent is gone, and in a moment this process is, too
            reports.send(told)

    report({"ended": attempt(job, report, stop)})


def _die_with_the_fork_server() -> None:
    """Have the system end this process with the one that it was forked from, which ends with the
    run: a thread of ours cannot, where a library keeps the lock of the interpreter for itself.

    The fork server lives as long as anybody has its pipe, of which a worker inherits an end.
    """
    pipe = getattr(forkserver._forkserver, "_forkserver_alive_fd", None)
    if sys.platform == "linux" and pipe is not None:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        os.close(pipe)
        forkserver._forkserver._forkserver_alive_fd = None  # type: ignore[attr-defined]


def die_with_parent() -> None:
    """End this process when the run that asked for it has ended, however it did."""
    run = parent_process()
    if run is not None:
        wait([run.sentinel])
        os.kill(os.getpid(), signal.SIGKILL)


def _reports(worker: Worker) -> list[Reported | Ended]:
    """What a worker has told and nobody has read; its outcome is noted."""
    found: list[Reported | Ended] = []
    if worker.reports.closed:
        return found
    try:
        while worker.reports.poll():
            told = worker.reports.recv()
            if "ended" in told:
                worker.outcome = told["ended"]
                continue
            worker.measuring = worker.measuring or "measuring" in told
            found.append(Reported(worker.job, told))
    except (EOFError, OSError):
        worker.reports.close()
    return found


def _outcome(worker: Worker) -> Outcome:
    """How a worker that has ended did so, by what it told or by how its process ended."""
    code = worker.process.exitcode
    # A lost worker may be alive: nobody is left to tell how it ended.
    if code == LOST and (pid := worker.process.pid) is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    if worker.outcome is not None:
        return worker.outcome
    if code == lease.STOLEN:
        return Outcome("busy", "another process")
    if code is not None and code < 0:
        why = f"the process was ended by signal {-code} ({signal.strsignal(-code)})"
        if -code == signal.SIGKILL:
            why += "; the system does that when memory runs out"
        return Outcome("killed", why)
    why = f"the process exited with {code} and left no record"
    if code == LOST:
        why += "; so it also seems where the process that it was forked from was ended, as"
        why += " the system does when memory runs out: run the suite again"
    return Outcome("failed", why)
