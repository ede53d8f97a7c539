"""Records -> sections: the cells that may be compared with each other, and nothing beside them."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from collapse_bench.errors import UserError
from collapse_bench.leaderboard.checking import BOUNDS, check
from collapse_bench.leaderboard.statistics import Estimate, estimate
from collapse_bench.metrics import absent, key_of
from collapse_bench.plugins import LEVERS

LATE = 0.8
"""Share of the budget from which on selected weights count as those of the end."""

Record = Mapping[str, Any]
CellKey = tuple[str, str, int]  # entry, architecture, seed


@dataclass(frozen=True)
class Row:
    """One entry of one architecture.

    Attributes:
        lever: one of `LEVERS`, "none" (no remedy), "several", or "unknown".
        cells: seed -> record, None where there is none.
        language_model: seed -> finished record of the control without a latent, whose every
            finished cell is a valid bound.
        place: among the ranked rows, None where there is none.
    """

    entry: str
    architecture: str
    lever: str
    cells: Mapping[int, Record | None]
    language_model: Mapping[int, Record]
    place: int | None = None

    @property
    def done(self) -> list[Record]:
        """The finished records, by seed."""
        return list(finished(self.cells).values())

    @property
    def bound(self) -> str:
        """The worst of its finished cells, as in BOUNDS. That the suite tells a model something
        is known of a cell that did not finish, too."""
        known = [
            record["bound"]
            for record in self.cells.values()
            if record and (record["status"] == "done" or record.get("bound") == "oracle")
        ]
        return max(known, key=BOUNDS.index, default="valid")

    @property
    def apart(self) -> bool:
        """True if a finished cell is not a valid bound: not to be ranked, compared or counted."""
        return self.bound != "valid"

    @property
    def has_latent(self) -> bool:
        """False for a model without a latent, known once it has a record."""
        return all(record is None or record["latent"] > 0 for record in self.cells.values())

    @property
    def is_language_model(self) -> bool:
        """True for the control without a latent."""
        return not self.has_latent and not self.apart

    @property
    def own_budgets(self) -> list[int]:
        """Its budgets, decoded tokens, that are not the suite's; rising."""
        records = [record for record in self.cells.values() if record]
        return sorted({r["budget"] for r in records if r["budget"] != r["suite_budget"]})

    @property
    def scored_at(self) -> float | None:
        """The least share of its budget after which a finished seed's weights were selected, where
        that is below `LATE`."""
        at = [number_of(record, "validation", "tokens") for record in self.done]
        shares = [a / r["budget"] for a, r in zip(at, self.done, strict=True) if a is not None]
        return min((share for share in shares if share < LATE), default=None)

    @property
    def absent(self) -> dict[str, str]:
        """The metrics that its family of posteriors does not have -> the reason."""
        families = dict.fromkeys(record["family"] for record in self.done)
        return {name: why for family in families for name, why in absent(family).items()}

    def values(self, name: str) -> list[float | None]:
        """A metric of each finished seed; `name` is its plain name."""
        return [metric_of(record, name) for record in self.done]

    def metric(self, name: str) -> Estimate | None:
        """A metric over the finished seeds."""
        errors = [number_of(record, "standard_errors", key_of(name)) for record in self.done]
        return estimate(self.values(name), *errors[:1])

    def cost(self, name: str, unit: float = 1) -> float | None:
        """A cost in some unit, mean over the finished seeds."""
        costs = [number_of(record, "cost", name) for record in self.done]
        known = [cost for cost in costs if cost is not None]
        return sum(known) / len(known) / unit if known and len(known) == len(costs) else None

    def differences(self, other: Mapping[int, Record], name: str) -> list[float | None]:
        """A metric minus that of other records, of each seed that both finished."""
        pairs = [
            (metric_of(record, name), metric_of(other[seed], name))
            for seed, record in finished(self.cells).items()
            if seed in other
        ]
        return [None if ours is None or its is None else ours - its for ours, its in pairs]

    def gap(self) -> Estimate | None:
        """NLL minus the language model's, seed by seed over the seeds that both finished."""
        return estimate(self.differences(self.language_model, "nll"))

    def holds_by_construction(self, name: str) -> bool:
        """True if a remedy of this entry sets or moves a metric whatever the model learns."""
        return any(name in (record.get("by_construction") or []) for record in self.done)


@dataclass(frozen=True)
class Section:
    """All cells of one corpus, one digest of its text and of its labels, one vocabulary and one
    budget of the suite, whatever budgets single entries have of their own.

    `vocabulary` is in JSON, as records have it; of values it tells channels in place of types.
    """

    corpus: str
    sha256: str
    vocabulary: str
    labels: str
    budget: int
    records: tuple[Record, ...]
    rows: tuple[Row, ...]

    @property
    def title(self) -> str:
        """Corpus, types or channels, and budget: what tells most sections apart."""
        tokens = json.loads(self.vocabulary)
        if self.of_values:
            return f"{self.corpus}, {channels(tokens['channels'])}, {self.budget:,} steps"
        return f"{self.corpus}, {tokens['types']:,} types, {self.budget:,} tokens"

    @property
    def of_values(self) -> bool:
        """Whether its corpus is one of real-valued sequences."""
        return "channels" in json.loads(self.vocabulary)

    @property
    def architectures(self) -> list[str]:
        """In the order of the suite."""
        return list(dict.fromkeys(row.architecture for row in self.rows))

    def rows_of(self, architecture: str) -> list[Row]:
        """The rows of one architecture, as in the suite."""
        return [row for row in self.rows if row.architecture == architecture]

    def compared(self, architecture: str) -> list[Row]:
        """The same without those that are shown apart."""
        return [row for row in self.rows_of(architecture) if not row.apart]


