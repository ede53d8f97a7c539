"""From a file to a suite, or to everything that is wrong with the file."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

from collapse_bench.settings import (
    AtLeast,
    Schema,
    Setting,
    cut,
    resolve,
    rule_of,
    schema_of,
)
from collapse_bench.suite.definition import (
    BUILT_IN,
    DRAWN,
    VALUES,
    Architecture,
    Budget,
    CorpusSettings,
    Entry,
    Evaluation,
    Sizes,
    Suite,
    Training,
)
from collapse_bench.suite.entries import (
    check_architectures,
    check_of_words,
    check_section,
    entries_of,
    owner_of,
)
from collapse_bench.suite.yaml_reader import Report, Section, read_yaml

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
    check_section(report, "suite", root, _KEYS)
    corpus = _section(report, root, "corpus", CorpusSettings)
    sizes = _section(report, root, "sizes", Sizes)
    training = _section(report, root, "training", Training)
    evaluation = _section(report, root, "evaluation", Evaluation)
    architectures = _axis(report, root, "architectures")
    seeds = _axis(report, root, "seeds")
    entries = entries_of(report, root, remedies)

    check_architectures(report, root, entries, architectures, remedies)
    if corpus and corpus.name not in VALUES:
        check_of_words(report, root, entries, remedies)
    if corpus:
        _check_corpus(report, root, corpus)
        _check_told(report, root, corpus, entries)
    if corpus and training:
        _check_budgets(report, root, corpus, training)
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


def _section(report: Report, root: Section, key: str, cls: type[T]) -> T | None:
    """Return a section of the suite as its dataclass, or None where it has problems."""
    values, schema = root.get(key, Section(root.line)), schema_of(cls)
    if isinstance(values, Section) and check_section(report, key, values, schema):
        return cls(**resolve(values, schema))
    return None


def _axis(report: Report, root: Section, key: str) -> tuple[Any, ...]:
    """Return a list that cells are the product of, or () where it has problems."""
    setting = _KEYS[key]
    values = root.get(key, setting.default)
    if values is None or not rule_of(setting.annotation).allows(values):
        return ()
    repeated = sorted(str(value) for value, times in Counter(values).items() if times > 1)
    if not values:
        report.add(root.lines[key], f"suite: {key} must not be empty")
    if repeated:
        report.add(root.lines[key], f"suite: {key} must not repeat {cut(', '.join(repeated))}")
    return tuple(values)


def _check_corpus(report: Report, root: Section, corpus: CorpusSettings) -> None:
    def problem(setting: str, text: str) -> None:
        report.add(_line_of(root, "corpus", setting), f"corpus: {text}")

    if corpus.name == "text" and not (corpus.path or corpus.hub):
        problem("name", "text needs the path of a folder with train.txt, valid.txt and test.txt")
    if corpus.name == "values" and not corpus.path:
        problem("name", "values needs the path of a folder with train.npy, valid.npy and test.npy")
    if corpus.name in VALUES:
        for setting in ("hub", "vocabulary", "otherwise"):
            if getattr(corpus, setting) is not None:
                problem(setting, f"{setting} is for words, not for {corpus.name}; remove it")
        if corpus.tokenizer != "word":
            problem("tokenizer", f"tokenizer is for words, not for {corpus.name}; remove it")
    if corpus.name in BUILT_IN and (corpus.path or corpus.hub):
        setting = "path" if corpus.path else "hub"
        what = "comes from a package" if corpus.name == "bible" else "is built in"
        problem(setting, f"{setting} must not be given for {corpus.name}, which {what}; remove it")
    if corpus.revision and not corpus.hub:
        problem("revision", "revision is that of a hub data set; give hub, too, or remove it")
    if corpus.sentences and not {corpus.name, corpus.otherwise} & set(DRAWN):
        text = f"sentences is for {' or '.join(DRAWN)}, not for {corpus.name}; remove it"
        problem("sentences", text)
    steps = corpus.steps or {"linear_gaussian": 1, "sine_maps": 24}.get(corpus.name, 1)
    if "linear" in (root.get("architectures") or ()) and (corpus.name not in VALUES or steps > 1):
        what = f"sequences of {steps} steps" if corpus.name in VALUES else "words"
        report.add(
            root.lines["architectures"],
            f"suite: the architecture linear is for vectors, not for {what}; remove it, or take"
            f" linear_gaussian with steps: 1",
        )
    drawn = [name for name in DRAWN if name in VALUES]
    if corpus.steps and corpus.name not in drawn:
        problem("steps", f"steps is for {' and '.join(drawn)}, not for {corpus.name}; remove it")
    if corpus.level != "hard" and "newswire" not in (corpus.name, corpus.otherwise):
        problem("level", f"level is for newswire, not for {corpus.name}; remove it")


def _check_told(
    report: Report, root: Section, corpus: CorpusSettings, entries: Sequence[Entry]
) -> None:
    """Report an oracle of labels on a corpus that never has any."""
    if corpus.name == "ptb":
        for entry in (each for each in entries if each.told == "labels"):
            text = f"{owner_of(entry.name)}: told: labels needs labels, and ptb has none; remove it"
            report.add(root["entries"].lines[entry.name], text)


def _check_budgets(
    report: Report, root: Section, corpus: CorpusSettings, training: Training
) -> None:
    """Report budgets, the suite's and those of entries, that leave a corpus out."""
    budgets: list[tuple[str, Section, Budget]] = [("training", root["training"], training.budget)]
    entries = root.get("entries")
    for name, value in entries.items() if isinstance(entries, Section) else ():
        budget = value.get("budget") if isinstance(value, Section) else None
        if isinstance(budget, Section) and rule_of(Budget).allows(budget):
            budgets.append((owner_of(name), value, cast(Budget, budget)))
    for owner, section, budget in budgets:
        for name in filter(None, (corpus.name, corpus.otherwise)):
            if not isinstance(budget, int) and name not in budget:
                text = f"budget must tell the tokens for {name}; add '{name}: N'"
                report.add(section.lines["budget"], f"{owner}: {text}")


def _line_of(root: Section, key: str, setting: str) -> int:
    """Return the line of a setting, or of what stands for it where it was left out."""
    section = root.get(key)
    key_line = root.lines.get(key, root.line)
    return section.lines.get(setting, key_line) if isinstance(section, Section) else key_line
