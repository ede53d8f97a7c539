"""What tests of cells on other machines share: a small suite that can be held in its middle."""

import json
import time
from pathlib import Path

from collapse_bench.corpus import load_corpus
from collapse_bench.plugins import remedy_files
from collapse_bench.record import HISTORY, MODEL, SENTENCES, VOCABULARY, read_record
from collapse_bench.runner import plan
from collapse_bench.suite import cells_of, load_suite

PACED = '''\
"""A remedy that says when it is in the middle of its training, and is slow until it is let go."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from collapse_bench.model import SLOTS, plain
from collapse_bench.remedy import Remedy
from collapse_bench.training import checkpoint

checkpoint.SOONEST = 0.0  # the first validation of an attempt makes one due
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Paced(Remedy):
    def step(self, step, run):
        updates = 0

        def paced(batch, *, only=SLOTS, then=plain):
            nonlocal updates
            updates += 1
            if updates >= 15 and not (HERE / "go").exists():
                (HERE / f"{os.getpid()}.middle").touch()
                time.sleep(1.0)
            return step(batch, only=only, then=then)

        return paced
'''

SUITE = """\
corpus: {{name: newswire, sentences: 60}}
architectures: [lstm]
sizes: {{embedding: 8, hidden: 8, latent: 4, layers: 1, heads: 2}}
training: {{budget: {budget}, batch: 16, validations: 10, threads: 1}}
evaluation: {{samples: 2}}
seeds: [1]
entries:
{entries}
"""

TIMES = (
    "attempts", "seconds", "training_seconds", "validation_seconds", "checkpoint_seconds",
    "peak_memory_mib",
)  # fmt: skip


def write_suite(folder: Path, budget: int = 15000, **entries: str) -> None:
    lines = "\n".join(f"  {name}: {value}" for name, value in entries.items())
    (folder / "trial.yaml").write_text(SUITE.format(budget=budget, entries=lines))
    (folder / "paced.py").write_text(PACED)


def planned(folder: Path, out: str, *plugins: str):
    """The jobs of the suite in a folder, into another one there."""
    files = remedy_files([folder / name for name in ("paced.py", *plugins)])
    suite = load_suite(folder / "trial.yaml", files)
    corpus = load_corpus(suite.corpus, None, say=print)
    chosen = cells_of(suite)
    return plan(chosen, corpus, folder / out, budget=None, device="cpu", remedy_files=files)


def in_the_middle(folder: Path) -> set[int]:
    """The processes that have come to the middle."""
    return {int(path.stem) for path in folder.glob("*.middle")}


def until(found, seconds: float = 240):
    """What a function finds, as soon as it finds something."""
    deadline = time.monotonic() + seconds
    while not (it := found()):
        assert time.monotonic() < deadline, "it has not happened"
        time.sleep(0.05)
    return it


def same_results(one: Path, other: Path) -> None:
    """Two folders of a suite hold the same cells, to the last bit but for times and attempts."""
    cells = [{path.parent.name for path in each.glob("*/record.json")} for each in (one, other)]
    assert cells[0] == cells[1]
    assert cells[0]
    for cell in cells[0]:
        a, b = one / cell, other / cell
        assert _untimed(read_record(a / "record.json")) == _untimed(read_record(b / "record.json"))
        assert {path.name for path in a.iterdir()} == {path.name for path in b.iterdir()}
        for name in (MODEL, SENTENCES, VOCABULARY):
            assert (a / name).read_bytes() == (b / name).read_bytes(), name
        assert _history(a) == _history(b)


def _untimed(record):
    cost = {name: value for name, value in record["cost"].items() if name not in TIMES}
    return record | {"cost": cost, "attempts": None}


def _history(folder):
    """None for a cell that shares another one's training."""
    if not (folder / HISTORY).exists():
        return None
    rows = [json.loads(row) for row in (folder / HISTORY).read_text().splitlines()]
    return [row | {"seconds": 0} for row in rows]


def children(process: int) -> list[int]:
    """The processes that one has started and that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            told = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(told[1]) == process and told[0] != "Z":
            found.append(int(path.parent.name))
    return found


def descendants(process: int) -> list[int]:
    """All below a process, the nearest first."""
    nearest = children(process)
    return nearest + [each for child in nearest for each in descendants(child)]
