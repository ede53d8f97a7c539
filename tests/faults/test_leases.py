"""Who may work on a cell, on one machine and on several, whatever becomes of its owner."""

import errno
import fcntl
import json
import os
import shutil
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
from collapse_bench.runner import local

attempts = __import__("collapse_bench.runner.attempt", fromlist=["attempt"])
"""The module; its function is called so, too."""

FORK: Any = get_context("fork")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT", 0.2)
    monkeypatch.setattr(lease, "EXPIRY", 1.5)


def held(job: Job) -> Any:
    return lease.hold(job.folder, job.settings)


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


def test_the_lease_of_one_that_lives_is_not_buried_however_old_it_is(tmp_path: Path) -> None:
    """As where it was suspended, or the disk is full: it has the lock."""
    job = tiny.job(tmp_path)
    process = owner(job)
    long_ago = time.time() - lease.EXPIRY - 1
    os.utime(job.folder / lease.LEASE, (long_ago, long_ago))
    lease.bury(job.folder)
    assert lease.read_lease(job.folder) is not None
    process.kill()
    process.join()
    lease.bury(job.folder)
    assert lease.read_lease(job.folder) is None


@pytest.mark.parametrize(("code", "kind"), [(lease.STOLEN, "busy"), (3, "failed"), (-9, "killed")])
def test_how_a_worker_ended_tells_whether_it_lost_its_cell(
    code: int, kind: str, tmp_path: Path
) -> None:
    """One that has lost it has not failed: another process is at it, or has finished it."""
    process = FORK.Process(target=lambda: os._exit(code) if code > 0 else os.kill(os.getpid(), 9))
    process.start()
    process.join()
    here, _ = FORK.Pipe(duplex=False)
    assert local._outcome(local.Worker(tiny.job(tmp_path), process, here)).kind == kind


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
@pytest.mark.parametrize("finished", [False, True])
def test_an_owner_that_lost_its_cell_while_it_was_suspended_ends_itself_and_writes_nothing(
    finished: bool, at: str, beat: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it is not its beat that finds out, since what it does next may be to write, and
    where the other one has finished and is gone."""
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
        with held(job) as holding:
            if finished:
                holding.__exit__()
            os.kill(process.pid, signal.SIGCONT)
            os.kill(process.pid, signal.SIGUSR1)
            process.join(30)
            assert process.exitcode == lease.STOLEN
            assert not (job.folder / record.RECORD).exists()
            kept = lease.read_lease(job.folder)
            assert finished == (kept is None)
            assert kept is None or kept.machine == "another"


def test_what_is_told_while_the_lease_is_written_anew_costs_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "BEAT", 0.0005)
    with held(tiny.job(tmp_path)) as holding:
        until = time.monotonic() + 1
        while time.monotonic() < until:
            holding.tell({"evaluating": True})
        left = lease.read_lease(tiny.job(tmp_path).folder)
        assert left is not None
        assert left.phase == "evaluating"


def test_a_lease_that_cannot_be_written_anew_costs_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with held(tiny.job(tmp_path)) as holding:
        monkeypatch.setattr(Path, "write_text", full)
        holding.tell({"evaluating": True})


def test_whether_there_are_locks_is_asked_with_a_file_that_may_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS refuses a shared lock of one that may only be written, and so would every run be."""
    flock = fcntl.flock

    def of_nfs(file: Any, kind: int) -> None:
        flags = fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE
        if flags == (os.O_WRONLY if kind & fcntl.LOCK_SH else os.O_RDONLY):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        flock(file, kind)

    monkeypatch.setattr(fcntl, "flock", of_nfs)
    with held(tiny.job(tmp_path)):
        pass


def test_where_there_are_no_locks_an_attempt_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(file: Any, kind: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", none)
    outcome, _ = tiny.try_at(tmp_path)
    assert outcome.kind == "failed"
    assert "has no locks" in outcome.why
    assert "--out" in outcome.why


def test_a_process_of_another_container_is_not_known_by_its_number(tmp_path: Path) -> None:
    job = tiny.job(tmp_path)
    with held(job):
        path = job.folder / lease.LEASE
        told = json.loads(path.read_text())
        started, namespace = told["machine"].split(" ", 1)
        assert started in Path("/proc/sys/kernel/random/boot_id").read_text()
        gone = 2**22 + 1  # more than any number of a process
        path.write_text(json.dumps(told | {"process": gone}))
        left = lease.read_lease(job.folder)
        assert left is not None
        assert not left.alive
        other = {"process": gone, "machine": f"{started} {namespace}1"}
        path.write_text(json.dumps(told | other))
        left = lease.read_lease(job.folder)
        assert left is not None
        assert left.alive
        path.write_text(json.dumps(told))


def test_a_folder_that_was_copied_in_the_middle_goes_on_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that a killed process left, on a machine that cannot know whether that one lives."""
    tiny.whole()
    tiny.often(monkeypatch)
    here, there = tmp_path / "here", tmp_path / "there"
    tiny.interrupted(here, monkeypatch.setattr)
    folder = tiny.job(here).folder
    with held(tiny.job(here)) as holding:
        shutil.copytree(here, there)
        holding.stopped()
    shutil.rmtree(here)
    copied = there / folder.relative_to(here) / lease.LEASE
    monkeypatch.setattr(lease, "this_machine", lambda: "another")
    assert tiny.try_at(there)[0].kind == "busy"
    long_ago = time.time() - lease.EXPIRY - 1
    os.utime(copied, (long_ago, long_ago))
    outcome, said = tiny.try_at(there)
    assert outcome.kind == "recorded"
    assert any(each.startswith("goes on from ") for each in said)
    tiny.assert_equals_whole(there)
