"""A cell of any remedy that is killed at any update, also in an inner loop, ends as one that was
not."""

import os
import random
import signal
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from conftest import KNOWN
from remedy_cells import job_of
from scale import FULL, told
from toy import history, untimed

from collapse_bench import record
from collapse_bench.evidence import NOTE
from collapse_bench.job import Job
from collapse_bench.laws.bench import ARCHITECTURES
from collapse_bench.remedy import find_class
from collapse_bench.runner.attempt import attempt
from collapse_bench.training import TrainingRun, checkpoint

FORK: Any = get_context("fork")

BOTH = [
    (name, architecture)
    for name in sorted(KNOWN)
    for architecture in ARCHITECTURES
    if architecture in find_class(name, KNOWN[name]).architectures
]
PAIRS = BOTH if FULL else BOTH[::15]
"""In `make test` every fifteenth; both architectures are among them."""


@pytest.fixture
def moments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints every few hundredths of a second."""
    monkeypatch.setattr(checkpoint, "SOONEST", 0.0)
    monkeypatch.setattr(checkpoint, "EVERY", 0.03)
    monkeypatch.setattr(checkpoint, "SHARE", float("inf"))


def counted(monkeypatch: pytest.MonkeyPatch, then: Callable[[int], None]) -> None:
    """Call a function with the number of each update as it begins."""
    update, updates = TrainingRun.update, 0

    def counting(*arguments: Any, **keywords: Any) -> Any:
        nonlocal updates
        updates += 1
        then(updates)
        return update(*arguments, **keywords)

    monkeypatch.setattr(TrainingRun, "update", counting)


def killed_at(job: Job, at: int, monkeypatch: pytest.MonkeyPatch) -> int | None:
    """The exit code of an attempt, in a process of its own, that is killed at an update."""

    def kill(number: int) -> None:
        if number == at:
            os.kill(os.getpid(), signal.SIGKILL)

    def body() -> None:
        counted(monkeypatch, kill)
        attempt(job, lambda told: None, Event())

    process = FORK.Process(target=body)
    process.start()
    process.join()
    code: int | None = process.exitcode
    return code


def left_of(job: Job) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, bytes]]:
    """Record and history without times, and the other files of a cell by name."""
    folder = job.folder
    files = {each.name: each.read_bytes() for each in folder.iterdir() if each.name != NOTE}
    del files[record.RECORD]
    rows = history(files.pop(record.HISTORY))
    return untimed(record.read_record(folder / record.RECORD)), rows, files


@pytest.mark.usefixtures("moments")
@pytest.mark.parametrize(("name", "architecture"), PAIRS)
def test_a_cell_that_is_killed_twice_ends_as_one_that_was_not(
    name: str, architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    updates = 0

    def count(number: int) -> None:
        nonlocal updates
        updates = number

    expected = job_of(name, architecture, tmp_path / "whole")
    with monkeypatch.context() as patch:
        counted(patch, count)
        assert attempt(expected, lambda told: None, Event()).kind == "recorded"
    assert updates > 12, "too few to be cut in"
    draw = random.Random(f"{name} {architecture}")
    job = job_of(name, architecture, tmp_path / "killed")
    for at in (draw.randint(updates // 3, updates // 2), draw.randint(2, updates // 4)):
        assert killed_at(job, at, monkeypatch) == -signal.SIGKILL
        assert list(job.folder.glob(record.CHECKPOINTS))
    said: list[str] = []
    outcome = attempt(job, lambda told: said.append(told.get("said", "")), Event())
    assert outcome.kind == "recorded"
    assert any(each.endswith(f" of {job.budget:,} tokens") for each in said), said
    assert left_of(job) == left_of(expected)
    told(
        "cells of every remedy, with each decoder that it is for, killed at two updates",
        1,
        "gone on from checkpoints; record, history, weights and arrays equal to the last bit",
    )
