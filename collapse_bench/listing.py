"""Remedies in a table, one by one, and on the page docs/remedies.md, as their files tell them."""

import json
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from collapse_bench.description import Description
from collapse_bench.plugins import BUILT_IN, KINDS, summary_of
from collapse_bench.settings import Setting, rule_of

WIDTH = 100
TITLES = ("remedy", "lever", "from", "set by construction")
COLUMNS = (25, 16, 32, 24)

INTRODUCTION = """\
# Remedies

All that are built in, {count} of them, by the kind of cure, and each as its own file tells it. \
What a remedy sets *by construction* says nothing of what was learned; the leaderboard marks it §. \
A *signature* is [what becomes of a tiny model](adding-a-remedy.md#the-signature) with it. \
`python -m collapse_bench list remedies` has this table, `list remedies NAME` one of them, and \
`list remedies --page` writes this page. [A remedy of your own](adding-a-remedy.md) is one file.
"""


def table(remedies: Sequence[Description]) -> str:
    """Return a table for a terminal: of each kind its remedies, with those of others at the end."""
    lines = _row(TITLES)
    for kind, those in of_kinds(remedies).items():
        lines += ["", f"{kind}: {_of_kind(kind)}" if kind else "not built in"]
        for each in those:
            lines += _row(
                (each.name, ", ".join(each.levers), each.source, ", ".join(each.by_construction))
            )
    return "\n".join(lines)


def page(remedies: Sequence[Description]) -> str:
    """Return the page of the built-in remedies, Markdown: one table, then a section each."""
    kinds = of_kinds(remedies)
    lines = [INTRODUCTION.format(count=len(remedies))]
    lines += [f"- [{kind}](#{kind}): {_of_kind(kind)}" for kind in kinds]
    lines += ["", _markdown_row(("kind", *TITLES)), "|---" * (len(TITLES) + 1) + "|"]
    for kind, those in kinds.items():
        for each in those:
            name = f"[{each.name}](#{each.name})"
            moved = ", ".join(f"`{metric}`" for metric in each.by_construction)
            lines.append(_markdown_row((kind, name, ", ".join(each.levers), each.source, moved)))
    for kind, those in kinds.items():
        lines += ["", f"## {kind}", "", _of_kind(kind)]
        for each in those:
            inside = each.path.relative_to(BUILT_IN)
            link = f"[{inside}](../collapse_bench/remedies/{inside})"
            lines += ["", f"### {each.name}", "", _escaped(section(each, link))]
    return "\n".join(lines) + "\n"


def section(remedy: Description, where: str) -> str:
    """Return all that a remedy's file says of it: where it is from, what it does, its settings.

    Args:
        remedy: the remedy.
        where: its file, as the reader gets at it.
    """
    moved, levers = (
        ", ".join(f"`{each}`" for each in names)
        for names in (remedy.by_construction, remedy.levers)
    )
    plain = "no setting is the plain VAE"
    if remedy.neutral is not None:
        plain = f"the plain VAE is `{_mapping(remedy.neutral)}`"
    only = f" For {', '.join(remedy.architectures)} only." if remedy.architectures else ""
    dial = f" Dial: `{remedy.dial}`." if remedy.dial else ""
    became = f" Signature: {_mapping(remedy.signature)}." if remedy.signature else ""
    facts = f"Lever: {levers}. By construction: {moved or 'nothing'}; {plain}.{only}{dial}{became}"
    facts += f" File: {where}"
    settings = [_setting(each, remedy.explained) for each in remedy.settings.values()]
    parts = [remedy.source, remedy.about, remedy.text, "\n".join(settings), facts]
    return "\n\n".join(filter(None, parts))


def of_kinds(remedies: Sequence[Description]) -> dict[str, list[Description]]:
    """Return remedies by kind, in the order of pages, each kind by name; "" are other people's."""
    return {
        kind: those
        for kind in (*KINDS, "")
        if (those := sorted((r for r in remedies if r.kind == kind), key=lambda r: r.name))
    }


def _of_kind(kind: str) -> str:
    return summary_of(BUILT_IN / kind / "__init__.py")


def _setting(setting: Setting, explained: Mapping[str, str]) -> str:
    default = json.dumps(setting.default, ensure_ascii=False)
    told = f"- `{setting.name}` (default {default}; {rule_of(setting.annotation).words})"
    if setting.name in explained:
        told += f": {explained[setting.name]}"
    return textwrap.fill(
        told, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )


def _mapping(values: Mapping[str, Any]) -> str:
    """Return settings as a suite writes them."""
    return f"{{{', '.join(f'{name}: {json.dumps(value)}' for name, value in values.items())}}}"


def _row(cells: Sequence[str]) -> list[str]:
    """Return the lines of a row of the terminal's table; a cell goes on below itself."""
    wrapped = [
        textwrap.wrap(cell, width, break_long_words=False, break_on_hyphens=False)
        for cell, width in zip(cells, COLUMNS, strict=True)
    ]
    return [
        " ".join(f"{cell:{width}}" for cell, width in zip(line, COLUMNS, strict=True)).rstrip()
        for line in zip_longest(*wrapped, fillvalue="")
    ]


def _markdown_row(cells: Sequence[str]) -> str:
    inside = " | ".join(_escaped(cell).replace("|", r"\|") for cell in cells)
    return f"| {inside} |"


def _escaped(text: str) -> str:
    """Return text in which no <word> is taken for HTML; code is left as it is."""
    return "\n".join(_escaped_lines(text))


def _escaped_lines(text: str) -> Iterator[str]:
    for line in text.split("\n"):
        if line.startswith("    "):  # code, such as a formula
            yield line
        else:
            parts = re.split(r"(`[^`]*`)", line)
            yield "".join(
                part if part.startswith("`") else re.sub(r"<(?=[\w/!?])", r"\\<", part)
                for part in parts
            )
