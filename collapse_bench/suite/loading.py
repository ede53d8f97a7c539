"""From a file to a suite, or to everything that is wrong with the file."""

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

from collapse_bench.errors import UserError
from collapse_bench.plugins import class_name, fingerprint
from collapse_bench.settings import (
    AtLeast,
    Schema,
    Setting,
    problems_of,
    resolve,
    rule_of,
    schema_of,
    schema_of_file,
    shown,
    unknown,
)
from collapse_bench.suite.definition import (
    Architecture,
    CorpusSettings,
    Entry,
    Evaluation,
    RemedySettings,
    Sizes,
    Suite,
    Sweep,
    Training,
)
from collapse_bench.suite.yaml_reader import Items, Report, Section, read_yaml

MAX_CELLS = 10_000

_KEYS: Schema = {
    setting.name: setting
    for setting in (
        Setting("corpus", dict, {}, required=False),
        Setting("architectures", tuple[Architecture, ...], None, required=True),
        Setting("sizes", dict, {}, required=False),
        Setting("training", dict, {}, required=False),
        Setting("evaluation", dict, {}, required=False),
        Setting("seeds", tuple[Annotated[int, AtLeast(0)], ...], (1,), required=False),
        Setting("entries", dict, None, required=True),
    )
}
_CONTROL: Schema = {"latent": Setting("latent", Annotated[int, AtLeast(0)], None, required=True)}
_NAME = re.compile(r"[a-z0-9][a-z0-9_.+-]{0,63}")
_NAME_RULE = "1 to 64 characters of a-z, 0-9, _ . + -, the first a letter or digit"
T = TypeVar("T")


def load_suite(path: Path, remedies: Mapping[str, Path]) -> Suite:
    """Return the suite of a YAML file, checked without importing a remedy.

    An entry that gives a setting as `{sweep: [value, ...]}` becomes one entry a value, each called
    `<entry>-<value>` and the same as if it had been written so.

    Args:
        path: The file; the suite is called after it.
        remedies: The file of each remedy that entries may name.

    Raises:
        SuiteError: Of everything that is wrong with the suite.
    """
    report = Report(path)
    root = read_yaml(report)
    _check(report, "suite", root, _KEYS)
    corpus = _section(report, root, "corpus", CorpusSettings)
    sizes = _section(report, root, "sizes", Sizes)
    training = _section(report, root, "training", Training)
    evaluation = _section(report, root, "evaluation", Evaluation)
    architectures = _axis(report, root, "architectures")
    seeds = _axis(report, root, "seeds")
    entries = _entries(report, root, remedies)

    if corpus:
        _check_corpus(report, root, corpus)
    if corpus and training:
        _check_budget(report, root, corpus, training)
    if sizes and "transformer" in architectures and sizes.hidden % sizes.heads:
        line = _line_of(root, "sizes", "heads")
        report.add(line, f"sizes: heads must divide hidden, not {sizes.heads} and {sizes.hidden}")
    cells = len(entries) * len(architectures) * len(seeds)
    if cells > MAX_CELLS:
        report.add(root.line, f"suite: must not have more than {MAX_CELLS} cells, not {cells}")

    if corpus and sizes and training and evaluation and not report.problems:
        if corpus.path is not None:
            corpus = replace(corpus, path=str(path.parent / corpus.path))
        return Suite(
            path.stem, path, corpus, architectures, sizes, training, evaluation, seeds, entries
        )
    raise report.error()


def _check(report: Report, owner: str, values: Section, schema: Schema) -> bool:
    """Report what is wrong with the values, each with its line; tell whether nothing is."""
    problems = problems_of(values, schema, owner)
    for name, text in problems.items():
        report.add(values.lines.get(name, values.line), text)
    return not problems


def _section(report: Report, root: Section, key: str, cls: type[T]) -> T | None:
    """Return a section of the suite as its dataclass, or None where it has problems."""
    values, schema = root.get(key, Section(root.line)), schema_of(cls)
    if isinstance(values, Section) and _check(report, key, values, schema):
        return cls(**resolve(values, schema))
    return None


def _axis(report: Report, root: Section, key: str) -> tuple[Any, ...]:
    """Return a list that cells are the product of, or () where it has problems."""
    setting = _KEYS[key]
    values = root.get(key, setting.default)
    if values is None or not rule_of(setting.annotation).allows(values):
        return ()
    repeated = sorted({str(value) for value in values if values.count(value) > 1})
    if not values:
        report.add(root.lines[key], f"suite: {key} must not be empty")
    if repeated:
        report.add(root.lines[key], f"suite: {key} must not repeat {', '.join(repeated)}")
    return tuple(values)


