"""YAML that lists and never computes, with the line of everything in it.

The part of YAML 1.2 that a suite needs: mappings, lists, texts, numbers, true, false and null.
Anchors, aliases, tags and merge keys are refused, and so is a file that is too large or too deep
to have been written by hand. Values are built from the events of PyYAML's parser, because its
loaders follow YAML 1.1, where 1e-3 is a text, no is false, and a repeated key silently wins.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import yaml

from collapse_bench.errors import SuiteError
from collapse_bench.settings import cut, shown

MAX_BYTES = 256 * 1024
MAX_DEPTH = 20
MAX_NODES = 10_000
MAX_PROBLEMS = 100

_WORDS = {"": None, "~": None, "null": None, "true": True, "false": False}
_INT = re.compile(r"[-+]?[0-9]{1,18}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


class Section(dict[str, Any]):
    """A mapping that knows the line on which it starts, and the line of each of its keys."""

    def __init__(self, line: int) -> None:
        self.line = line
        self.lines: dict[str, int] = {}


class Items(list[Any]):
    """A list that knows the line on which it starts, and the line of each of its items."""

    def __init__(self, line: int) -> None:
        self.line = line
        self.lines: list[int] = []


@dataclass(frozen=True)
class Report:
    """What is wrong with one file; collected first, so that everything can be told at once."""

    path: Path
    problems: list[tuple[int, str]] = field(default_factory=list)

    def add(self, line: int, text: str) -> None:
        """Note a problem and go on.

        Raises:
            SuiteError: There are `MAX_PROBLEMS`, which is as many as anybody reads at once.
        """
        self.problems.append((line, text))
        if len(self.problems) >= MAX_PROBLEMS:
            raise self.error()

    def stop(self, line: int, text: str) -> NoReturn:
        """Note a problem after which nothing more can be read."""
        self.add(line, text)
        raise self.error()

    def error(self) -> SuiteError:
        """Return the error that tells all problems, in the order of their lines."""
        in_order = sorted(self.problems, key=lambda problem: problem[0])
        told = [f"{self.path}:{line}: {text}" for line, text in in_order]
        if len(told) >= MAX_PROBLEMS:
            told.append(
                f"{self.path}: {len(told)} problems, and no more are told; mend these first"
            )
        return SuiteError(told)


def read_yaml(report: Report) -> Section:
    """Return the mapping that the report's file holds.

    Raises:
        SuiteError: The file cannot be read on; problems that leave the rest readable (repeated
            keys, anchors, tags) only go into the report.
    """
    events = _events(_text(report), report)
    first = next(events, None)
    root = _Builder(report, events).value(first, depth=1) if first else None
    if not isinstance(root, Section):
        report.stop(1, f"a suite must be a mapping, such as 'seeds: [1]', not {shown(root)}")
    for event in events:
        report.stop(_line(event), "a suite must be one document; remove what follows the first")
    return root


def _text(report: Report) -> str:
    try:
        with report.path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise SuiteError([f"{report.path}: cannot be read: {why}"]) from None
    if len(content) > MAX_BYTES:
        report.stop(1, f"a suite must not exceed {MAX_BYTES // 1024} KiB")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        report.stop(line, f"a suite must be UTF-8 text, not the byte 0x{content[error.start]:02x}")


def _events(text: str, report: Report) -> Iterator[yaml.Event]:
    """Yield the events that make up values, as they are parsed."""
    frame = yaml.StreamStartEvent | yaml.StreamEndEvent | yaml.DocumentStartEvent
    frame |= yaml.DocumentEndEvent
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if not isinstance(event, frame):
                yield event
    except yaml.MarkedYAMLError as error:
        about = cut(", ".join(filter(None, [error.context, error.problem])), most=200)
        mark = error.problem_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        report.stop(line, f"is not YAML, column {column}: {about}")
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        column = len(before) - before.rfind("\n")
        what = f"the character U+{ord(text[error.position]):04X} is not allowed"
        report.stop(before.count("\n") + 1, f"is not YAML, column {column}: {what}; remove it")
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # PyYAML lets the ValueError of an impossible character escape through.
        report.stop(1, f"is not YAML: {cut(str(error).splitlines()[0], most=200)}")


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1


@dataclass
class _Builder:
    """Turns events into values by recursive descent, and counts how much it has built."""

    report: Report
    events: Iterator[yaml.Event]
    nodes: int = 0

    def value(self, event: yaml.Event, depth: int) -> object:
        """Return the value that starts with the event."""
        self._guard(event, depth)
        if isinstance(event, yaml.MappingStartEvent):
            return self._section(_line(event), depth)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._items(_line(event), depth)
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event)
        return None  # an alias, which the guard has reported

    def _section(self, line: int, depth: int) -> Section:
        section = Section(line)
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key, line = self._key(event, depth), _line(event)
            value = self.value(next(self.events), depth + 1)
            if key is None:
                self.report.add(line, "a key must be text, not a list, a mapping or an alias")
            elif key == "<<":
                self.report.add(line, "merge keys '<<' are not read; write the settings out")
            elif key in section:
                first = section.lines[key]
                self.report.add(line, f"the key {shown(key)} is already on line {first}; keep one")
            else:
                section[key], section.lines[key] = value, line
        return section

    def _items(self, line: int, depth: int) -> Items:
        items = Items(line)
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            items.append(self.value(event, depth + 1))
            items.lines.append(_line(event))
        return items

    def _key(self, event: yaml.Event, depth: int) -> str | None:
        if isinstance(event, yaml.ScalarEvent):
            self._guard(event, depth)
            self._printable(event)
            return str(event.value)
        self.value(event, depth + 1)  # read past it
        return None

    def _scalar(self, event: yaml.ScalarEvent) -> object:
        text = str(event.value)
        self._printable(event)
        if not event.implicit[0]:
            return text
        if text.lower() in _WORDS and text in (text.lower(), text.upper(), text.capitalize()):
            return _WORDS[text.lower()]
        if _INT.fullmatch(text):
            return int(text)
        if _FLOAT.fullmatch(text):
            return float(text)
        if _SPECIAL.fullmatch(text):
            return float(text.replace(".", ""))
        return text

    def _guard(self, event: yaml.Event, depth: int) -> None:
        self.nodes += 1
        line = _line(event)
        if depth > MAX_DEPTH:
            self.report.stop(line, f"a suite must not be nested more than {MAX_DEPTH} deep")
        if self.nodes > MAX_NODES:
            self.report.stop(line, f"a suite must not hold more than {MAX_NODES} values")
        anchor, tag = (
            cut(name.encode("unicode_escape").decode()) if name else None
            for name in (getattr(event, "anchor", None), getattr(event, "tag", None))
        )
        if isinstance(event, yaml.AliasEvent):
            self.report.add(line, f"aliases such as *{anchor} are not read; write the value out")
        elif anchor:
            self.report.add(line, f"anchors such as &{anchor} are not read; remove it")
        if tag:
            self.report.add(line, f"tags such as {tag} are not read; remove it")

    def _printable(self, event: yaml.ScalarEvent) -> None:
        if not event.value.isprintable():
            text = f"a text must be one line of printable characters, not {shown(event.value)}"
            self.report.add(_line(event), text)
