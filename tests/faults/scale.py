"""How much of the fault harness is tried, and where its figures go.

`make test` tries a part that takes seconds; `make faults` all of it, and writes `faults.md`.
"""

import json
import os
from pathlib import Path

FULL = os.environ.get("COLLAPSE_BENCH_FAULTS") == "full"
ROWS = os.environ.get("COLLAPSE_BENCH_FAULTS_ROWS")
"""File that `told` appends to; None where nobody asks for figures."""

MINUTES = 60.0
"""After which a test here that repeats something begins nothing more, and fails for want of it."""


def count(short: int, full: int) -> int:
    """How many are to be tried."""
    return full if FULL else short


def told(what: str, tried: int, seen: str) -> None:
    """Note a row of the table of figures.

    Args:
        what: was done to what.
        tried: how many times.
        seen: came of it.
    """
    if ROWS:
        row = json.dumps({"what": what, "tried": tried, "seen": seen})
        with Path(ROWS).open("a", encoding="utf-8") as file:
            file.write(row + "\n")
