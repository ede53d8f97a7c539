"""How far a suite is, from the folder of its cells alone, so from any machine that sees it."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from collapse_bench.durations import in_words
from collapse_bench.errors import UserError
from collapse_bench.lease import Lease, read_lease
from collapse_bench.record import RECORD, decoded_by, read_record
from collapse_bench.suite import Suite, belongs_to, cells_of, named, trained_as

WORKING = ("training", "evaluating")
UNFINISHED = (*WORKING, "interrupted", "waiting", "damaged")
"""What a cell may be that has no outcome; all else is the status of its record."""


@dataclass(frozen=True)
class CellStatus:
    """What is known of a cell.

    Attributes:
        name: entry/architecture/seed.
        state: one of `UNFINISHED`, or the status that its record tells.
        tokens: decoded by now, in all attempts that were gone on from.
        budget: of decoded tokens.
        tokens_a_second: of the training; None where that is not known.
        told: who works on it, or what it ended with.
        shares: whether it is the training of another cell, at another value of a dial.
    """

    name: str
    state: str
    tokens: int
    budget: int
    tokens_a_second: float | None = None
    told: str = ""
    shares: bool = False

    @property
    def tokens_left(self) -> int:
        """That it will still train."""
        if self.shares or self.state == "evaluating" or self.state not in UNFINISHED:
            return 0
        return max(0, self.budget - self.tokens)

    @property
    def seconds_left(self) -> float | None:
        """That it will still train; None where that is not known."""
        if self.state != "training" or not self.tokens_a_second:
            return None
        return self.tokens_left / self.tokens_a_second


def status_of(
    suite: Suite, folder: Path, budget: int | None = None
) -> tuple[list[CellStatus], int]:
    """What is known of every cell of a suite, and of cells of it with other seeds or budgets.

    Args:
        suite: whose cells.
        folder: `runs/<suite>`, which may not exist.
        budget: of every cell; None is that of the suite.

    Returns:
        The cells, in the order of the suite; and how many there are that are called as they are,
        and are of other settings.
    """
    cells = cells_of(suite)
    budgets: dict[tuple[str, str], int] = {
        (cell.entry.name, cell.architecture): budget or cell.budget_for(suite.corpus.name)
        for cell in cells
    }
    sharing = {(cell.entry.name, cell.architecture) for cell in cells if trained_as(cell)}
    found: dict[str, list[CellStatus]] = {}
    left_out = 0
    for begun in _begun(suite, folder):
        left_out += not begun.belongs
        if begun.belongs and (each := _status(begun, budgets[begun.of[:2]])) is not None:
            each = replace(each, shares=begun.of[:2] in sharing)
            found.setdefault(each.name, []).append(each)
    for cell in cells:
        there = found.setdefault(cell.name, [])
        own = budgets[cell.entry.name, cell.architecture]
        if all(each.budget != own and each.state not in UNFINISHED for each in there):
            shares = trained_as(cell) is not None
            there.append(CellStatus(cell.name, "waiting", 0, own, shares=shares))
    order = {cell.name: place for place, cell in enumerate(cells)}
    return [
        each
        for name in sorted(found, key=lambda name: (order.get(name, len(order)), name))
        for each in found[name]
    ], left_out


@dataclass(frozen=True)
class _Begun:
    """The folder of a cell that is called as one of a suite.

    Attributes:
        of: its entry, architecture and seed.
        damage: what is wrong with its record.
        belongs: whether it is a cell as the suite defines it now, as far as that is told.
    """

    path: Path
    of: tuple[str, str, str]
    record: dict[str, Any] | None
    damage: str
    lease: Lease | None
    belongs: bool


def _begun(suite: Suite, folder: Path) -> Iterator[_Begun]:
    belongs = belongs_to(suite)
    kinds = {(cell.entry.name, cell.architecture) for cell in cells_of(suite)}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        of = named(path.name)
        if of is None or of[:2] not in kinds:
            continue
        record, damage = _record_of(path)
        lease = read_lease(path)
        if record is not None:
            its = belongs(record)
        else:
            its = lease is None or _may_belong(belongs, path.name, of[0], lease)
        yield _Begun(path, of, record, damage, lease, its)


def _record_of(folder: Path) -> tuple[dict[str, Any] | None, str]:
    """The record of a cell, or what is wrong with it."""
    path = folder / RECORD
    try:
        return (read_record(path) if path.exists() else None), ""
    except UserError as error:  # damaged, of another schema, or removed at this moment
        return None, str(error)


def _may_belong(
    belongs: Callable[[Mapping[str, Any]], bool], cell: str, entry: str, lease: Lease
) -> bool:
    """Whether somebody is, or was, at a cell as the suite defines it now, as far as a lease tells
    that."""
    settings = lease.settings
    told = {name: settings.get(name) for name in ("architecture", "seed", "corpus")}
    told |= {"cell": cell, "entry": entry, "settings": settings, "budget": lease.budget}
    try:
        return belongs(told)
    except UserError:
        return True


def _status(begun: _Begun, budget: int) -> CellStatus | None:
    """What a folder tells of its cell; None of one that has not begun."""
    name, record, lease = "/".join(begun.of), begun.record, begun.lease
    if lease and lease.alive:
        late = f", not heard of for {lease.age:.0f} s" if lease.age > 60 else ""
        return CellStatus(
            name, lease.phase, lease.tokens, lease.budget, lease.tokens_a_second,
            f"{lease.owner}{late}",
        )  # fmt: skip
    if record is not None:
        cost = record["cost"]
        rate = cost["tokens_decoded"] / cost["training_seconds"] if cost["training_seconds"] else 0
        why = (record["error"] or "").strip().splitlines()
        times = 1 + len(record.get("attempts", []))
        tried = f" (in {times} attempts)" if times > 1 and why else ""
        return CellStatus(
            name, record["status"], cost["tokens_decoded"], record["budget"], rate or None,
            f"{why[-1]}{tried}" if why else str(record["verdict"]),
        )  # fmt: skip
    if begun.damage:
        return CellStatus(name, "damaged", 0, budget, told=begun.damage)
    tokens = _interrupted_at(begun.path, lease)
    if tokens is None:
        return None
    owner = f"was with {lease.owner}" if lease else ""
    return CellStatus(name, "interrupted", tokens, lease.budget if lease else budget, told=owner)


def _interrupted_at(folder: Path, lease: Lease | None) -> int | None:
    """Tokens that the newest checkpoint has; 0 where an attempt left none, None without one."""
    tokens = decoded_by(folder)
    return (0 if lease else None) if tokens is None else tokens


HEAD = ("cell", "state", "tokens", "share", "tokens/s", "left", "")


def table(states: Sequence[CellStatus], width: int) -> list[str]:
    """The states as lines, the last of them about all.

    Args:
        states: as `status_of` gives them.
        width: of a line, in characters; what a cell ended with is cut to it.
    """
    rows = [HEAD]
    for each in states:
        share = min(1.0, each.tokens / each.budget) if each.budget else 0.0
        left, rate = each.seconds_left, each.tokens_a_second
        rows.append(
            (
                each.name,
                each.state,
                f"{each.tokens:,}",
                f"{share:.0%}",
                f"{rate:,.0f}" if rate else "",
                in_words(left) if left is not None else "",
                each.told,
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        name, state, *numbers, told = row
        cells = [name.ljust(widths[0]), state.ljust(widths[1])]
        cells += [text.rjust(size) for text, size in zip(numbers, widths[2:-1], strict=True)]
        lines.append("  ".join([*cells, told])[:width].rstrip())
    return [*lines, summary(states)]


def summary(states: Iterable[CellStatus]) -> str:
    """All cells in a line: how many there are of each state, and how long they still train."""
    states = list(states)
    counts = Counter(each.state for each in states)
    told = f"{len(states)} cells: " + ", ".join(f"{n} {state}" for state, n in counts.items())
    rate = sum(each.tokens_a_second or 0.0 for each in states if each.state == "training")
    left = sum(each.tokens_left for each in states)
    if rate and left:
        told += f"; about {in_words(left / rate)} of training left at {rate:,.0f} tokens/s"
    return told
