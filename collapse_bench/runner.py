"""Cells to records: a process for each cell, so that a cell that dies takes no other along."""

import os
import platform
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing import get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Thread
from typing import Any

from collapse_bench import cell as cells
from collapse_bench import record
from collapse_bench.cell import Job
from collapse_bench.corpus import Corpus
from collapse_bench.device import name_of_device
from collapse_bench.errors import UserError
from collapse_bench.precision import resolve_precision
from collapse_bench.progress import Progress
from collapse_bench.provenance import CODE
from collapse_bench.suite import Cell, cell_id, trained_as

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

SIGNALS = {signal.SIGINT, signal.SIGTERM}
"""What interrupts a run."""

LOST = 255
"""What multiprocessing tells of a process whose fork server has died."""


class InterruptedRunError(Exception):
    """A signal ended the run; the cells that had finished are kept."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number


@dataclass
class Worker:
    """A running cell: its process and the end of the pipe on which it reports.

    Attributes:
        measuring: whether its model has been evaluated and only metrics are left.
    """

    job: Job
    process: BaseProcess
    reports: Connection
    measuring: bool = False

    @property
    def in_the_way(self) -> bool:
        """Whether it keeps the next cell waiting: not on a GPU that it no longer computes on."""
        return self.job.device == "cpu" or not self.measuring


def plan(
    chosen: Sequence[Cell],
    corpus: Corpus,
    out: Path,
    *,
    budget: int | None,
    device: str,
    remedy_files: Mapping[str, Path],
) -> list[Job]:
    """The jobs of a run, finished cells included.

    Args:
        chosen: the cells.
        corpus: loaded once, shared by all.
        out: folder of all runs; a cell is kept in `<out>/<suite>/<cell id>`.
        budget: decoded tokens, in place of the suite's and of every entry's; None keeps those.
        device: `cpu` or `cuda`.
        remedy_files: where each remedy is.

    Raises:
        UserError: the device cannot be used, or not compute in the precision that a cell asks for;
            or a cell shares a training that is neither there nor chosen.
    """
    code, device_name = CODE, name_of_device(device)
    jobs = []
    for each in chosen:
        each = replace(each, training=replace(each.training, threads=each.training.threads or 1))
        precision = {}
        for part in ("training", "evaluation"):
            try:
                precision[part] = resolve_precision(getattr(each, part).precision, device)
            except UserError as error:
                raise UserError(f"{part}.precision: {error}") from None
        tokens = budget or each.budget_for(corpus.name)

        def identifier(cell: Cell, tokens: int = tokens) -> str:
            return cell_id(cell, corpus.name, corpus.sha256, corpus.labels_sha256, tokens)

        trained = trained_as(each)
        jobs.append(
            Job(
                each,
                identifier(each),
                out / each.suite / identifier(each),
                corpus,
                tokens,
                device,
                device_name,
                precision,
                dict(remedy_files),
                code,
                suite_budget=budget or each.training.budget_for(corpus.name),
                trained_in=None if trained is None else out / each.suite / identifier(trained),
            )
        )
    planned = {job.folder for job in jobs}
    for job in jobs:
        lender = job.trained_in
        if lender is not None and not (lender in planned or record.is_finished(lender)):
            shared = trained_as(job.cell)
            raise UserError(
                f"{job.cell.name}: shares the training of {shared and shared.name}, which has not"
                f" finished and is not chosen: choose both"
            )
    return jobs


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_jobs(jobs: Sequence[Job], workers: int, progress: Progress) -> list[dict[str, Any]]:
    """Run every cell that is not finished yet.

    Args:
        jobs: as `plan` gives them.
        workers: cells at a time.
        progress: told of every start, report and end.

    Returns:
        The records of all jobs, in their order.

    Raises:
        InterruptedRunError: on SIGINT or SIGTERM, after every worker has been stopped.
    """
    waiting = []
    for job in jobs:
        if is_kept(job):
            progress.skipped(job)
        else:
            waiting.append(job)
    running: list[Worker] = []
    # Only noted, and acted on between two steps: a worker that is half started is in no list yet.
    caught: list[int] = []
    previous = {
        number: signal.signal(number, lambda number, frame: caught.append(number))
        for number in SIGNALS
    }
    try:
        while waiting or running:
            if caught:
                raise InterruptedRunError(caught[0])
            while (following := _ready(waiting, running)) and _room_for_another(running, workers):
                waiting.remove(following)
                # Another run may have finished it since this one was planned.
                if is_kept(following):
                    progress.skipped(following)
                    continue
                running.append(_start(following))
                progress.started(following)
            if running:
                _collect(running, progress)
    finally:
        for worker in running:
            worker.process.kill()
        for worker in running:
            worker.process.join()
        progress.close()
        for number, handler in previous.items():
            signal.signal(number, handler)
    return [record.read_record(job.folder / record.RECORD) for job in jobs]


def is_kept(job: Job) -> bool:
    """Whether a cell need not run: it has finished, with the model that is there to be shared now
    where it shares one."""
    if not record.is_finished(job.folder):
        return False
    told = record.read_record(job.folder / record.RECORD).get("trained_model")
    return job.trained_in is None or told == record.digest_of_model(job.trained_in)


def _ready(waiting: Sequence[Job], running: Sequence[Worker]) -> Job | None:
    """The next cell that waits for no other one's training."""
    unfinished = {job.folder for job in (*waiting, *(each.job for each in running))}
    return next((job for job in waiting if job.trained_in not in unfinished), None)


