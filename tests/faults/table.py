"""The rows that `scale.told` has noted as a table of markdown: `table.py ROWS > faults.md`."""

import json
import sys
from collections import Counter
from pathlib import Path

HEAD = """\
# Faults

What is done to the bench on purpose, and what comes of it; written by `make faults`, which fails
where something else comes of it than the tests of this folder say.

| what is done | how often | what was seen |
|---|--:|---|
"""


def table(rows: list[dict[str, str | int]]) -> str:
    """The page, in alphabetical order, since tests end in any; rows that say the same are one."""
    tried: Counter[tuple[str, str]] = Counter()
    for row in rows:
        tried[str(row["what"]), str(row["seen"])] += int(row["tried"])
    lines = [f"| {what} | {tried[what, seen]:,} | {seen} |\n" for what, seen in sorted(tried)]
    return HEAD + "".join(lines)


if __name__ == "__main__":
    noted = Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()
    sys.stdout.write(table([json.loads(line) for line in noted]))
