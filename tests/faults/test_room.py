"""A disk that runs full under a run: it ends in words, and with more room it goes on."""

import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from io import StringIO
from pathlib import Path

import pytest
import tiny
import toy
from drivers import Run, left_in, server
from scale import told

from collapse_bench.errors import DiskError
from collapse_bench.job import Job
from collapse_bench.progress import Progress
from collapse_bench.runner import Ended, Outcome, Reported, run_jobs, schedule

SMALL = (
    "sizes: {embedding: 8, hidden: 8, latent: 4, layers: 1, heads: 2}",
    "sizes: {embedding: 64, hidden: 192, latent: 4, layers: 1, heads: 2}",
)
"""In place of the toy's sizes those of models of two megabytes, and of checkpoints of more."""

NO_CHECK = """\
from collapse_bench.runner import schedule

schedule._no_room = lambda job, running: ""  # or so small a disk would never be written to
"""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    mounting = ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(folder)]
    said = subprocess.run(mounting, capture_output=True, text=True)
    if said.returncode:
        pytest.skip(f"no small file system can be mounted here: {said.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def write(folder: Path, *, check: bool) -> Path:
    """A suite whose three cells do not fit on the disk together."""
    folder = toy.write(folder, 1500, [1])
    suite = (folder / "toy.yaml").read_text().replace(*SMALL)
    (folder / "toy.yaml").write_text(suite)
    if not check:
        plugin = folder / "often.py"
        plugin.write_text(plugin.read_text() + "\n\n" + NO_CHECK)
    return folder


def code_of(run: Run) -> int:
    ended = run.ended(120)
    assert ended is not None, run.output()
    assert left_in(run.folder, 10) == []
    assert "Traceback" not in run.output(), run.output()
    return ended[0]


def test_a_run_that_has_no_room_says_so_before_it_begins_a_cell(disk: Path, tmp_path: Path) -> None:
    folder = write(tmp_path / "refused", check=True)
    run = server().start(folder, *toy.ARGUMENTS, "--out", str(disk / "runs"))
    assert code_of(run) == 5, run.output()
    assert re.search(r"bytes are free, and \S+ needs .*: no more cells were begun", run.output())
    assert not list(disk.rglob("record.json"))


@pytest.mark.parametrize("queues", [False, True])
def test_room_is_kept_for_every_cell_that_is_at_work(
    queues: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for one that has been started a moment ago, and not for one that waits its turn."""
    beside: list[int] = []

    def no_room(job: Job, running: Sequence[Job]) -> str:
        beside.append(len(running))
        return ""

    class Taking:
        """An engine that has room for two cells, and no disk."""

        def __init__(self) -> None:
            self.queues, self.taken = queues, list[Job]()

        def room(self) -> bool:
            return len(self.taken) < 2

        def submit(self, job: Job) -> None:
            self.taken.append(job)

        def events(self, seconds: float) -> list[Reported | Ended]:
            return [Ended(job, Outcome("disk", "full")) for job in self.taken]

        def kill(self, job: Job) -> None: ...

        def close(self, grace: float) -> None: ...

    monkeypatch.setattr(schedule, "_no_room", no_room)
    with pytest.raises(DiskError, match="full"):
        run_jobs(tiny.jobs(tmp_path, 3), Taking(), Progress(3, StringIO()))
    assert beside == ([0, 0] if queues else [0, 1])


def test_a_run_whose_disk_is_full_says_so_and_goes_on_once_there_is_room(
    disk: Path, tmp_path: Path
) -> None:
    folder = write(tmp_path / "filled", check=False)
    whole = server().start(folder, *toy.ARGUMENTS)
    assert code_of(whole) == 0, whole.output()

    (folder / "output").unlink()
    arguments = (*toy.ARGUMENTS, "--out", str(disk / "runs"))
    full = server().start(folder, *arguments)
    assert code_of(full) == 5, full.output()
    assert "cannot be written: No space left on device" in full.output()
    assert "make room" in full.output()
    (disk / "toy.yaml").touch()
    toy.assert_whole(disk)
    assert len(toy.records(disk)) < 4
    finished = toy.stamps(disk)

    subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
    again = server().start(folder, *arguments)
    assert code_of(again) == 0, again.output()
    toy.assert_whole(disk)
    assert toy.stamps(disk).items() >= finished.items()
    toy.assert_same(folder, disk)
    seen = f"exit code 5, {len(finished)} of 4 cells kept; with room, equal to the last bit"
    told("a disk of 8 MiB runs full under a run", 1, seen)
