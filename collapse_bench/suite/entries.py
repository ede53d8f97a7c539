"""What competes: the entries of a suite, from their section of the file."""

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

from collapse_bench.description import Description, describe
from collapse_bench.errors import UserError
from collapse_bench.plugins import fingerprint, not_for, why_not
from collapse_bench.settings import (
    AtLeast,
    Schema,
    Setting,
    problems_of,
    resolve,
    rule_of,
    shown,
    unknown,
)
from collapse_bench.suite.definition import Budget, Entry, RemedySettings, Sweep, Told
from collapse_bench.suite.yaml_reader import Items, Report, Section

_ENTRY: Schema = {
    setting.name: setting
    for setting in (
        Setting("latent", Annotated[int, AtLeast(0)], None, required=False),
        Setting("remedies", list, None, required=False),
        Setting("budget", Budget, None, required=False),
        Setting("told", Told, None, required=False),
    )
}
MAX_REMEDIES = 50

_NAME = re.compile(r"[a-z0-9][a-z0-9_.+-]{0,63}")
_NAME_RULE = "1 to 64 characters of a-z, 0-9, _ . + -, the first a letter or digit"


def check_section(report: Report, owner: str, values: Section, schema: Schema) -> bool:
    """Report what is wrong with the values, each with its line; tell whether nothing is."""
    problems = problems_of(values, schema, owner)
    for name, text in problems.items():
        report.add(values.lines.get(name, values.line), text)
    return not problems


def entries_of(report: Report, root: Section, remedies: Mapping[str, Path]) -> tuple[Entry, ...]:
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
    return tuple(_with_training(report, entries, expanded, remedies))


def _with_training(
    report: Report, entries: Section, expanded: Sequence[Entry], remedies: Mapping[str, Path]
) -> Iterator[Entry]:
    """Yield the entries, those whose dial is turned with the one that has it at its default; report
    where there is none, since that is the one that is trained."""
    by_content = {_but_for_its_name(entry): entry for entry in reversed(expanded)}
    dials = {name: found for name in remedies_of(expanded) if (found := _dial(name, remedies))}
    for entry in expanded:
        trained = tuple(
            replace(
                each, settings=each.settings | {dials[each.name].name: dials[each.name].default}
            )
            if each.name in dials and each.settings
            else each
            for each in entry.remedies
        )
        if trained == entry.remedies:
            yield entry
            continue
        same = by_content.get(_but_for_its_name(replace(entry, remedies=trained)))
        if same:
            yield replace(entry, trained_as=same)
            continue
        turned = next(each for each, at in zip(entry.remedies, trained, strict=True) if each != at)
        dial = dials[turned.name]
        line = entries.lines[entry.sweep.entry if entry.sweep else entry.name]
        report.add(
            line,
            f"{owner_of(entry.name)}: {dial.name} is the dial of {turned.name}, whose values share"
            f" the training of its default, and no entry that is like it in all else has that: let"
            f" {dial.name} take {_written(dial.default)}, too, such as {{sweep:"
            f" [{_written(dial.default)}, ...]}}",
        )


def _but_for_its_name(entry: Entry) -> str:
    """Return what entries have in common that are trained in the same way."""
    return json.dumps(asdict(replace(entry, name="", sweep=None)), sort_keys=True)


def _dial(name: str, remedies: Mapping[str, Path]) -> Setting | None:
    """Return the setting that a remedy's training ignores, if there is one."""
    try:
        found = describe(name, remedies[name])
    except (KeyError, UserError):  # told of already
        return None
    return found.settings[found.dial] if found.dial else None


def remedies_of(entries: Sequence[Entry]) -> set[str]:
    """Return the names of the remedies that entries name."""
    return {remedy.name for entry in entries for remedy in entry.remedies}


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
    owner = owner_of(name)
    if not _NAME.fullmatch(name):
        report.add(line, f"{owner}: the name must be {_NAME_RULE}")
    if isinstance(value, Items):
        return _of_remedies(report, name, value, remedies)
    if isinstance(value, Section) and not value.keys() & remedies.keys():
        return _of_mapping(report, name, value, remedies)
    rule = (
        "a list of remedies, such as [word_dropout] or [], or a mapping, such as {latent: N} or"
        " {remedies: [...], budget: N}"
    )
    report.add(line, f"{owner}: must be {rule}, not {shown(value)}")
    return [Entry(name)]


def _of_remedies(
    report: Report, name: str, value: Items, remedies: Mapping[str, Path]
) -> list[Entry]:
    """Return the entry of a list of remedies, or one for each value of its sweep."""
    if len(value) > MAX_REMEDIES:
        text = f"must not have more than {MAX_REMEDIES} remedies, not {len(value)}"
        report.add(value.line, f"{owner_of(name)}: {text}")
        return [Entry(name)]
    items = zip(value, value.lines, strict=True)
    choices = [_remedy(report, name, *item, remedies) for item in items]
    knobs = list(_knobs(value))
    if len(knobs) > 1:
        swept = " and ".join(shown(knob) for knob, _ in knobs)
        text = f"must sweep one setting, not {swept}; give the rest one value"
        report.add(knobs[-1][1], f"{owner_of(name)}: {text}")
        return [Entry(name)]
    return [_point(name, chosen) for chosen in itertools.product(*choices)]