def _check_corpus(report: Report, root: Section, corpus: CorpusSettings) -> None:
    def problem(setting: str, text: str) -> None:
        report.add(_line_of(root, "corpus", setting), f"corpus: {text}")

    if corpus.name == "text" and not (corpus.path or corpus.hub):
        problem("name", "text needs the path of a folder with train.txt, valid.txt and test.txt")
    if corpus.name == "newswire" and (corpus.path or corpus.hub):
        setting = "path" if corpus.path else "hub"
        problem(setting, f"{setting} must not be given for newswire, which is built in; remove it")
    if corpus.revision and not corpus.hub:
        problem("revision", "revision is that of a hub data set; give hub, too, or remove it")
    if corpus.sentences and "newswire" not in (corpus.name, corpus.otherwise):
        problem("sentences", f"sentences is for newswire, not for {corpus.name}; remove it")


def _check_budget(
    report: Report, root: Section, corpus: CorpusSettings, training: Training
) -> None:
    if isinstance(training.budget, int):
        return
    for name in filter(None, (corpus.name, corpus.otherwise)):
        if name not in training.budget:
            line = _line_of(root, "training", "budget")
            report.add(line, f"training: budget must tell the tokens for {name}; add '{name}: N'")


def _entries(report: Report, root: Section, remedies: Mapping[str, Path]) -> tuple[Entry, ...]:
    entries = root.get("entries")
    if not isinstance(entries, Section):
        return ()
    if not entries:
        line = root.lines["entries"]
        report.add(line, "suite: entries must not be empty; the plain VAE is 'vae: []'")
    expanded = [
        entry
        for name, value in entries.items()
        for entry in _entry(report, name, value, entries.lines[name], remedies)
    ]
    _check_expanded(report, entries, expanded)
    return tuple(expanded)


def _check_expanded(report: Report, entries: Section, expanded: list[Entry]) -> None:
    """Report the names that sweeps make where they are illegal or taken."""
    taken = {name: name for name in entries}
    for entry in expanded:
        if not entry.sweep or not _NAME.fullmatch(entry.sweep.entry):
            continue
        swept, name = entry.sweep.entry, entry.name
        problem = f"entry {swept}: its sweep makes an entry {shown(name)}"
        if not _NAME.fullmatch(name):
            way_out = "write an entry for each value, with a name of your own"
            report.add(
                entries.lines[swept], f"{problem}, but a name must be {_NAME_RULE}; {way_out}"
            )
        other = taken.setdefault(name, swept)
        if other != swept:
            text = f"a name that entry {other} on line {entries.lines[other]} takes; rename one"
            report.add(entries.lines[swept], f"{problem}, {text}")


def _entry(
    report: Report, name: str, value: object, line: int, remedies: Mapping[str, Path]
) -> list[Entry]:
    """Return an entry, or one for each value of its sweep."""
    owner = _owner(name)
    if not _NAME.fullmatch(name):
        report.add(line, f"{owner}: the name must be {_NAME_RULE}")
    if isinstance(value, Items):
        items = zip(value, value.lines, strict=True)
        choices = [_remedy(report, name, *item, remedies) for item in items]
        knobs = list(_knobs(value))
        if len(knobs) > 1:
            swept = " and ".join(shown(knob) for knob, _ in knobs)
            text = f"must sweep one setting, not {swept}; give the rest one value"
            report.add(knobs[-1][1], f"{owner}: {text}")
            return [Entry(name)]
        return [_point(name, chosen) for chosen in itertools.product(*choices)]
    if isinstance(value, Section) and not value.keys() & remedies.keys():
        _check(report, owner, value, _CONTROL)
        return [Entry(name, latent=value.get("latent"))]
    rule = "a list of remedies, such as [word_dropout] or [], or {latent: N}"
    report.add(line, f"{owner}: must be {rule}, not {shown(value)}")
    return [Entry(name)]


def _owner(name: str) -> str:
    """Return what messages call an entry."""
    return f"entry {name if _NAME.fullmatch(name) else shown(name)}"


def _knobs(items: Items) -> Iterator[tuple[str, int]]:
    """Yield each setting of a list of remedies that is swept, and its line."""
    for item in items:
        for remedy, settings in item.items() if isinstance(item, Section) else ():
            for setting, value in settings.items() if isinstance(settings, Section) else ():
                if isinstance(value, Section):
                    yield f"{remedy}.{setting}", settings.lines[setting]


