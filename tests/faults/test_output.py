"""What cannot be shown: a full disk under a log, a terminal that is gone, a reader that left."""

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
import toy
from drivers import ROOT
from scale import told

from collapse_bench.cli import main
from collapse_bench.progress import Progress
from collapse_bench.training import checkpoint

FULL_DISK = Path("/dev/full")

BENCH = (sys.executable, "-m", "collapse_bench")

needs_a_full_disk = pytest.mark.skipif(not FULL_DISK.exists(), reason="there is no /dev/full")


class Log(io.RawIOBase):
    """A log that takes a line, and then nothing more."""

    def __init__(self, number: int) -> None:
        self.number, self.taken = number, b""

    def writable(self) -> bool:
        return True

    def write(self, some: bytes) -> int:
        if b"\n" in self.taken:
            raise OSError(self.number, "it is over")
        self.taken += bytes(some)
        return len(some)


def stream(log: Log) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BufferedWriter(log), encoding="utf-8")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EFBIG])
def test_a_log_that_can_no_more_be_written_ends_no_run(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = toy.write(tmp_path / "run", 600, [1])
    monkeypatch.chdir(folder)
    for name in ("SOONEST", "EVERY", "SHARE"):  # which the plugin sets, here in this process
        monkeypatch.setattr(checkpoint, name, getattr(checkpoint, name))
    log = Log(number)
    monkeypatch.setattr("sys.stdout", stream(log))
    main([*toy.ARGUMENTS, "--only", "vae/*"])
    assert log.taken.startswith(b"toy: 1 cell on newswire")
    assert [each["status"] for each in toy.records(folder).values()] == ["done"]


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="this system has no terminals")
def test_a_run_goes_on_without_its_terminal(tmp_path: Path) -> None:
    """As under `nohup`, whose output is left to the terminal."""
    folder = toy.write(tmp_path / "run", 600, [1])
    mine, its = os.openpty()
    process = subprocess.Popen(
        [*BENCH, *toy.ARGUMENTS, "--only", "vae/*"],
        cwd=folder,
        stdout=its,
        stderr=its,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    os.close(its)
    shown = b""
    while b"\n" not in shown:  # of the first line: a run that cannot even say that it begins ends
        shown += os.read(mine, 1000)
    assert shown.startswith(b"toy: ")
    os.close(mine)
    assert process.wait(120) == 0
    assert [each["status"] for each in toy.records(folder).values()] == ["done"]
    told("a terminal that is closed, or a log whose disk is full, under a run", 4, "cells are done")


def test_a_reader_that_has_left_ends_a_run() -> None:
    progress = Progress(1, stream(Log(errno.EPIPE)))
    progress._line("a")
    with pytest.raises(BrokenPipeError):
        progress._line("b")


@needs_a_full_disk
@pytest.mark.parametrize("buffered", [False, True])
@pytest.mark.parametrize("errors_too", [False, True])
@pytest.mark.parametrize("verb", ["list remedies", "status toy.yaml", "plan none"])
def test_what_cannot_be_printed_is_exit_code_5(
    verb: str, tmp_path: Path, *, errors_too: bool, buffered: bool
) -> None:
    folder = toy.write(tmp_path / "run", 600, [1])
    with FULL_DISK.open("w") as full:
        done = subprocess.run(
            [*BENCH, *verb.split(), "--plugin", "often.py"],
            cwd=folder,
            stdout=full,
            stderr=full if errors_too else subprocess.PIPE,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "PYTHONUNBUFFERED": "" if buffered else "1",
            },
            text=True,
        )
    if verb == "plan none":
        assert done.returncode == 2, "its own error, whether or not it can be printed"
    else:
        assert done.returncode == 5
        assert errors_too or done.stderr.endswith("cannot be written: No space left on device\n")
    assert errors_too or "Traceback" not in done.stderr


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="this system has no terminals")
@pytest.mark.parametrize("buffered", [False, True])
def test_what_a_terminal_that_is_gone_does_not_show_is_exit_code_5(*, buffered: bool) -> None:
    mine, its = os.openpty()
    os.close(mine)
    unbuffered = "" if buffered else "1"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run([*BENCH, "list", "architectures"], stdout=its, env=environment)
    os.close(its)
    assert done.returncode == 5


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_stream_that_is_closed_is_no_error(closed: str) -> None:
    command = f'"{sys.executable}" -m collapse_bench list architectures {closed}'
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert ("lstm" in done.stdout) == (not closed.startswith(">"))


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    with subprocess.Popen(
        [*BENCH, "list", "remedies"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141
