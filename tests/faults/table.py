"""The rows that `scale.told` has noted as a table of markdown: `table.py ROWS > faults.md`."""

import json
import sys
from pathlib import Path

HEAD = """\
# Faults

What is done to the bench on purpose, and what comes of it; written by `make faults`, which fails
where something else comes of it than the tests of this folder say. One row a test.

| what is done | how often | what was seen |
|---|--:|---|
"""


def table(rows: list[dict[str, str | int]]) -> str:
    """The page, its rows in alphabetical order: tests end in any."""
    lines = sorted(f"| {row['what']} | {row['tried']:,} | {row['seen']} |\n" for row in rows)
    return HEAD + "".join(lines)


if __name__ == "__main__":
    noted = Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()
    sys.stdout.write(table([json.loads(line) for line in noted]))
