"""Numbers and names of records as markdown that shows them and does nothing else."""

import math
import re
import unicodedata
from collections.abc import Sequence

from collapse_bench.leaderboard.statistics import MANY, Estimate

NONE = "–"


def clean(text: str) -> str:
    """One line without control, direction or unassigned characters; ? where nothing is left."""
    shown = "".join(
        c for c in str(text) if c.isspace() or not unicodedata.category(c).startswith("C")
    )
    return " ".join(shown.split()) or "?"


def escape(text: str) -> str:
    """Text of a record as markdown that shows it and does nothing else."""
    marked = re.sub(r"([\\|<>&\[\]()!`*~$#@]|:(?=//)|(?<=www)\.)", r"\\\1", clean(text))
    # What would begin a list where a line begins with it.
    marked = re.sub(r"^([0-9]*)([-+.])(?= |$)", r"\1\\\2", marked)
    # Inside a word an underscore means nothing, and names are easier to read without backslashes.
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", marked)


def number(value: float | None, digits: int = 2, sign: str = "") -> str:
    """A number for a table; null and NaN say so."""
    if value is None:
        return NONE
    if not math.isfinite(value):
        return "not finite"
    return f"{round(value, digits) + 0.0:{sign},.{digits}f}"  # + 0.0: never "-0.00"


def shown(estimate: Estimate | None, digits: int = 2, sign: str = "") -> str:
    """`mean ± half width` over fewer than ten seeds, `mean [low, high]` over more, and
    `value (standard error)` of a single one."""
    if estimate is None:
        return NONE
    text = number(estimate.mean, digits, sign)
    if estimate.error is not None:
        return f"{text} ({number(estimate.error, digits)})"
    if estimate.interval is None:
        return text
    low, high = estimate.interval
    if estimate.seeds < MANY:
        return f"{text} ± {number((high - low) / 2, digits)}"
    return f"{text} [{number(low, digits, sign)}, {number(high, digits, sign)}]"


def markdown(titles: Sequence[str], rows: Sequence[Sequence[str]], numeric: int = 99) -> list[str]:
    """A table padded so that its source reads as well; columns from `numeric` on align right."""
    # The rule of a column that aligns right has two characters, and without one there is no table.
    widths = [
        max(2 if place >= numeric else 1, *map(len, column))
        for place, column in enumerate(zip(titles, *rows, strict=True))
    ]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if place >= numeric else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = [f"{'-' * (w - 1)}{':' if i >= numeric else '-'}" for i, w in enumerate(widths)]
    return [line(titles), line(rule), *map(line, rows)]
