"""A suite of small cells that write a checkpoint every moment, and what is true of them."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from collapse_bench import record
from collapse_bench.damage import damaged
from collapse_bench.evidence import NOTE
from collapse_bench.training.checkpoint import DIGEST

SUITE = """\
corpus: {{name: newswire, sentences: 60}}
architectures: [lstm]
sizes: {{embedding: 8, hidden: 8, latent: 4, layers: 1, heads: 2}}
training: {{budget: {budget}, batch: 16, validations: 5}}
evaluation: {{samples: 2}}
seeds: {seeds}
entries:
  vae: [often]
  inner: [often, {{aggressive_inference: {{window: 2, longest: 4}}}}, word_dropout]
  shared: [{{multi_rate: {{beta: {{sweep: [0.5, 1.0]}}}}}}, often]
"""
"""Four cells for a seed, of which two share a training."""

OFTEN = '''\
"""A remedy with a state that its losses depend on; its cells have checkpoints every moment."""

from dataclasses import dataclass, replace

from collapse_bench.model import SLOTS, plain
from collapse_bench.remedy import Remedy
from collapse_bench.training import checkpoint

checkpoint.SOONEST, checkpoint.EVERY, checkpoint.SHARE = 0.0, 0.1, float("inf")


@dataclass(frozen=True)
class Often(Remedy):
    """Every third update is of half its rate."""

    def step(self, step, run):
        run.state.setdefault("often", {"updates": 0})

        def counted(batch, *, only=SLOTS, then=plain):
            run.state["often"]["updates"] += 1
            if run.state["often"]["updates"] % 3:
                return step(batch, only=only, then=then)
            return step(
                batch, only=only, then=lambda f: then(replace(f, kl=0.5 * f.kl))
            )

        return counted
'''

ARGUMENTS = ("run", "toy.yaml", "--plugin", "often.py", "--workers", "2")

TIMES = (
    "attempts", "seconds", "training_seconds", "validation_seconds", "checkpoint_seconds",
    "peak_memory_mib",
)  # fmt: skip


def write(folder: Path, budget: int, seeds: Iterable[int]) -> Path:
    """The folder of a run, with a suite of four cells for each seed and its plugin."""
    folder.mkdir(parents=True)
    (folder / "toy.yaml").write_text(SUITE.format(budget=budget, seeds=list(seeds)))
    (folder / "often.py").write_text(OFTEN)
    return folder


def cells(folder: Path) -> dict[str, Path]:
    """The folders of the cells that have begun, by name."""
    found = (folder / "runs" / "toy").glob("*-*/")
    return {path.name: path for path in found if path.is_dir()}


def records(folder: Path) -> dict[str, dict[str, Any]]:
    """The records that there are, each of which is held against its digest."""
    found = ((name, path / record.RECORD) for name, path in cells(folder).items())
    return {name: record.read_record(path) for name, path in found if path.exists()}


def stamps(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """What tells whether a finished cell has been touched."""
    finished = [name for name, told in records(folder).items() if told["status"] == "done"]
    paths = {name: cells(folder)[name] / record.RECORD for name in finished}
    return {
        name: (path.stat().st_mtime_ns, path.stat().st_ino, path.read_bytes())
        for name, path in paths.items()
    }


def assert_whole(folder: Path) -> None:
    """Every file of every cell is one that was written to its end."""
    assert not (folder / "runs" / "toy" / record.QUARANTINE).exists()
    for path in cells(folder).values():
        assert damaged(path) == []
        if (path / record.MODEL).exists():
            load_file(path / record.MODEL)
        if (path / record.SENTENCES).exists():
            record.read_arrays(path)
        if (path / record.HISTORY).exists():
            for row in (path / record.HISTORY).read_text().splitlines():
                json.loads(row)
        if (path / record.VOCABULARY).exists():
            json.loads((path / record.VOCABULARY).read_text())
        for checkpoint in path.glob(record.CHECKPOINTS):
            try:
                content = checkpoint.read_bytes()
            except FileNotFoundError:  # of a cell that goes on, and has left a newer one
                continue
            told = content[-DIGEST:].decode()
            assert hashlib.sha256(content[:-DIGEST]).hexdigest() == told, checkpoint


def untimed(told: dict[str, Any]) -> dict[str, Any]:
    """A record without what differs from run to run."""
    cost = {name: value for name, value in told["cost"].items() if name not in TIMES}
    return told | {"attempts": None, "cost": cost}


def history(content: bytes) -> list[dict[str, Any]]:
    """The rows of a history without what differs from run to run."""
    return [{**json.loads(row), "seconds": None} for row in content.splitlines()]


def assert_same(one: Path, other: Path) -> None:
    """The cells of two runs ended alike, bit for bit."""
    first, second = records(one), records(other)
    assert first.keys() == second.keys()
    for name, told in first.items():
        assert untimed(told) == untimed(second[name]), name
        folders = cells(one)[name], cells(other)[name]
        for file in (record.MODEL, record.SENTENCES, record.VOCABULARY):
            assert len({(each / file).read_bytes() for each in folders}) == 1, (name, file)
        # One that shares a training has no history of its own.
        paths = [path for each in folders if (path := each / record.HISTORY).exists()]
        rows = [history(path.read_bytes()) for path in paths]
        assert rows[:1] == rows[1:], name
        # One that was killed right after its record has no note, which a page makes.
        one_names, other_names = ({each.name for each in f.iterdir()} - {NOTE} for f in folders)
        assert one_names == other_names, name
