"""Rows -> markdown tables."""

from collections.abc import Iterable, Sequence

from collapse_bench.leaderboard.columns import (
    BEYOND_A_RECORD,
    BOUND_IN_WORDS,
    MAIN,
    TOLD_OF_WHAT,
    Column,
    measured,
    of_diagnostics,
)
from collapse_bench.leaderboard.markdown import escape, markdown, number
from collapse_bench.leaderboard.marks import MARKS, named
from collapse_bench.leaderboard.ranking import Group
from collapse_bench.leaderboard.section import Record, Row, number_of, other_versions
from collapse_bench.metrics import VERDICTS, absent, key_of

ABOUT = "information_about_"


def main_table(groups: Sequence[Group]) -> list[str]:
    """The table of one architecture, a line above each group that says what it is."""
    lines: list[list[str]] = []
    for group in groups:
        if group.title:
            lines.append(["", f"**{group.title}**", *[""] * (len(MAIN) - 2)])
        lines += [[column.text(row) for column in MAIN] for row in group.rows]
    return markdown([column.title for column in MAIN], lines, numeric=4)


def reasons(rows: Iterable[Row]) -> list[str]:
    """Why rows are shown apart: a line for each reason of each row, with the seeds it is of."""
    lines = []
    for row in rows:
        seeds: dict[str, list[int]] = {}
        for record in row.done:
            if record["bound"] != "valid":
                told = "; ".join(escape(why) for why in record["bound_reasons"]) or "no reason told"
                words = f"{BOUND_IN_WORDS[record['bound']]}: {told}"
                seeds.setdefault(words, []).append(record["seed"])
        for words, numbers in seeds.items():
            seed = f"seed{'s' * (len(numbers) > 1)} {', '.join(map(str, sorted(numbers)))}"
            lines.append(f"- {named(row)} ({seed}): {words}")
    return lines


def told_of_what(rows: Iterable[Row]) -> list[str]:
    """The table that takes the headline of one architecture apart."""
    lines = [[column.text(row) for column in TOLD_OF_WHAT] for row in rows]
    return markdown([column.title for column in TOLD_OF_WHAT], lines, numeric=1)


def diagnostics(rows: Sequence[Row]) -> list[str]:
    """The last table of one architecture: what to look at before believing the first."""
    columns = of_diagnostics(rows)
    lines = [[column.text(row) for column in columns] for row in rows]
    return markdown([column.title for column in columns], lines, numeric=1)


def attributes(rows: Sequence[Row]) -> list[str]:
    """What z tells of each known attribute of a sentence; empty where none is known."""
    found = sorted({key for row in rows for record in row.done for key in record["metrics"]})
    names = [str(key).rpartition("@")[0] for key in found if str(key).startswith(ABOUT)]
    names = [name for name in dict.fromkeys(names) if key_of(name) in found]
    if not names:
        return []
    columns = ["global_information_share", *names]
    lines = [
        [named(row), *(measured(row, name) for name in columns)] for row in rows if row.has_latent
    ]
    records = [record for row in rows for record in row.done if record.get("label_entropy")]
    if records:  # older ones do not tell
        known = [number_of(records[0], "label_entropy", name.removeprefix(ABOUT)) for name in names]
        lines.insert(0, ["*all there is to know*", "1.00", *(number(nats) for nats in known)])
    titles = ["entry", "share", *(escape(name.removeprefix(ABOUT)) for name in names)]
    return markdown(titles, lines, numeric=1)


def legend(columns: Iterable[Column]) -> list[str]:
    """What every column means and what it cannot see."""
    return markdown(
        ["column", "unit", "meaning", "cannot see"],
        [[f"**{c.title}**", c.unit, c.meaning, c.blind] for c in columns],
    )


def signs() -> list[str]:
    """What the marks and the verdicts mean that the tables can show."""
    told = {name: meaning for name, meaning in VERDICTS.items() if name != BEYOND_A_RECORD}
    return [
        *(f"- {mark} {meaning}." for mark, meaning in MARKS.items()),
        *(f"- *{name}*: {meaning}." for name, meaning in told.items()),
    ]


def not_of_a_family(rows: Iterable[Row]) -> list[str]:
    """The metrics that do not exist for the families of posteriors of these rows, with the reason;
    empty where all exist."""
    families = {record["family"] for row in rows for record in row.done if record["latent"]}
    lines = [
        [escape(family), escape(name), escape(why)]
        for family in sorted(families)
        for name, why in absent(family).items()
    ]
    return markdown(["family", "metric", "why it has none"], lines) if lines else []


def outdated(rows: Iterable[Row]) -> list[str]:
    """Every finished cell with a metric of another version than the present one."""
    lines = [
        [escape(record["cell"]), escape(", ".join(names))]
        for row in rows
        for record in row.done
        if (names := other_versions(record))
    ]
    return markdown(["cell", "metrics"], lines) if lines else []


def unfinished(rows: Sequence[Row]) -> list[str]:
    """Every cell without a result, with the last line of its error; empty if there is none."""
    seeds: dict[tuple[str, str, str, str], list[int]] = {}
    for row in rows:
        for seed, record in row.cells.items():
            status = record["status"] if record else "missing"
            if status != "done":
                error = last_line(record) if record else "no record"
                key = (escape(row.entry), escape(row.architecture), escape(status), error)
                seeds.setdefault(key, []).append(seed)
    lines = [
        [entry, architecture, ", ".join(map(str, sorted(numbers))), status, error]
        for (entry, architecture, status, error), numbers in seeds.items()
    ]
    titles = ["entry", "architecture", "seeds", "status", "last line of its error"]
    return markdown(titles, lines) if lines else []


def last_line(record: Record) -> str:
    """The last line of a record's error, which in a traceback says what happened."""
    lines = str(record.get("error") or "").strip().splitlines()
    line = lines[-1] if lines else "no error was recorded"
    return escape(line if len(line) <= 200 else f"{line[:200]} ...")
