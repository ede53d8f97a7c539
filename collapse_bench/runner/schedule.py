"""Which cell begins when, and what becomes of each: the same wherever cells are computed."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from collapse_bench import lease, record
from collapse_bench.damage import damaged, put_aside
from collapse_bench.errors import DiskError
from collapse_bench.interruption import GRACE, SOON, InterruptedRunError, noted
from collapse_bench.job import Job, describe
from collapse_bench.progress import Progress
from collapse_bench.runner.attempt import tidy
from collapse_bench.runner.engine import Ended, Engine, Outcome, Reported
from collapse_bench.runner.plan import is_due
from collapse_bench.writing import free_bytes

LOOK = 3.0
"""Seconds after which it is looked again whether another run is done with a cell."""

ROOM = 2**24
"""Bytes that have to be free for a cell to begin, beside those that it and the others that run are
known to need: for records, pages and what else has this disk."""


def run_jobs(
    jobs: Sequence[Job], engine: Engine, progress: Progress, timeout: float | None = None
) -> list[dict[str, Any]]:
    """Run every cell that is due, and wait for those that other runs are at.

    Args:
        jobs: as `plan` gives them.
        engine: where; closed at the end.
        progress: told of every start, report and end.
        timeout: seconds that an attempt at a cell may take; None is no limit.

    Returns:
        The records of all jobs, in their order.

    Raises:
        InterruptedRunError: on SIGINT, SIGTERM or SIGHUP, after every cell has been stopped.
        DiskError: nothing more can be written; cells that were running have been waited for, or,
            where the engine could not go on, asked for a checkpoint.
    """
    run = _Run(engine, progress, timeout, list(jobs))
    with noted() as caught:
        try:
            run.keep()
            while run.unfinished:
                if caught:
                    raise InterruptedRunError(caught[0])
                run.begin()
                for event in engine.events(SOON):
                    run.hear(event)
                run.end_overdue()
        finally:
            engine.close(GRACE)
            progress.close()
    if run.full:
        raise DiskError(run.full)
    return [run.lost.get(job.folder) or _record_of(job) for job in jobs]


@dataclass
class _Running:
    """A cell that is being computed.

    Attributes:
        began: when, once it has told that it has.
        overdue: whether it has been ended for its time.
    """

    job: Job
    began: float | None = None
    overdue: bool = False


@dataclass
class _Run:
    """The cells of a run, by what is to be done about them.

    Attributes:
        waiting: those that have not begun, in their order.
        running: those that the engine has, by folder.
        elsewhere: those that another run is at, by folder, and when to look again.
        lost: what became of those whose records tell of an earlier attempt, which they keep.
        damaged: folders of those that something is wrong with, whatever their records say.
        full: why nothing can be written any more; empty as long as it can.
    """

    engine: Engine
    progress: Progress
    timeout: float | None
    waiting: list[Job]
    running: dict[Path, _Running] = field(default_factory=dict)
    elsewhere: dict[Path, tuple[Job, float]] = field(default_factory=dict)
    lost: dict[Path, dict[str, Any]] = field(default_factory=dict)
    damaged: set[Path] = field(default_factory=set)
    full: str = ""

    @property
    def unfinished(self) -> bool:
        return bool(self.running or (not self.full and (self.waiting or self.elsewhere)))

    def keep(self) -> None:
        """Tell of the cells that have a result, and let the others wait."""
        self.damaged = {job.folder for job in self.waiting if damaged(job.folder)}
        anew = {job.folder for job in self.waiting if self._is_due(job)}
        for job in list(self.waiting):
            if job.folder not in anew and job.trained_in not in anew:
                self._keep(job)

    def begin(self) -> None:
        """Submit the cells that there is room for."""
        now = time.monotonic()
        for left, look in list(self.elsewhere.values()):
            if look <= now:
                del self.elsewhere[left.folder]
                self.waiting.append(left)
        while not self.full and (job := self._ready()) is not None:
            # Another run may have finished it since this one was planned.
            if not self._is_due(job):
                self._keep(job)
                continue
            other = lease.read_lease(job.folder)
            if other and other.alive:
                self.waiting.remove(job)
                self._leave_to(job, other.owner)
                continue
            if not self.engine.room():
                return
            at_work = [
                each.job
                for each in self.running.values()
                if each.began is not None or not self.engine.queues
            ]
            self.full = _no_room(job, at_work)
            if not self.full:
                self.waiting.remove(job)
                self.running[job.folder] = _Running(job)
                self.engine.submit(job)

    def hear(self, event: Reported | Ended) -> None:
        """Note what has happened to a cell, and pass it on."""
        job = event.job
        if isinstance(event, Reported):
            if "began" in event.told:
                self.running[job.folder].began = time.monotonic()
                self.progress.started(job)
            else:
                self.progress.reported(job, event.told)
            return
        ended, outcome = self.running.pop(job.folder), event.outcome
        if outcome.kind != "busy":
            self.damaged.discard(job.folder)
        if ended.overdue and outcome.kind in ("killed", "stopped"):
            outcome = Outcome("killed", f"the cell took longer than {self.timeout:g} s")
        match outcome.kind:
            case "recorded":
                self.progress.ended(job, _record_of(job))
            case "kept":
                self.progress.skipped(job, _record_of(job))
            case "busy":
                self._leave_to(job, outcome.why)
            case "stopped":
                self.waiting.insert(0, replace(job, fresh=False))
            case "disk":
                self.full = outcome.why
            case "killed" | "failed":
                status = "timeout" if ended.overdue else outcome.kind
                seconds = 0.0 if ended.began is None else time.monotonic() - ended.began
                self._leave_record(job, status, outcome.why, seconds)

    def end_overdue(self) -> None:
        """End the cells that have taken too long."""
        if self.timeout is None:
            return
        for each in self.running.values():
            if each.began is not None and time.monotonic() > each.began + self.timeout:
                each.overdue = True
                self.engine.kill(each.job)

    def _is_due(self, job: Job) -> bool:
        return job.folder in self.damaged or is_due(job)

    def _ready(self) -> Job | None:
        """The next cell that waits for no other one's training."""
        unfinished = (
            {job.folder for job in self.waiting} | self.running.keys() | self.elsewhere.keys()
        )
        return next((job for job in self.waiting if job.trained_in not in unfinished), None)

    def _keep(self, job: Job) -> None:
        self.waiting.remove(job)
        tidy(job)
        self.progress.skipped(job, _record_of(job))

    def _leave_to(self, job: Job, owner: str) -> None:
        self.progress.elsewhere(job, owner)
        self.elsewhere[job.folder] = (job, time.monotonic() + LOOK)

    def _leave_record(self, job: Job, status: str, why: str, seconds: float) -> None:
        """Write the record of a cell whose process could not; not over that of another run."""
        last = lease.read_lease(job.folder)
        try:
            with job.hold():
                for said in put_aside(job.folder):
                    self.progress.reported(job, {"said": said})
                told = describe(job) | {"status": status, "error": why}
                told["cost"] |= {
                    "seconds": round(seconds, 1),
                    "tokens_decoded": last.tokens if last else 0,
                }
                if is_due(job) and not record.write_record(job.folder, told):
                    self.lost[job.folder] = told
        except lease.BusyError as busy:
            self._leave_to(job, str(busy))
        except DiskError as error:
            self.full = str(error)
        else:
            self.progress.ended(job, self.lost.get(job.folder) or _record_of(job))


def _record_of(job: Job) -> dict[str, Any]:
    return record.read_record(job.folder / record.RECORD)


def _no_room(job: Job, running: Sequence[Job]) -> str:
    """Why a cell cannot be written beside those that run; empty where it can."""
    free = free_bytes(job.folder)
    need = ROOM + sum(each.leaves + each.writes for each in (job, *running))
    if free >= need:
        return ""
    return (
        f"{job.folder.parent}: {free:,} bytes are free, and {job.cell.name} needs {need:,} with"
        f" what runs: no more cells were begun. Make room and run the same command again, or go on"
        f" in a copy of the folder elsewhere with --out"
    )