def number_of(record: Record, part: str, name: str) -> float | None:
    """`record[part][name]` if it is a number; None if it is null or absent."""
    value = (record.get(part) or {}).get(name)
    return float(value) if isinstance(value, int | float) else None


def metric_of(record: Record, name: str) -> float | None:
    """A metric by plain name, if the record has it in the version that this package computes."""
    return number_of(record, "metrics", key_of(name))


def finished(cells: Mapping[int, Record | None]) -> dict[int, Record]:
    """The cells whose record says done."""
    return {seed: record for seed, record in cells.items() if record and record["status"] == "done"}


def ceiling(record: Record) -> float:
    """ln N, which no mutual information measured on N test sentences can exceed, in nats."""
    return math.log(max(1, record["corpus"]["sentences"]["test"]))


def plain_vae(rows: Iterable[Row]) -> Row | None:
    """The first row with a latent and no remedy that has finished a cell and is not apart."""
    plain = (r for r in rows if r.lever == "none" and r.has_latent and r.done and not r.apart)
    return next(plain, None)


def other_versions(record: Record) -> list[str]:
    """Metrics, by plain name, that a record has only in a version other than the present one."""
    metrics = record.get("metrics") or {}
    return sorted({name for key in metrics if (name := _superseded(key, metrics)) is not None})


def _superseded(key: str, metrics: Mapping[str, Any]) -> str | None:
    name = str(key).rpartition("@")[0] or str(key)
    try:
        return None if key_of(name) in metrics else name
    except KeyError:  # a metric that there is no more
        return None


def group_of(record: Record) -> tuple[str, str, str, str, int]:
    """What cells have to have in common to be compared, as the fields of a section.

    The digest of a text knows nothing of what becomes of its words nor of its labels.
    """
    corpus = record["corpus"]
    return (
        corpus["name"],
        corpus["sha256"],
        json.dumps(tokens_of(corpus), sort_keys=True),
        str(corpus.get("labels_sha256") or ""),
        record["suite_budget"],
    )


def channels(count: int) -> str:
    """How many numbers a step has."""
    return f"{count} channel{'s' * (count > 1)}"


def tokens_of(corpus: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the tokens of a corpus are: its vocabulary, or how many channels its values have."""
    of_values = {name: corpus[name] for name in ("channels", "steps") if name in corpus}
    return corpus["vocabulary"] or of_values


def sections_of(expected: Sequence[CellKey], records: Iterable[Record]) -> list[Section]:
    """Sort records into sections, with a row for every expected cell, whether it ran or not.

    Raises:
        UserError: a record is unreadable, or two records claim the same cell of a section.
    """
    groups: dict[tuple[str, str, str, str, int], dict[CellKey, Record]] = {}
    everything = []
    for record in records:
        check(record)
        everything.append(record)
        group = group_of(record)
        key = (record["entry"], record["architecture"], record["seed"])
        twin = groups.setdefault(group, {}).setdefault(key, record)
        if twin is not record:
            first, second = sorted(
                f"{each['cell']} (threads: {(each.get('environment') or {}).get('threads')})"
                for each in (twin, record)
            )
            raise UserError(
                f"{first} and {second} are both {'/'.join(map(str, key))} with the same corpus and"
                " suite's budget: remove the one that the suite no longer describes, or that was"
                " run with another number of threads"
            )
    # A cell that failed early has not recorded its levers; one that did overrules it.
    everything.sort(key=lambda record: (lever_of(record) != "unknown", record["cell"]))
    levers = {record["entry"]: lever_of(record) for record in everything}
    return [
        Section(
            *group, tuple(cells[key] for key in sorted(cells)), rows_of(expected, cells, levers)
        )
        for group, cells in sorted(groups.items())
    ]


def rows_of(
    expected: Sequence[CellKey], cells: Mapping[CellKey, Record], levers: Mapping[str, str]
) -> tuple[Row, ...]:
    """The rows of a section, by architecture and place in the suite."""
    seeds: dict[tuple[str, str], dict[int, Record | None]] = {}
    # Seeds and entries beyond the suite's are shown too: a record is never hidden.
    for entry, architecture, seed in [*expected, *sorted(cells.keys() - set(expected))]:
        cell = cells.get((entry, architecture, seed))
        seeds.setdefault((architecture, entry), {})[seed] = cell
    controls: dict[str, Mapping[int, Record]] = {}
    for (architecture, _), by_seed in seeds.items():
        done = finished(by_seed)
        # A language model that is told something, or that is none, is nobody's reference.
        valid = all(record["bound"] == "valid" for record in done.values())
        if valid and any(record["latent"] == 0 for record in done.values()):
            controls.setdefault(architecture, done)
    rows = [
        Row(
            entry,
            architecture,
            levers.get(entry, "unknown"),
            by_seed,
            controls.get(architecture, {}),
        )
        for (architecture, entry), by_seed in seeds.items()
    ]
    order = {
        name: place for place, name in enumerate(dict.fromkeys(row.architecture for row in rows))
    }
    rows.sort(key=lambda row: order[row.architecture])
    return tuple(rows)


def lever_of(record: Record) -> str:
    """The lever that an entry's remedies use, as in `Row`."""
    if not record.get("remedies"):
        return "none"
    levers = record.get("levers") or ["unknown"]
    if len(levers) > 1:
        return "several"
    return levers[0] if levers[0] in LEVERS else "unknown"