def _of_mapping(
    report: Report, name: str, value: Section, remedies: Mapping[str, Path]
) -> list[Entry]:
    """Return the entry of a mapping, which has a latent or remedies, and maybe more."""
    owner = owner_of(name)
    if not check_section(report, owner, value, _ENTRY):
        return [Entry(name)]
    told = value.get("told")
    if told == "labels":
        if "latent" in value:
            text = "told: labels makes these the latent, whose size is theirs; remove latent"
            report.add(value.lines["latent"], f"{owner}: {text}")
    elif "latent" not in value and "remedies" not in value:
        rule = "give latent (0 is the language model) or remedies ([] is the plain VAE)"
        report.add(value.line, f"{owner}: {rule}, not neither")
        return [Entry(name)]
    if told == "length" and value.get("latent") != 0:
        text = "told: length is for a language model, since whatever has a latent finds it out"
        report.add(value.lines["told"], f"{owner}: {text}; add latent: 0, or remove told")
    entries = [Entry(name, latent=value.get("latent"))]
    if "remedies" in value:
        entries = _of_remedies(report, name, value["remedies"], remedies)
        if "latent" in value or told == "labels":
            _check_about_variance(report, owner, value, entries, remedies)
        entries = [replace(entry, latent=value.get("latent")) for entry in entries]
    budget = value.get("budget")
    if isinstance(budget, Section):
        budget = dict(budget)
    return [replace(entry, told=told, budget=budget) for entry in entries]


def owner_of(name: str) -> str:
    """Return what messages call an entry."""
    return f"entry {name if _NAME.fullmatch(name) else shown(name)}"


def _knobs(items: Items) -> Iterator[tuple[str, int]]:
    """Yield each setting of a list of remedies that is swept, and its line."""
    for item in items:
        for remedy, settings in item.items() if isinstance(item, Section) else ():
            for setting, value in settings.items() if isinstance(settings, Section) else ():
                if isinstance(value, Section):
                    yield f"{remedy}.{setting}", settings.lines[setting]


def _check_about_variance(
    report: Report,
    owner: str,
    value: Section,
    entries: Sequence[Entry],
    remedies: Mapping[str, Path],
) -> None:
    """Report an entry of remedies that has no latent to find out anything with, a language model or
    an oracle of labels, unless they are about the variance of values alone."""
    about_variance = [each.values for _, each in _used(entries, remedies)]
    if about_variance and all(about_variance) and value.get("latent", 0) == 0:
        return
    text = "give latent (0 is the language model) or remedies ([] is the plain VAE), not both"
    if "latent" not in value:
        text = "told: labels makes these the latent, which no remedy acts on; remove remedies"
    report.add(value.line, f"{owner}: {text}")


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
    owner = owner_of(entry)
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
        report.add(line, f"{owner}: {why_not(name, remedies)}")
    if not isinstance(values, Section) or name not in remedies:
        return [(RemedySettings(name, {}), None)]
    try:
        schema = _described(name, remedies).settings
    except UserError as error:
        report.add(line, f"{owner}: {error}")
        return [(RemedySettings(name, {}), None)]

    # No annotation of a remedy's setting allows a mapping, so that a mapping can only be a sweep.
    swept = [key for key in values if key in schema and isinstance(values[key], Section)]
    plain = Section(values.line)
    plain.lines = values.lines
    plain.update((key, value) for key, value in values.items() if key not in swept)
    given_below = {key: replace(schema[key], required=False) for key in swept}
    legal = check_section(report, name, plain, schema | given_below) and len(swept) < 2
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
        if not check_section(report, owner, given, {name: setting}):
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


def check_architectures(
    report: Report,
    root: Section,
    entries: Sequence[Entry],
    architectures: Sequence[str],
    remedies: Mapping[str, Path],
) -> None:
    """Report remedies that are not for every architecture of the suite."""
    for entry_name, remedy in _used(entries, remedies):
        if remedy.architectures is None:
            continue
        for architecture in architectures:
            if problem := not_for(remedy.name, remedy.architectures, architecture):
                report.add(root["entries"].lines[entry_name], f"{owner_of(entry_name)}: {problem}")


def check_of_words(
    report: Report, root: Section, entries: Sequence[Entry], remedies: Mapping[str, Path]
) -> None:
    """Report remedies that are for values only, in a suite of words."""
    for entry_name, remedy in _used(entries, remedies):
        if remedy.values:
            text = (
                f"{remedy.name} is for a corpus of values, whose likelihood has a variance, not for"
                f" words; remove it, or give it a suite of such a corpus (list corpora)"
            )
            report.add(root["entries"].lines[entry_name], f"{owner_of(entry_name)}: {text}")


def _used(
    entries: Sequence[Entry], remedies: Mapping[str, Path]
) -> Iterator[tuple[str, Description]]:
    """Entries, as the file names them, with what each of their remedies says of itself."""
    used = {
        (entry.sweep.entry if entry.sweep else entry.name, remedy.name): None
        for entry in entries
        for remedy in entry.remedies
        if remedy.name in remedies
    }
    for entry_name, remedy in used:
        with suppress(UserError):  # told of already
            yield entry_name, describe(remedy, remedies[remedy])


def _described(name: str, remedies: Mapping[str, Path]) -> Description:
    """Return what a remedy's file says of it.

    Raises:
        UserError: It cannot be read, or names metrics that there are none of.
    """
    found = describe(name, remedies[name])
    if not found.by_construction:
        return found
    from collapse_bench.metrics import METRICS  # needs numpy, which few suites do at this point

    for each in found.by_construction:
        if each not in METRICS:
            raise UserError(f"{found.path}: by_construction: {unknown('metric', each, METRICS)}")
    return found