def _point(name: str, chosen: tuple[tuple[RemedySettings, Sweep | None], ...]) -> Entry:
    """Return the entry of remedies of which at most one is swept."""
    remedies = tuple(remedy for remedy, _ in chosen)
    for _, sweep in chosen:
        if sweep:
            return Entry(f"{name}-{_written(sweep.value)}", remedies, sweep=sweep)
    return Entry(name, remedies)


def _written(value: object) -> str:
    """Return a value as YAML writes it."""
    return value if isinstance(value, str) else json.dumps(value)


def _remedy(
    report: Report, entry: str, item: object, line: int, remedies: Mapping[str, Path]
) -> list[tuple[RemedySettings, Sweep | None]]:
    """Return a remedy that is not swept, or the remedy at each legal value of its sweep."""
    owner = _owner(entry)
    if isinstance(item, str):
        name, values = item, Section(line)
    elif isinstance(item, Section) and len(item) == 1:
        [(name, values)] = item.items()
    else:
        rule = "a name, or {name: {setting: value}}, one for each item of the list"
        report.add(line, f"{owner}: a remedy must be {rule}, not {shown(item)}")
        return [(RemedySettings("", {}), None)]
    if not isinstance(values, Section):
        rule = "a mapping, such as {} for the defaults"
        report.add(
            line, f"{owner}: the settings of {shown(name)} must be {rule}, not {shown(values)}"
        )
    if name not in remedies:
        text = unknown("remedy", name, remedies)
        report.add(line, f"{owner}: {text}; --plugin FILE adds one of your own")
    if not isinstance(values, Section) or name not in remedies:
        return [(RemedySettings(name, {}), None)]
    try:
        schema = schema_of_file(remedies[name], class_name(name))
    except UserError as error:
        report.add(line, f"{owner}: {error}")
        return [(RemedySettings(name, {}), None)]

    # No annotation of a remedy's setting allows a mapping, so that a mapping can only be a sweep.
    swept = [key for key in values if key in schema and isinstance(values[key], Section)]
    plain = Section(values.line)
    plain.lines = values.lines
    plain.update((key, value) for key, value in values.items() if key not in swept)
    given_below = {key: replace(schema[key], required=False) for key in swept}
    legal = _check(report, name, plain, schema | given_below) and len(swept) < 2
    digest = fingerprint(remedies[name])

    def remedy_at(point: dict[str, object]) -> RemedySettings:
        return RemedySettings(name, resolve(plain | point, schema) if legal else {}, digest)

    if not swept:
        return [(remedy_at({}), None)]
    return [
        (remedy_at({key: value}), Sweep(entry, f"{name}.{key}", value))
        for key in swept
        for value in _values(report, name, schema[key], values[key], values.lines[key])
    ]


def _values(
    report: Report, owner: str, setting: Setting, sweep: Section, line: int
) -> list[object]:
    """Return the legal values of `{sweep: [value, ...]}`, and report the others."""
    name, rule, values = setting.name, rule_of(setting.annotation), sweep.get("sweep")
    if len(sweep) != 1 or not isinstance(values, Items):
        words = f"{rule.words}, or {{sweep: [value, value, ...]}}"
        report.add(line, f"{owner}: {name} must be {words}, not {shown(sweep)}")
        return []
    if len(values) < 2:
        way_out = f"write {name}: value for a single one"
        report.add(
            line,
            f"{owner}: a sweep of {name} must have 2 values or more, not {len(values)}; {way_out}",
        )
    legal: list[object] = []
    seen: set[object] = set()
    for value, at in zip(values, values.lines, strict=True):
        given = Section(at)
        given[name] = value
        if not _check(report, owner, given, {name: setting}):
            continue
        # Neither the same value twice, as 1 and 1.0, nor the same name twice, as 1 and '1'.
        marks = {rule.normal(value), _written(value)}
        if marks & seen:
            text = f"a sweep of {name} must not repeat {shown(value)}; remove it"
            report.add(at, f"{owner}: {text}")
        else:
            legal.append(value)
        seen |= marks
    return legal


def _line_of(root: Section, key: str, setting: str) -> int:
    """Return the line of a setting, or of what stands for it where it was left out."""
    section = root.get(key)
    key_line = root.lines.get(key, root.line)
    return section.lines.get(setting, key_line) if isinstance(section, Section) else key_line
