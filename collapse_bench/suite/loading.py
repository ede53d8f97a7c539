"""From a file to a suite, or to everything that is wrong with the file."""

import re
from collections.abc import Mapping
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
T = TypeVar("T")


def load_suite(path: Path, remedies: Mapping[str, Path]) -> Suite:
    """Return the suite of a YAML file, checked without importing a remedy.

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
    return tuple(
        _entry(report, name, value, entries.lines[name], remedies)
        for name, value in entries.items()
    )


def _entry(
    report: Report, name: str, value: object, line: int, remedies: Mapping[str, Path]
) -> Entry:
    owner = f"entry {name}"
    if not _NAME.fullmatch(name):
        owner = f"entry {shown(name)}"
        rule = "1 to 64 characters of a-z, 0-9, _ . + -, the first a letter or digit"
        report.add(line, f"{owner}: the name must be {rule}")
    if isinstance(value, Items):
        items = zip(value, value.lines, strict=True)
        return Entry(name, tuple(_remedy(report, owner, *item, remedies) for item in items))
    if isinstance(value, Section) and not value.keys() & remedies.keys():
        _check(report, owner, value, _CONTROL)
        return Entry(name, latent=value.get("latent"))
    rule = "a list of remedies, such as [word_dropout] or [], or {latent: N}"
    report.add(line, f"{owner}: must be {rule}, not {shown(value)}")
    return Entry(name)


def _remedy(
    report: Report, owner: str, item: object, line: int, remedies: Mapping[str, Path]
) -> RemedySettings:
    if isinstance(item, str):
        name, values = item, Section(line)
    elif isinstance(item, Section) and len(item) == 1:
        [(name, values)] = item.items()
    else:
        rule = "a name, or {name: {setting: value}}, one for each item of the list"
        report.add(line, f"{owner}: a remedy must be {rule}, not {shown(item)}")
        return RemedySettings("", {})
    if not isinstance(values, Section):
        rule = "a mapping, such as {} for the defaults"
        report.add(
            line, f"{owner}: the settings of {shown(name)} must be {rule}, not {shown(values)}"
        )
    if name not in remedies:
        text = unknown("remedy", name, remedies)
        report.add(line, f"{owner}: {text}; --plugin FILE adds one of your own")
    if not isinstance(values, Section) or name not in remedies:
        return RemedySettings(name, {})
    try:
        schema = schema_of_file(remedies[name], class_name(name))
    except UserError as error:
        report.add(line, f"{owner}: {error}")
        return RemedySettings(name, {})
    legal = _check(report, name, values, schema)
    settings = resolve(values, schema) if legal else {}
    return RemedySettings(name, settings, fingerprint(remedies[name]))


def _line_of(root: Section, key: str, setting: str) -> int:
    """Return the line of a setting, or of what stands for it where it was left out."""
    section = root.get(key)
    key_line = root.lines.get(key, root.line)
    return section.lines.get(setting, key_line) if isinstance(section, Section) else key_line
