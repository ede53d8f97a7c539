"""The cells of a suite: each combination of an entry, an architecture and a seed."""

import copy
import fnmatch
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from collapse_bench.errors import UserError
from collapse_bench.suite.definition import (
    Architecture,
    CorpusSettings,
    Entry,
    Evaluation,
    Sizes,
    Suite,
    Training,
    budget_for,
)

BEFORE: dict[str, dict[str, Any]] = {
    "word_dropout": {"warmup": 0},
    "fitted_prior": {"network": "masked", "length": 8},
}
"""Of remedies that came to have a setting, the values with which they are as they were."""


@dataclass(frozen=True)
class Cell:
    """One training run: everything that a worker has to know."""

    suite: str
    entry: Entry
    architecture: Architecture
    seed: int
    corpus: CorpusSettings
    sizes: Sizes
    training: Training
    evaluation: Evaluation

    @property
    def name(self) -> str:
        """The cell as it is selected: entry/architecture/seed."""
        return f"{self.entry.name}/{self.architecture}/{self.seed}"

    def budget_for(self, corpus_name: str) -> int:
        """Return the cell's budget in decoded tokens: its entry's own, or the suite's."""
        if self.entry.budget is not None:
            return budget_for(self.entry.budget, corpus_name)
        return self.training.budget_for(corpus_name)


def cells_of(suite: Suite) -> list[Cell]:
    """Return the cells of a suite, seed by seed, so that every finished seed is a comparison."""
    return [
        Cell(
            suite.name,
            entry,
            architecture,
            seed,
            suite.corpus,
            suite.sizes if entry.latent is None else replace(suite.sizes, latent=entry.latent),
            suite.training,
            suite.evaluation,
        )
        for seed in suite.seeds
        for entry in suite.entries
        for architecture in suite.architectures
    ]


def trained_as(cell: Cell) -> Cell | None:
    """Return the cell whose training this one shares, at another value of a dial; or None."""
    entry = cell.entry.trained_as
    return None if entry is None else replace(cell, entry=entry)


def select(cells: Sequence[Cell], pattern: str) -> list[Cell]:
    """Return the cells whose name matches a shell pattern, such as `*/lstm/*`.

    Raises:
        UserError: No cell does.
    """
    chosen = [cell for cell in cells if fnmatch.fnmatchcase(cell.name, pattern)]
    if not chosen:
        there = "\n".join(f"  {cell.name}" for cell in cells)
        raise UserError(f"no cell matches the pattern {pattern!r}; there are:\n{there}")
    return chosen


def curves_of(suite: Suite) -> dict[str, list[str]]:
    """Return the names of the entries that each swept entry stands for, in the file's order."""
    curves: dict[str, list[str]] = {}
    for entry in suite.entries:
        if entry.sweep:
            curves.setdefault(entry.sweep.entry, []).append(entry.name)
    return curves


def identity(
    cell: Cell, corpus_name: str, corpus_sha256: str, labels_sha256: str | None, budget: int
) -> dict[str, Any]:
    """Return everything that determines the cell's result, ready for JSON.

    What the suite asked for gives way to what is really used: where the text was found is no
    part of the identity, its digest and that of its labels are; and of several budgets only the one
    that is spent.
    """
    return {
        "remedies": [asdict(remedy) for remedy in cell.entry.remedies],
        "architecture": cell.architecture,
        "seed": cell.seed,
        "corpus": {
            "name": corpus_name,
            "sha256": corpus_sha256,
            "labels": labels_sha256,
            "vocabulary": cell.corpus.vocabulary,
            "tokenizer": cell.corpus.tokenizer,
        },
        "told": cell.entry.told,
        "sizes": asdict(cell.sizes),
        "training": asdict(cell.training) | {"budget": budget},
        "evaluation": asdict(cell.evaluation),
    }


def cell_id(
    cell: Cell, corpus_name: str, corpus_sha256: str, labels_sha256: str | None, budget: int
) -> str:
    """Return the cell's id, which is also its folder: its name and a digest of its identity."""
    settings = identity(cell, corpus_name, corpus_sha256, labels_sha256, budget)
    return id_of(cell.entry.name, settings)


def id_of(entry: str, settings: Mapping[str, Any]) -> str:
    """Return the id of a cell of an entry from its identity, as a record carries it."""
    return f"{entry}-{settings['architecture']}-{settings['seed']}-{digest_of(settings)}"


def named(identifier: str) -> tuple[str, str, str] | None:
    """The entry, architecture and seed of the cell that has an id; None where it is none."""
    found = re.fullmatch(r"(.+)-([^-]+)-([0-9]+)-[0-9a-f]{8}", identifier)
    return None if found is None else (found[1], found[2], found[3])


def digest_of(settings: Mapping[str, Any]) -> str:
    """Return the 8 hex digits in which an identity ends the id of its cell.

    What is as it was before there was a setting leaves no trace in it, so that such a cell is the
    same as then: no labels, nothing told, Adam, a linear decay and the best weights, one thread,
    operations that need not repeat, no captures, no refined posteriors, remedies as `BEFORE`.

    Args:
        settings: as `identity` gives them, or as a record carries them; an older one may lack what
            there was not.
    """
    settings = {name: copy.deepcopy(part) for name, part in settings.items()}
    for part, name, before in (
        (settings["corpus"], "labels", (None,)),
        (settings, "told", (None,)),
        (settings["training"], "optimizer", ("adam",)),
        (settings["training"], "decay", ("linear",)),
        (settings["training"], "weights", ("best",)),
        (settings["training"], "threads", (None, 1)),
        (settings["training"], "deterministic", (False,)),
        (settings["training"], "captured", (False,)),
        (settings["evaluation"], "refinement", (0,)),
    ):
        if name in part and part[name] in before:
            del part[name]
    for remedy in settings["remedies"]:
        for name, value in BEFORE.get(remedy["name"], {}).items():
            if remedy["settings"].get(name) == value:
                del remedy["settings"][name]
    canonical = json.dumps(settings, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:8]


def belongs_to(suite: Suite) -> Callable[[Mapping[str, Any]], bool]:
    """Return what tells whether a record is of a cell as the suite defines it now, whatever its
    seed, budget and threads, which `run` may change.

    Raises:
        UserError: From what is returned: a record lacks what tells it.
    """
    cells = {(cell.entry.name, cell.architecture): cell for cell in cells_of(suite)}

    def belongs(record: Mapping[str, Any]) -> bool:
        try:
            cell = cells.get((record["entry"], record["architecture"]))
            if cell is None:
                return False
            told, corpus = record["settings"], record["corpus"]
            training = replace(cell.training, threads=told["training"].get("threads"))
            cell = replace(cell, seed=record["seed"], training=training)
            labels = told["corpus"].get("labels")
            same = cell_id(cell, corpus["name"], corpus["sha256"], labels, record["budget"])
            return bool(same == record["cell"])
        except (AttributeError, KeyError, TypeError) as error:
            raise UserError(
                f"{record.get('cell')}: its record does not tell of which cell it is"
                f" ({type(error).__name__}: {error}); remove it and run the suite again"
            ) from error

    return belongs
