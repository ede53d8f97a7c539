"""Many runs of one suite at a time, some of them killed: each cell is trained once."""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from io import StringIO
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from scale import count, told

from collapse_bench import cell, lease, record
from collapse_bench.job import Job
from collapse_bench.laws.bench import SIZES, TRAINING, tiny_corpus
from collapse_bench.progress import Progress
from collapse_bench.runner import Local, Outcome, local, plan, run_jobs, schedule
from collapse_bench.suite import Cell, CorpusSettings, Entry, Evaluation

attempts = __import__("collapse_bench.runner.attempt", fromlist=["attempt"])
"""The module; its function is called so, too."""

FORK: Any = get_context("fork")

RUNNERS, CELLS, ROUNDS = count(3, 8), count(12, 200), count(1, 20)

MINUTES = float(os.environ.get("COLLAPSE_BENCH_FAULTS_MINUTES", "30"))

LONGEST = 300.0
"""Seconds after which a round is taken for one that never ends; it takes some ten."""


def jobs_in(out: Path, cells: int = CELLS) -> list[Job]:
    chosen = [
        Cell(
            "tiny", Entry("vae", ()), "lstm", seed, CorpusSettings(), SIZES, TRAINING,
            Evaluation(samples=2, precision="float32"),
        )
        for seed in range(1, cells + 1)
    ]  # fmt: skip
    return plan(chosen, tiny_corpus(), out, budget=300, device="cpu", remedy_files={})


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
        lines = (line.split() for line in self._path.read_text().splitlines())
        return [(what, name, int(pid)) for what, name, pid in lines]

    def run_cell(self, job: Job, report: Callable[..., None], stop: Event) -> dict[str, Any]:
        """In place of a training: notes that it began and ended, and leaves a record."""
        self.add("begin", job)
        time.sleep(random.Random(os.getpid()).uniform(0, 0.02))
        result = cell.describe(job) | {"status": "done"}
        record.write_record(job.folder, result)
        self.add("end", job)
        return result