def _room_for_another(running: Sequence[Worker], workers: int) -> bool:
    """Whether a cell may begin: so many train, and no more than as many again are measured."""
    return sum(each.in_the_way for each in running) < workers and len(running) < 2 * workers


def _start(job: Job) -> Worker:
    (job.folder / record.RECORD).unlink(missing_ok=True)  # of an attempt that failed
    # Every worker is forked from a process that has only imported: loading torch, and Dynamo, which
    # an optimiser loads, takes some six seconds, more than all else in a small cell. Apple's
    # libraries do not survive a fork.
    context: Any = get_context("spawn" if sys.platform == "darwin" else "forkserver")
    context.set_forkserver_preload(["collapse_bench.cell", "torch._dynamo"])
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(job, send), name=job.cell.name, daemon=True)
    # A signal to the process group is for the run to handle: the fork server inherits the mask,
    # which the start of the resource tracker would undo.
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        with _environment():
            process.start()
    except (EOFError, ConnectionError) as error:
        raise UserError(
            "the process that cells are forked from has died as it started; what it said is above"
        ) from error
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    send.close()
    return Worker(job, process, receive)


@contextmanager
def _environment() -> Iterator[None]:
    """The environment that the fork server starts with; afterwards the user's again.

    It is started with `python -c`, which looks for modules in the current folder first: a file of
    the user's that is called as a module is would be run in its place.
    """
    before = dict(os.environ)
    package = str(Path(__file__).parents[1])
    os.environ.update({**ENVIRONMENT, **before})
    os.environ["PYTHONSAFEPATH"] = "1"
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [package, before.get("PYTHONPATH")]))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _work(job: Job, reports: Connection) -> None:
    """The worker process: signals are for its parent to handle."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    Thread(target=die_with_parent, daemon=True).start()

    def report(told: dict[str, Any]) -> None:
        with suppress(OSError):  # the parent is gone, and in a moment this process is, too
            reports.send(told)

    cells.run_cell(job, report)


def die_with_parent() -> None:
    """End this process when the run that asked for it has ended, however it did."""
    run = parent_process()
    if run is not None:
        wait([run.sentinel])
        os.kill(os.getpid(), signal.SIGKILL)


def _collect(running: list[Worker], progress: Progress) -> None:
    """Wait for reports and ends, and pass them on."""
    pipes = {worker.reports: worker for worker in running if not worker.reports.closed}
    sentinels = {worker.process.sentinel: worker for worker in running}
    ready = wait([*pipes, *sentinels], timeout=1)
    for pipe in pipes.keys() & ready:
        try:
            while pipe.poll():
                worker, told = pipes[pipe], pipe.recv()
                worker.measuring = worker.measuring or "measuring" in told
                progress.reported(worker.job, told)
        except (EOFError, OSError):
            pipe.close()
    for sentinel in sentinels.keys() & ready:
        worker = sentinels[sentinel]
        worker.process.join()
        worker.reports.close()
        running.remove(worker)
        progress.ended(worker.job, _outcome(worker))


def _outcome(worker: Worker) -> dict[str, Any]:
    """The worker's record; one that died without writing it gets it from here."""
    job, code = worker.job, worker.process.exitcode
    path = job.folder / record.RECORD
    # A lost worker may be alive: nobody is left to tell how it ended.
    if code == LOST and (pid := worker.process.pid) is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    if code == 0 and path.exists():
        return record.read_record(path)
    if code is not None and code < 0:
        reason = f"the process was ended by signal {-code} ({signal.strsignal(-code)})"
        if -code == signal.SIGKILL:
            reason += "; the system does that when memory runs out"
        status = "killed"
    else:
        reason, status = f"the process exited with {code} and left no record", "failed"
        if code == LOST:
            reason += "; so it also seems where the process that it was forked from was ended, as"
            reason += " the system does when memory runs out: run the suite again"
    result = cells.describe(job) | {"status": status, "error": reason}
    record.write_record(job.folder, result)
    return result
