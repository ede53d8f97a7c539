"""What was found as JSON and as a page to read, written anew after every step."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness import Found


def write(found: Sequence[Found], head: dict[str, Any], out: Path) -> None:
    """Write gpu.json and gpu.md; a reader sees the whole of either or the one before.

    Args:
        found: of the steps so far.
        head: what holds for all of them.
        out: an existing folder.
    """
    everything = {"head": head, "steps": {each.step.name: asdict(each) for each in found}}
    _replace(out / "gpu.json", json.dumps(everything, indent=1, default=str) + "\n")
    _replace(out / "gpu.md", page(found, head))


def page(found: Sequence[Found], head: dict[str, Any]) -> str:
    """The figures as markdown."""
    lines = ["# What only a GPU can tell", "", *(f"- {k}: {_shown(v)}" for k, v in head.items())]
    for each in found:
        lines += ["", f"## {each.step.name}: {each.step.question}", ""]
        lines.append(f"{each.status} in {each.seconds:.1f} s")
        if each.error:
            lines += ["", "```", each.error.strip(), "```"]
        if each.facts:
            lines += ["", *(f"- {name}: {_shown(value)}" for name, value in each.facts.items())]
        if each.rows:
            lines += ["", *_table(each.rows)]
    return "\n".join(lines) + "\n"


def _table(rows: Sequence[dict[str, Any]]) -> list[str]:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return [
        f"| {' | '.join(columns)} |",
        f"|{'---|' * len(columns)}",
        *(f"| {' | '.join(_shown(row.get(c, '')) for c in columns)} |" for row in rows),
    ]


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value).replace("|", "\\|")


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, "utf-8")
    os.replace(temporary, path)
