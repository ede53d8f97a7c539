"""Who may work on a cell, on one machine and on several, whatever becomes of its owner."""

import os
import signal
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import wait
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import tiny

from collapse_bench import lease, record
from collapse_bench.job import Job, describe

attempts = __import__("collapse_bench.runner.attempt", fromlist=["attempt"])
"""The module; its function is called so, too."""

FORK: Any = get_context("fork")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT", 0.2)
    monkeypatch.setattr(lease, "EXPIRY", 1.5)


def held(job: Job) -> Any:
    return lease.hold(job.folder, code=job.code, commit=None, budget=job.budget)


def owner(job: Job, stopped: bool = False) -> Any:
    """A process that has a cell; it keeps it until it is killed, or says that it has stopped."""
    here, there = FORK.Pipe(duplex=False)

    def body() -> None:
        with held(job) as holding:
            there.send(True)
            if stopped:
                holding.stopped()
                return
            time.sleep(600)

    process = FORK.Process(target=body)
    process.start()
    assert here.recv()
    return process


def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on this is another machine, to which the shared folder carries no locks."""
    monkeypatch.setattr(lease, "this_machine", lambda: "another")
    monkeypatch.setattr(lease, "LOCKS", ".locks-there")


@pytest.mark.usefixtures("quick")
def test_a_cell_whose_owner_was_killed_is_free_at_once_on_the_same_machine(tmp_path: Path) -> None:
    job = tiny.job(tmp_path)
    process = owner(job)
    with pytest.raises(lease.BusyError, match=f"process {process.pid} on "), held(job):
        pass
    process.kill()
    wait([process.sentinel])
    # Nobody has asked how it ended, so that the system still keeps its number: in a container
    # whose first process asks of none it does so for ever.
    os.kill(process.pid, 0)
    left = lease.read_lease(job.folder)
    assert left is not None
    assert not left.alive
    with held(job):
        pass
    process.join()


@pytest.mark.usefixtures("quick")
def test_on_another_machine_it_is_free_once_nothing_was_heard_of_it_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = tiny.job(tmp_path)
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
    job = tiny.job(tmp_path)
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
    job = tiny.job(tmp_path)
    here, there = FORK.Pipe(duplex=False)

    def run_cell(job: Job, report: Callable[..., None], stop: Event) -> None:
        """As the real one reports, and waits where it is suspended."""
        there.send(True)
        signal.sigwait({signal.SIGUSR1})
        if at == "training":
            report({"tokens": 100, "loss": 1.0, "kl": 1.0})
        else:
            report({"recording": True})
        record.write_record(job.folder, describe(job) | {"status": "done"})

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
