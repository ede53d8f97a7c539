"""What cannot be shown: a full disk under a log, a terminal that is gone, a reader that left."""

import errno
import io
import subprocess
import sys
from pathlib import Path

import pytest
import toy
from scale import told

from collapse_bench.cli import main
from collapse_bench.progress import Progress

FULL_DISK = Path("/dev/full")

BENCH = (sys.executable, "-m", "collapse_bench")

needs_a_full_disk = pytest.mark.skipif(not FULL_DISK.exists(), reason="there is no /dev/full")


class Log(io.StringIO):
    """A log that takes a line, and then nothing more."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def write(self, text: str) -> int:
        if "\n" in self.getvalue():
            raise OSError(self.number, "it is over")
        return super().write(text)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_log_that_can_no_more_be_written_ends_no_run(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = toy.write(tmp_path / "run", 600, [1])
    monkeypatch.chdir(folder)
    log = Log(number)
    monkeypatch.setattr("sys.stdout", log)
    assert main([*toy.ARGUMENTS, "--only", "vae/*"]) == 0
    assert log.getvalue().startswith("toy: 1 cell on newswire")
    assert [each["status"] for each in toy.records(folder).values()] == ["done"]
    told("a log on a full disk, or of a terminal that is gone, under a run", 1, "all cells done")


def test_a_reader_that_has_left_ends_a_run() -> None:
    log = Log(errno.EPIPE)
    progress = Progress(1, log)
    progress._line("a")
    with pytest.raises(BrokenPipeError):
        progress._line("b")


@needs_a_full_disk
@pytest.mark.parametrize("errors_too", [False, True])
@pytest.mark.parametrize("verb", [["list", "remedies"], ["status", "toy.yaml"], ["plan", "none"]])
def test_what_cannot_be_printed_is_exit_code_5(
    verb: list[str], tmp_path: Path, *, errors_too: bool
) -> None:
    folder = toy.write(tmp_path / "run", 600, [1])
    with FULL_DISK.open("w") as full:
        errors = full if errors_too else subprocess.PIPE
        plugin = ["--plugin", "often.py"]
        done = subprocess.run(
            [*BENCH, *verb, *plugin], cwd=folder, stdout=full, stderr=errors, text=True
        )
    if verb[0] == "plan":
        assert done.returncode == 2, "its own error, which could be printed nowhere"
    else:
        assert done.returncode == 5
        assert errors_too or "error: [Errno 28] No space left on device" in done.stderr
    assert errors_too or "Traceback" not in done.stderr


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    with subprocess.Popen(
        [*BENCH, "list", "remedies"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141
