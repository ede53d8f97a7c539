"""Records -> sections: the cells that may be compared with each other, and nothing beside them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from collapse_bench.errors import UserError
from collapse_bench.leaderboard.statistics import Estimate, estimate
from collapse_bench.record import SCHEMA

Record = Mapping[str, Any]
CellKey = tuple[str, str, int]  # entry, architecture, seed

KINDS = {
    "controls": "controls",
    "build": "build (what the model is)",
    "objective": "objective (how much each term counts)",
    "step": "step (which part is updated when)",
    "several levers": "several levers",
    "unknown": "lever not known yet",
}
FIELDS = dict.fromkeys(("cell", "entry", "architecture", "status"), str)
NUMBERS = dict.fromkeys(("seed", "budget", "latent"), int)
CORPUS_FIELDS = {"name": str, "requested": str, "sha256": str, "sentences": dict, "tokens": dict}


@dataclass(frozen=True)
class Row:
    """One entry of one architecture.

    Attributes:
        kind: a key of KINDS.
        cells: seed -> record, None where there is none.
        language_model: seed -> finished record of the control without a latent.
    """

    entry: str
    architecture: str
    kind: str
    cells: Mapping[int, Record | None]
    language_model: Mapping[int, Record]

    @property
    def done(self) -> list[Record]:
        """The finished records, by seed."""
        return list(finished(self.cells).values())

    @property
    def is_language_model(self) -> bool:
        """True for the control without a latent, known once it has a record."""
        return any(record and record["latent"] == 0 for record in self.cells.values())

    def metric(self, name: str) -> Estimate | None:
        """A metric over the finished seeds."""
        errors = [number_of(record, "standard_errors", name) for record in self.done]
        return estimate([number_of(r, "metrics", name) for r in self.done], *errors[:1])

    def cost(self, name: str, unit: float = 1) -> float | None:
        """A cost in some unit, mean over the finished seeds."""
        cost = estimate([number_of(record, "cost", name) for record in self.done])
        return cost.mean / unit if cost else None

    def gap(self) -> Estimate | None:
        """NLL minus the language model's, seed by seed over the seeds that both finished."""
        differences: list[float | None] = []
        for seed, record in finished(self.cells).items():
            if control := self.language_model.get(seed):
                ours, theirs = (number_of(r, "metrics", "nll") for r in (record, control))
                differences.append(None if ours is None or theirs is None else ours - theirs)
        return estimate(differences)


@dataclass(frozen=True)
class Section:
    """All cells of one corpus, one digest of it and one budget."""

    corpus: str
    sha256: str
    budget: int
    records: tuple[Record, ...]
    rows: tuple[Row, ...]

    @property
    def architectures(self) -> list[str]:
        """In the order of the suite."""
        return list(dict.fromkeys(row.architecture for row in self.rows))

    def rows_of(self, architecture: str) -> list[Row]:
        """The rows of one table: controls first, then by lever, then as in the suite."""
        return [row for row in self.rows if row.architecture == architecture]


def number_of(record: Record, part: str, name: str) -> float | None:
    """`record[part][name]` if it is a number; None if it is null or absent."""
    value = (record.get(part) or {}).get(name)
    return float(value) if isinstance(value, int | float) else None


def finished(cells: Mapping[int, Record | None]) -> dict[int, Record]:
    """The cells whose record says done."""
    return {seed: record for seed, record in cells.items() if record and record["status"] == "done"}


def ceiling(record: Record) -> float:
    """ln N, which no mutual information measured on N test sentences can exceed, in nats."""
    return math.log(max(1, record["corpus"]["sentences"]["test"]))


def check(record: Record) -> None:
    """Raise UserError unless the record is one that this version can read."""
    cell = record.get("cell", "a record without a cell id")
    if record.get("schema") != SCHEMA:
        raise UserError(
            f"{cell}: its record has schema {record.get('schema')!r}, but this collapse_bench knows"
            f" schema {SCHEMA}; run the cell again or use the version that wrote it"
        )
    corpus = record.get("corpus")
    nested = corpus if isinstance(corpus, Mapping) else {}
    for part, fields in ((record, FIELDS), (record, NUMBERS), (nested, CORPUS_FIELDS)):
        for name, kind in fields.items():
            if not isinstance(part.get(name), kind):
                raise UserError(
                    f"{cell}: '{name}' in its record should be a {kind.__name__},"
                    f" got {part.get(name)!r}; remove the cell's folder and run it again"
                )


def sections_of(expected: Sequence[CellKey], records: Iterable[Record]) -> list[Section]:
    """Sort records into sections, with a row for every expected cell, whether it ran or not.

    Raises:
        UserError: a record is unreadable, or two records claim the same cell of a section.
    """
    groups: dict[tuple[str, str, int], dict[CellKey, Record]] = {}
    everything = []
    for record in records:
        check(record)
        everything.append(record)
        group = (record["corpus"]["name"], record["corpus"]["sha256"], record["budget"])
        key = (record["entry"], record["architecture"], record["seed"])
        twin = groups.setdefault(group, {}).setdefault(key, record)
        if twin is not record:
            first, second = sorted((twin["cell"], record["cell"]))
            raise UserError(
                f"{first} and {second} are both {'/'.join(map(str, key))} with the same corpus and"
                " budget: remove the one that the suite no longer describes"
            )
    # A cell that failed early has not recorded its levers; one that did overrules it.
    everything.sort(key=lambda record: (kind_of(record) != "unknown", record["cell"]))
    kinds = {record["entry"]: kind_of(record) for record in everything}
    return [
        Section(*group, tuple(cells[key] for key in sorted(cells)), rows_of(expected, cells, kinds))
        for group, cells in sorted(groups.items())
    ]


def rows_of(
    expected: Sequence[CellKey], cells: Mapping[CellKey, Record], kinds: Mapping[str, str]
) -> tuple[Row, ...]:
    """The rows of a section, by architecture, lever and place in the suite."""
    seeds: dict[tuple[str, str], dict[int, Record | None]] = {}
    # Seeds and entries beyond the suite's are shown too: a record is never hidden.
    for entry, architecture, seed in [*expected, *sorted(cells.keys() - set(expected))]:
        cell = cells.get((entry, architecture, seed))
        seeds.setdefault((architecture, entry), {})[seed] = cell
    controls: dict[str, Mapping[int, Record]] = {}
    for (architecture, _), by_seed in seeds.items():
        done = finished(by_seed)
        if any(record["latent"] == 0 for record in done.values()):
            controls.setdefault(architecture, done)
    rows = [
        Row(
            entry,
            architecture,
            kinds.get(entry, "unknown"),
            by_seed,
            controls.get(architecture, {}),
        )
        for (architecture, entry), by_seed in seeds.items()
    ]
    order = {
        name: place for place, name in enumerate(dict.fromkeys(row.architecture for row in rows))
    }
    kind = list(KINDS).index
    rows.sort(key=lambda r: (order[r.architecture], kind(r.kind), not r.is_language_model))
    return tuple(rows)


def kind_of(record: Record) -> str:
    """The lever that an entry's remedies use, as a key of KINDS."""
    if not record.get("remedies"):
        return "controls"
    levers = record.get("levers") or ["unknown"]
    if len(levers) > 1:
        return "several levers"
    return levers[0] if levers[0] in KINDS else "unknown"
