"""Cells that take too much, say too much, or leave: each is an outcome, and the others go on."""

import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from drivers import Run, left_in, server, start_alone
from scale import FULL, told

from collapse_bench.interruption import GRACE
from collapse_bench.record import read_records

SUITE = """\
corpus: {{name: newswire, sentences: 60}}
architectures: [lstm]
sizes: {{embedding: 8, hidden: 8, latent: 4, layers: 1, heads: 2}}
training: {{budget: 300, batch: 16, validations: 1}}
evaluation: {{samples: 2}}
seeds: [1]
entries:
  vae: []
{entries}
"""

LATE = 5.0 if FULL else 10.0
"""Seconds after a signal in which a run has to end."""

BAD = '''\
"""A remedy that does at the first step what none should."""

import ctypes
import gc
import os
import signal
import sys
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from collapse_bench.remedy import Remedy

GIB = 2**30


def torch_memory():
    torch.zeros(10 * GIB, dtype=torch.uint8)


def numpy_memory():
    np.ones(10 * GIB, dtype=np.uint8)


def python_memory():
    kept = []
    while True:
        kept.append(bytearray(2**24))


def sleep():
    time.sleep(600)


def deaf():
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    time.sleep(600)


def no_threads():
    ctypes.PyDLL(None).sleep(600)  # with the lock of the interpreter


def loud():
    for _ in range(1600):
        os.write(1, b"x" * 65535 + b"\\n")


def exit_3():
    sys.exit(3)


def gone():
    os._exit(0)


def _pipes():
    return [each for each in gc.get_objects() if type(each) is Connection and each.writable]


def silent():
    for each in _pipes():
        os.close(each.fileno())


def closed():
    for each in _pipes():
        each.close()


@dataclass(frozen=True)
class Bad(Remedy):
    kind: Literal[
        "torch_memory", "numpy_memory", "python_memory", "sleep", "deaf", "no_threads", "loud",
        "exit_3", "gone", "silent", "closed",
    ] = "sleep"

    def objective(self, forward):
        if forward.step == 0 and not Path("good").exists():
            globals()[self.kind]()
        return forward
'''

MEMORY = ("torch_memory", "numpy_memory", "python_memory") if FULL else ("torch_memory",)
SLOW = ("no_threads", "deaf", "sleep") if FULL else ("no_threads", "deaf")
QUIET = {
    "exit_3": "failed",
    "gone": "failed",
    "silent": "done",
    "closed": "done",
}


def write(folder: Path, kinds: tuple[str, ...]) -> Path:
    lines = "\n".join(f"  {kind}: [{{bad: {{kind: {kind}}}}}]" for kind in kinds)
    (folder / "limits.yaml").write_text(SUITE.format(entries=lines))
    (folder / "bad.py").write_text(BAD)
    return folder


ARGUMENTS = ("run", "limits.yaml", "--plugin", "bad.py", "--workers", "2")


def start(folder: Path, *more: str) -> Run:
    return server().start(folder, *ARGUMENTS, *more)


def outcomes(folder: Path) -> Mapping[str, dict[str, Any]]:
    return {told["entry"]: told for told in read_records(folder / "runs" / "limits")}


def at_its_first_step(run: Run) -> None:
    """Wait until the only cell of a run is there."""
    until = time.monotonic() + 60
    while not list(run.folder.rglob("lease.json")) and time.monotonic() < until:
        time.sleep(0.1)
    time.sleep(2)


def code_of(run: Run) -> int:
    ended = run.ended(100)
    assert ended is not None, run.output()[-5000:]
    assert left_in(run.folder, 10) == []
    return ended[0]


