"""Many runs of one suite at a time, some of them killed: each cell is trained once."""

import fcntl
import os
import random
import time
from collections import Counter
from collections.abc import Callable
from io import StringIO
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import tiny
from scale import MINUTES, count, told

from collapse_bench import record
from collapse_bench.job import Job, describe
from collapse_bench.laws.bench import tiny_corpus
from collapse_bench.progress import Progress
from collapse_bench.runner import Local, local, run_jobs, schedule

attempts = __import__("collapse_bench.runner.attempt", fromlist=["attempt"])
"""The module; its function is called so, too."""

FORK: Any = get_context("fork")

RUNNERS, CELLS, ROUNDS = count(3, 8), count(12, 200), count(1, 20)

LONGEST = 300.0
"""Seconds after which a round is taken for one that never ends; it takes some thirty."""


class Audit:
    """A file that processes only add to: what they did, to which cell, and who they are."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, what: str, job: Job) -> None:
        line = f"{what} {job.id} {os.getpid()}\n".encode()
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, line)
        os.close(file)

    def read(self) -> list[tuple[str, str, int]]:
        if not self._path.exists():
            return []
        lines = (line.split() for line in self._path.read_text().splitlines())
        return [(what, name, int(pid)) for what, name, pid in lines]

    def cells(self, what: str) -> int:
        """How many cells somebody has begun by now, or ended."""
        return len({name for did, name, _ in self.read() if did == what})

    def run_cell(self, job: Job, report: Callable[..., None], stop: Event) -> dict[str, Any]:
        """In place of a training: notes that it began and ended, and leaves a record.

        Meanwhile it has a lock of its own, so that who begins beside it sees that and notes it. The
        lock ends with this process: nothing is forked meanwhile that could inherit it, and
        `describe`, which asks `uname`, comes before.
        """
        result = describe(job) | {"status": "done"}
        with self._path.with_name(f"{job.id}.busy").open("w") as busy:
            try:
                fcntl.flock(busy, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.add("two", job)
            self.add("begin", job)
            time.sleep(random.Random(os.getpid()).uniform(0, 0.4))
            record.write_record(job.folder, result)
            self.add("end", job)
        return result


def started(out: Path) -> BaseProcess:
    """A run of all cells of a suite in a process of its own."""

    def body() -> None:
        jobs = tiny.jobs(out, CELLS)
        records = run_jobs(jobs, Local(2), Progress(len(jobs), StringIO()))
        assert all(told["status"] == "done" for told in records)

    process: BaseProcess = FORK.Process(target=body)
    process.start()
    return process


def test_however_many_runs_there_are_each_cell_is_trained_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A runner that is killed takes its workers along; what they had begun is begun again."""
    monkeypatch.setattr(local, "get_context", lambda kind: FORK)
    monkeypatch.setattr(schedule, "LOOK", 0.2)
    tiny_corpus()
    draw, until = random.Random(13), time.monotonic() + 60 * MINUTES
    rounds = killed = amid = begun = cut = 0
    while rounds < ROUNDS and time.monotonic() < until:
        out = tmp_path / f"{rounds}"
        out.mkdir()
        audit = Audit(out / "audit")
        monkeypatch.setattr(attempts, "run_cell", audit.run_cell)
        runners = [started(out) for _ in range(RUNNERS)]
        # In every second round nobody is killed.
        victims = draw.sample(runners, RUNNERS // 2) if rounds % 2 == 0 else []
        shares = sorted(draw.uniform(-0.2, 0.95) for _ in victims)
        for victim, share in zip(victims, shares, strict=True):
            _wait_to_kill(victim, audit, share)
            at_work = audit.cells("begin") > 0 and audit.cells("end") < CELLS
            killed += victim.is_alive()
            amid += victim.is_alive() and at_work
            victim.kill()
        for runner in runners:
            runner.join(LONGEST)
            assert not runner.is_alive(), "a run that never ends"
            assert runner.exitcode == (-9 if runner in victims and runner.exitcode else 0)
        lines = audit.read()
        _check(lines, tiny.jobs(out, CELLS), anyone_killed=bool(victims))
        did = Counter(what for what, _, _ in lines)
        begun += did["begin"]
        cut += did["begin"] - did["end"]
        rounds += 1
    seen = (
        f"{rounds} rounds, {killed} runs killed, {amid} of them while cells were run; {begun}"
        f" attempts begun, {cut} of them cut short; no two at one cell, none after its end"
    )
    print(seen)
    told(f"{RUNNERS} runs of one suite of {CELLS} cells at a time", rounds * CELLS, seen)
    assert rounds == ROUNDS, f"{rounds} of {ROUNDS} rounds in {MINUTES:g} minutes"


def _wait_to_kill(victim: BaseProcess, audit: Audit, share: float) -> None:
    """Wait until a share of the cells has begun, however fast this machine is; below nought for a
    moment, in which runs plan."""
    if share < 0:
        time.sleep(-5 * share)
        return
    until = time.monotonic() + LONGEST
    while victim.is_alive() and audit.cells("begin") < share * CELLS:
        assert time.monotonic() < until, "runs that begin nothing"
        time.sleep(0.005)


def _check(lines: list[tuple[str, str, int]], jobs: list[Job], *, anyone_killed: bool) -> None:
    two = [name for what, name, _ in lines if what == "two"]
    assert not two, f"two at a time at {two}"
    begun = Counter(name for what, name, _ in lines if what == "begin")
    ended = Counter(name for what, name, _ in lines if what == "end")
    assert begun.keys() == {job.id for job in jobs}
    at_work: dict[str, int] = {}
    done: set[str] = set()
    for what, name, pid in lines:
        if what == "begin":
            assert name not in done, f"{name} was begun after its end"
            at_work[name] = pid
        else:
            assert at_work[name] == pid
            done.add(name)
    # One that is killed between its record and the line that tells of it has no line.
    assert set(ended.values()) <= {1}
    if not anyone_killed:
        assert set(begun.values()) == set(ended.values()) == {1}
        assert ended.keys() == begun.keys()
    for job in jobs:
        told = record.read_record(job.folder / record.RECORD)
        assert (told["status"], told["cell"], told["attempts"]) == ("done", job.id, [])