def started(out: Path) -> BaseProcess:
    """A run of all cells of a suite in a process of its own."""

    def body() -> None:
        jobs = jobs_in(out)
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
    rounds = killed = begun = 0
    while rounds < ROUNDS and time.monotonic() < until:
        out = tmp_path / f"{rounds}"
        out.mkdir()
        audit = Audit(out / "audit")
        monkeypatch.setattr(attempts, "run_cell", audit.run_cell)
        runners = [started(out) for _ in range(RUNNERS)]
        # In every second round nobody is killed.
        victims = draw.sample(runners, RUNNERS // 2) if rounds % 2 == 0 else []
        for victim in victims:
            time.sleep(draw.uniform(0.0, 1.0))
            killed += victim.is_alive()
            victim.kill()
        for runner in runners:
            runner.join(LONGEST)
            assert not runner.is_alive(), "a run that never ends"
            assert runner.exitcode == (-9 if runner in victims and runner.exitcode else 0)
        lines = audit.read()
        _check(lines, jobs_in(out), anyone_killed=bool(victims))
        begun += sum(what == "begin" for what, _, _ in lines)
        rounds += 1
    seen = f"{rounds} rounds, {killed} runs killed, {begun} attempts begun; each cell ended once"
    print(seen)
    told(f"{RUNNERS} runs of one suite of {CELLS} cells at a time", rounds * CELLS, seen)


def _check(lines: list[tuple[str, str, int]], jobs: list[Job], *, anyone_killed: bool) -> None:
    begun = Counter(name for what, name, _ in lines if what == "begin")
    ended = Counter(name for what, name, _ in lines if what == "end")
    assert begun.keys() == {job.id for job in jobs}
    # One that is killed between its record and the line that tells of it has no line.
    assert set(ended.values()) <= {1}
    at_work: dict[str, int] = {}
    for what, name, pid in lines:
        if what == "begin":
            before = at_work.get(name)
            assert before is None or not _is_alive(before), f"two at {name}"
            at_work[name] = pid
        else:
            assert at_work[name] == pid
    if not anyone_killed:
        assert set(begun.values()) == set(ended.values()) == {1}
        assert ended.keys() == begun.keys()
    for job in jobs:
        told = record.read_record(job.folder / record.RECORD)
        assert (told["status"], told["cell"], told["attempts"]) == ("done", job.id, [])


def _is_alive(pid: int) -> bool:
    with suppress(OSError):
        return "cell" in Path(f"/proc/{pid}/cmdline").read_text()
    return False


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT", 0.2)
    monkeypatch.setattr(lease, "EXPIRY", 1.5)


def held(job: Job) -> Any:
    return lease.hold(job.folder, code=job.code, commit=None, budget=job.budget)


def owner(job: Job, stopped: bool = False) -> BaseProcess:
    """A process that has a cell; it keeps it until it is killed, or says that it has stopped."""
    here, there = FORK.Pipe(duplex=False)

    def body() -> None:
        with held(job) as holding:
            there.send(True)
            if stopped:
                holding.stopped()
                return
            time.sleep(600)

    process: BaseProcess = FORK.Process(target=body)
    process.start()
    assert here.recv()
    return process


def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on this is another machine, to which the shared folder carries no locks."""
    monkeypatch.setattr(lease, "this_machine", lambda: "another")
    monkeypatch.setattr(lease, "LOCKS", ".locks-there")


@pytest.mark.usefixtures("quick")
def test_a_cell_whose_owner_was_killed_is_free_at_once_on_the_same_machine(tmp_path: Path) -> None:
    (job,) = jobs_in(tmp_path, 1)
    process = owner(job)
    with pytest.raises(lease.BusyError, match=f"process {process.pid} on "), held(job):
        pass
    process.kill()
    process.join()
    left = lease.read_lease(job.folder)
    assert left is not None
    assert not left.alive
    with held(job):
        pass


@pytest.mark.usefixtures("quick")
def test_on_another_machine_it_is_free_once_nothing_was_heard_of_it_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (job,) = jobs_in(tmp_path, 1)
    process = owner(job)
    elsewhere(monkeypatch)
    time.sleep(2 * lease.EXPIRY)  # it beats, so it lives
    with pytest.raises(lease.BusyError, match=f"process {process.pid} on "), held(job):
        pass
    process.kill()
    process.join()
    with pytest.raises(lease.BusyError), held(job):
        pass
    time.sleep(lease.EXPIRY + 0.2)
    with held(job):
        pass


@pytest.mark.usefixtures("quick")
def test_one_that_was_left_unfinished_is_free_at_once_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (job,) = jobs_in(tmp_path, 1)
    process = owner(job, stopped=True)
    process.join()
    elsewhere(monkeypatch)
    with held(job):
        pass


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("beat", [0.2, 60.0])
@pytest.mark.parametrize("at", ["training", "recording"])
def test_an_owner_that_lost_its_cell_while_it_was_suspended_ends_itself_and_writes_nothing(
    at: str, beat: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it is not its beat that finds out: what it does next may be to write."""
    (job,) = jobs_in(tmp_path, 1)
    here, there = FORK.Pipe(duplex=False)

    def run_cell(job: Job, report: Callable[..., None], stop: Event) -> None:
        """As the real one reports, and waits where it is suspended."""
        there.send(True)
        signal.sigwait({signal.SIGUSR1})
        if at == "training":
            report({"tokens": 100, "loss": 1.0, "kl": 1.0})
        else:
            report({"recording": True})
        record.write_record(job.folder, cell.describe(job) | {"status": "done"})

    def body() -> None:
        monkeypatch.setattr(lease, "BEAT", beat)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        attempts.attempt(job, lambda told: None, Event())

    monkeypatch.setattr(attempts, "run_cell", run_cell)
    process = FORK.Process(target=body)
    process.start()
    assert here.recv()
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(lease.EXPIRY + 0.5)
    with monkeypatch.context() as patch:
        elsewhere(patch)
        with held(job):
            os.kill(process.pid, signal.SIGCONT)
            os.kill(process.pid, signal.SIGUSR1)
            process.join(30)
            assert process.exitcode == lease.STOLEN
            assert not (job.folder / record.RECORD).exists()
            kept = lease.read_lease(job.folder)
            assert kept is not None
            assert kept.machine == "another"
    monkeypatch.setattr(attempts, "run_cell", Audit(tmp_path / "audit").run_cell)
    again = replace(job, tried=0)
    assert attempts.attempt(again, lambda told: None, Event()) == Outcome("recorded")
