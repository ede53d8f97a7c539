"""A cell that takes a third of a second, in this process, and what it leaves behind."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from threading import Event
from typing import Any

import pytest
from toy import history, untimed

from collapse_bench import record
from collapse_bench.evidence import NOTE
from collapse_bench.job import Job
from collapse_bench.laws.bench import SIZES, TRAINING, tiny_corpus
from collapse_bench.runner import Outcome, plan
from collapse_bench.runner.attempt import attempt
from collapse_bench.suite import Cell, CorpusSettings, Entry, Evaluation
from collapse_bench.training import checkpoint

BUDGET = 900

Files = dict[str, bytes]


def jobs(out: Path, seeds: int) -> list[Job]:
    """The cell with each of several seeds, as a run that begins now plans them."""
    cells = [
        Cell(
            "tiny", Entry("vae", ()), "lstm", seed, CorpusSettings(), SIZES,
            replace(TRAINING, validations=3), Evaluation(samples=2, precision="float32"),
        )
        for seed in range(1, seeds + 1)
    ]  # fmt: skip
    return plan(cells, tiny_corpus(), out, budget=BUDGET, device="cpu", remedy_files={})


def job(out: Path) -> Job:
    """The cell with the first of them."""
    return jobs(out, 1)[0]


def try_at(out: Path) -> tuple[Outcome, list[str]]:
    """An attempt, and the lines that it has for the user."""
    said: list[dict[str, Any]] = []
    outcome = attempt(job(out), said.append, Event())
    return outcome, [each["said"] for each in said if "said" in each]


def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every validation leave a checkpoint."""
    monkeypatch.setattr(checkpoint, "SOONEST", 0.0)
    monkeypatch.setattr(checkpoint, "SHARE", float("inf"))


@cache
def whole() -> tuple[dict[str, Any], Files]:
    """The record of an attempt that nothing happened to, without times, and its files by name."""
    out = Path(mkdtemp(prefix="tiny-"))
    assert try_at(out)[0].kind == "recorded"
    return of(out)


def of(out: Path) -> tuple[dict[str, Any], Files]:
    """The record of the cell as it is now, without times, and all its files by name but the note,
    which may be missing."""
    folder = job(out).folder
    told = untimed(record.read_record(folder / record.RECORD))
    return told, {each.name: each.read_bytes() for each in folder.iterdir() if each.name != NOTE}


def assert_equals_whole(out: Path) -> None:
    """The cell is as after an attempt that nothing happened to."""
    told, files = of(out)
    expected, others = whole()
    assert told == expected
    assert files.keys() == others.keys()
    for name in (record.MODEL, record.SENTENCES, record.VOCABULARY):
        assert files[name] == others[name], name
    assert history(files[record.HISTORY]) == history(others[record.HISTORY])


def interrupted(out: Path, patch: Callable[..., Any]) -> list[Path]:
    """Leave a cell in the midst of its training; its checkpoints, the newest first."""
    stop = Event()

    offered = checkpoint.Checkpoints.offer
    calls = 0

    def offer(self: Any, *args: Any, **kwargs: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 6:
            stop.set()
        offered(self, *args, **kwargs)

    patch(checkpoint.Checkpoints, "offer", offer)
    assert attempt(job(out), lambda told: None, stop).kind == "stopped"
    patch(checkpoint.Checkpoints, "offer", offered)
    found = sorted(job(out).folder.glob(record.CHECKPOINTS), reverse=True)
    assert len(found) == 2
    return found
