"""What a remedy's file says of it, read without running it: its docstring is its page."""

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from collapse_bench.errors import UserError
from collapse_bench.importing import definition_of, unannotated
from collapse_bench.plugins import BUILT_IN, LEVERS, class_name
from collapse_bench.settings import (
    Schema,
    class_variable_of_file,
    parsed,
    schema_of_file,
    shown,
)

READ = ("by_construction", "neutral", "architectures", "signature", "dial", "values")
CLASS_VARIABLES = (*READ, "small")
"""What a remedy's class may say of itself beside its settings."""

_ATTRIBUTE = re.compile(r" {4}(\w+(?:, \w+)*): (.*)")


@dataclass(frozen=True)
class Description:
    """A remedy as its file tells it.

    Attributes:
        name: what a suite calls it.
        path: its file.
        line: where in it the class begins.
        kind: the folder of a built-in remedy, "" of any other.
        levers: those that it overrides.
        source: the first line of the file, the method and where it is from.
        about: what else the file says of the method, "" if nothing.
        text: what it does and guarantees, the class's docstring without its attributes; "" if none.
        explained: what the docstring says of each setting.
        settings: by name, with annotation and default.
        by_construction: metrics that it sets or moves whatever is learned.
        neutral: settings under which it is the plain VAE; None if there are none.
        architectures: those that it is for; None if it is for all.
        signature: what becomes of a tiny model with it, by task; None where it does not say.
        dial: the setting that training ignores; None where there is none.
        values: whether it is for real-valued sequences only.
    """

    name: str
    path: Path
    line: int
    kind: str
    levers: tuple[str, ...]
    source: str
    about: str
    text: str
    explained: Mapping[str, str]
    settings: Schema
    by_construction: tuple[str, ...]
    neutral: Mapping[str, Any] | None
    architectures: tuple[str, ...] | None
    signature: Mapping[str, str] | None
    dial: str | None
    values: bool


def describe(name: str, path: Path) -> Description:
    """Return what a remedy's file says of it; it is shared, so look only.

    Raises:
        UserError: The file cannot be read, lacks the remedy's class, or has something in it that
            can only be known by running it.
    """
    # The tree is the same one until the file changes. A suite may name a remedy thousands of times.
    return _described(name, path, parsed(path))


@lru_cache(maxsize=256)
def _described(name: str, path: Path, tree: ast.Module) -> Description:
    settings = schema_of_file(path, class_name(name))
    node = definition_of(path, class_name(name))
    assert node is not None  # or the schema could not have been read
    if found := unannotated(node, CLASS_VARIABLES):
        raise UserError(no_setting(path, *found))
    source, _, about = (ast.get_docstring(tree) or "").partition("\n")
    text, explained = _parts(ast.get_docstring(node) or "")
    says: dict[str, Any] = {
        each: class_variable_of_file(path, class_name(name), each) for each in READ
    }
    metrics, neutral, architectures, signature, dial, values = says.values()
    if not isinstance(metrics, tuple | list | None):
        raise UserError(f"{path}: by_construction must be names of metrics, not {shown(metrics)}")
    for what, value in {"neutral": neutral, "signature": signature}.items():
        if not isinstance(value, dict | None):
            raise UserError(f"{path}: {what} must be a mapping by name, not {shown(value)}")
    if dial is not None and dial not in settings:
        raise UserError(f"{path}: dial must be the name of a setting, not {shown(dial)}")
    inside = path.is_relative_to(BUILT_IN)
    methods = {each.name for each in node.body if isinstance(each, ast.FunctionDef)}
    return Description(
        name=name,
        path=path,
        line=node.lineno,
        kind=path.parent.name if inside else "",
        levers=tuple(lever for lever in LEVERS if lever in methods),
        source=source,
        about=about.strip(),
        text=text,
        explained=explained,
        settings=settings,
        by_construction=tuple(map(str, metrics or ())),
        neutral=neutral,
        architectures=architectures if isinstance(architectures, tuple) else None,
        signature=signature,
        dial=None if dial is None else str(dial),
        values=values is True,
    )


def no_setting(path: Path, name: str, line: int) -> str:
    """Return what to say of a value in a remedy's class that has no annotation."""
    return (
        f"{path}:{line}: {name} has no annotation, so it is no setting: write {name}: float = ...,"
        f" or {name}: ClassVar[...] if it shall be none"
    )


def _parts(docstring: str) -> tuple[str, dict[str, str]]:
    """Split a docstring into its text and what it says of each attribute, in one line each."""
    text: list[str] = []
    explained: dict[str, str] = {}
    names: list[str] = []
    inside = False
    for line in docstring.splitlines():
        if line == "Attributes:":
            inside = True
        elif line and not line.startswith(" "):
            inside = False
        if not inside:
            text.append(line)
        elif found := _ATTRIBUTE.fullmatch(line):
            names = found[1].split(", ")
            explained |= dict.fromkeys(names, found[2])
        elif line.strip() and names:
            explained |= {name: f"{explained[name]} {line.strip()}" for name in names}
    return "\n".join(text).strip(), explained