@pytest.mark.parametrize(
    ("kinds", "limit", "status"),
    [(MEMORY, ("--memory", "1G"), "out of memory"), (SLOW, ("--timeout", "4s"), "timeout")],
    ids=["memory", "time"],
)
def test_a_cell_over_its_limit_is_an_outcome_that_is_kept_until_it_is_to_be_tried_again(
    kinds: tuple[str, ...], limit: tuple[str, ...], status: str, tmp_path: Path
) -> None:
    folder = write(tmp_path, kinds)
    run = start(folder, *limit)
    assert code_of(run) == 1, run.output()
    found = outcomes(folder)
    assert {name: told["status"] for name, told in found.items()} == {
        "vae": "done",
        **dict.fromkeys(kinds, status),
    }, run.output()
    again = start(folder, *limit)
    assert code_of(again) == 1
    assert outcomes(folder) == found, "none is run again without being asked to"
    (folder / "good").touch()
    last = start(folder, *limit, "--retry", "killed")
    assert code_of(last) == 0, last.output()
    for name, record in outcomes(folder).items():
        assert record["status"] == "done"
        assert [each["status"] for each in record["attempts"]] == (
            [] if name == "vae" else [status]
        )
    told(
        f"cells over their {limit[0].strip('-')}: {', '.join(kinds)}",
        len(kinds),
        f"{status}, kept, run again with --retry",
    )


def test_a_cell_that_leaves_or_hangs_up_takes_no_other_along(tmp_path: Path) -> None:
    folder = write(tmp_path, tuple(QUIET))
    run = start(folder)
    assert code_of(run) == 1, run.output()
    found = outcomes(folder)
    assert {name: told["status"] for name, told in found.items()} == {"vae": "done", **QUIET}
    assert "SystemExit: 3" in found["exit_3"]["error"]
    assert "exited with 0 and left no record" in found["gone"]["error"]
    (folder / "good").touch()
    again = start(folder)
    assert code_of(again) == 0, "one that failed is run again once"
    assert {told["status"] for told in outcomes(folder).values()} == {"done"}
    told(
        f"cells that exit or hang up: {', '.join(QUIET)}",
        len(QUIET),
        "each an outcome of its own; the others go on",
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once_what_waits_for_a_cell_after_a_first(
    number: int, tmp_path: Path
) -> None:
    """The cell is in a step that does not end, so that it cannot leave a checkpoint."""
    seconds = []
    for signals in (1, 2):
        (tmp_path / f"{signals}").mkdir()
        run = start(write(tmp_path / f"{signals}", ("sleep",)), "--only", "sleep/*")
        at_its_first_step(run)
        sent = run.kill("process", number)
        for _ in range(1, signals):
            time.sleep(0.3)
            assert run.ended(0) is None, "it had ended by itself"
            sent = run.kill("process", number)
        ended = run.ended(LATE)
        assert ended is not None
        assert sent is not None
        assert ended[0] == 128 + number
        assert left_in(run.folder, LATE) == []
        seconds.append(ended[1] - sent)
    first, second = seconds
    assert first > GRACE - 0.5, "it did not wait"
    assert second < GRACE / 2
    told(
        "a signal while a cell is in a step that does not end, and a second one",
        1,
        f"ended after {first:.1f} s; {second:.1f} s after the second",
    )


ALONE = pytest.mark.skipif(
    not FULL, reason="it needs a fork server of its own, for which `make faults` has the time"
)


@ALONE
def test_a_cell_may_say_a_hundred_megabytes(tmp_path: Path) -> None:
    folder = write(tmp_path, ("loud",))
    run = start_alone(folder, *ARGUMENTS)
    assert code_of(run) == 0, run.output()[-5000:]
    assert (folder / "output").stat().st_size > 100 * 2**20
    told("a cell that writes 100 MiB to its output", 1, "done, as any other")


@ALONE
def test_a_cell_that_never_lets_go_of_the_interpreter_ends_with_its_run(tmp_path: Path) -> None:
    """No thread of its own could end it."""
    folder = write(tmp_path, ("no_threads",))
    run = start_alone(folder, *ARGUMENTS, "--only", "no_threads/*")
    at_its_first_step(run)
    run.kill("process", signal.SIGKILL)
    assert run.ended(10)
    assert left_in(folder, 10) == []
    told("a run killed whose cell keeps the interpreter's lock", 1, "no process is left")
