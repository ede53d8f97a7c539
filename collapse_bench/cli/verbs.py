"""What each verb does: parse and call, nothing else. Heavy imports wait until one needs them."""

import argparse
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from collapse_bench.errors import DiskError, SuiteError, UserError

if TYPE_CHECKING:
    from collapse_bench.plugins import RemedyFiles
    from collapse_bench.suite import Suite

PACKAGE = Path(__file__).parents[1]


def load(options: argparse.Namespace) -> "tuple[Suite, RemedyFiles]":
    """A suite, and where the remedies are; those that cannot be used are told if it names none."""
    from collapse_bench.plugins import remedy_files
    from collapse_bench.suite import load_suite

    files = remedy_files(options.plugin)
    suite = load_suite(options.suite, files)
    _tell_left_out(files)
    return suite, files


def _files(options: argparse.Namespace) -> "RemedyFiles":
    """Where the remedies are, after those that cannot be used have been told."""
    from collapse_bench.plugins import remedy_files

    files = remedy_files(options.plugin)
    _tell_left_out(files)
    return files


def _tell_left_out(files: "RemedyFiles") -> None:
    for why in files.left_out.values():
        say(f"left out: {why}")


def leaderboard(options: argparse.Namespace) -> int:
    from collapse_bench.leaderboard import write_leaderboard
    from collapse_bench.record import read_records
    from collapse_bench.suite import belongs_to, cells_of, curves_of

    suite, _ = load(options)
    cells = cells_of(suite)
    everything = read_records(options.runs / suite.name)
    records = list(filter(belongs_to(suite), everything))
    if len(records) < len(everything):
        if (options.runs / suite.name).resolve() == (options.out / suite.name).resolve():
            left = sorted({r["cell"] for r in everything} - {r["cell"] for r in records})
            raise UserError(
                f"{options.out / suite.name}: is both where records are read and where those are"
                f" left that the page has, and these are of earlier settings: {', '.join(left)};"
                f" give another --out, so that none is lost"
            )
        say(f"{len(everything) - len(records)} records of earlier settings are left out")
    records = _with_present_labels(records, suite)
    if problems := _hold(records, options.runs / suite.name):
        for problem in problems:
            say(f"error: {problem}")
        return 1
    expected = [(cell.entry.name, cell.architecture, cell.seed) for cell in cells]
    page = write_leaderboard(suite.name, expected, records, options.out, curves_of(suite))
    if not any(record["status"] == "done" for record in records):
        say(
            f"{suite.name}: no cell has a result, and the page compares nothing: {len(records)}"
            " failed, and the page says why of each; mend that and run the suite again"
        )
    print(page)
    return 0


def _with_present_labels(records: list[dict[str, Any]], suite: "Suite") -> list[dict[str, Any]]:
    """Leave out the cells that were scored with labels that have been replaced since.

    The page is made from records alone. Only where they disagree is the corpus asked.
    """
    found: dict[tuple[str, str], set[str | None]] = {}
    for record in records:
        corpus = record["corpus"]
        found.setdefault((corpus["name"], corpus["sha256"]), set()).add(corpus.get("labels_sha256"))
    if all(len(labels) == 1 for labels in found.values()):
        return records

    from collapse_bench.corpus import load_corpus

    data = os.environ.get("COLLAPSE_BENCH_DATA")
    present = load_corpus(suite.corpus, Path(data) if data else None, say=say)
    kept = []
    for record in records:
        corpus = record["corpus"]
        same_text = (corpus["name"], corpus["sha256"]) == (present.name, present.sha256)
        if not same_text or corpus.get("labels_sha256") == present.labels_sha256:
            kept.append(record)
    say(f"{len(records) - len(kept)} records of earlier labels are left out")
    return kept


def _hold(records: list[dict[str, Any]], folder: Path) -> list[str]:
    """Hold every record against what is at hand; note in it if these are its arrays.

    Returns:
        What is wrong: cell, field, both values, and the way out.
    """
    from collapse_bench.evidence import hold, is_noted, note
    from collapse_bench.lease import read_lease
    from collapse_bench.record import RECORD, SENTENCES

    problems, alone = [], 0
    cells = {record["cell"]: folder / record["cell"] for record in records}
    noted = {record["cell"]: is_noted(cells[record["cell"]], record) for record in records}
    new = sum((cells[name] / SENTENCES).exists() for name, known in noted.items() if not known)
    if new:  # seconds each where there are thousands of sentences
        say(f"{new} of {len(records)} records are held against their arrays for the first time")
    for record in records:
        cell, known = cells[record["cell"]], noted[record["cell"]]
        way_out = f"put back {cell}.json as it was published, or remove it"
        if (cell / RECORD).exists():
            way_out = (
                "write it anew from the cell's arrays with `python -m collapse_bench score --write"
                f" arrays {cell}`, or remove {cell} and run the suite again"
            )
        try:
            evidence = hold(record, cell, noted=known)
        except UserError as error:
            at_work = read_lease(cell)
            if at_work and at_work.alive:  # its files change one by one
                owner = at_work.owner
                problems.append(f"{cell}: is computed again by {owner}; wait until that has ended")
            else:
                problems.append(str(error))
            continue
        problems += [f"{record['cell']}: {each}; {way_out}" for each in evidence.differences]
        if evidence.of_arrays:
            if (cell / RECORD).exists() and not known:
                with suppress(DiskError):  # of a folder that is only to be read
                    note(cell)
            record["held"] = "arrays"
        elif record["status"] == "done":
            alone += 1
    if alone:
        say(
            f"{alone} of {len(records)} records could only be held against themselves: their arrays"
            " are not here"
        )
    return problems


def score(options: argparse.Namespace) -> int:
    from collapse_bench.cli.scoring import score_one

    codes, files = {0}, _files(options)
    for folder in options.cells:
        try:
            codes.add(0 if score_one(folder, options, files) else 1)
        except UserError as error:  # the other cells are none the worse for it
            say(f"error: {error}")
            codes.add(error.exit_code)
    return max(codes)


def diagnose(options: argparse.Namespace) -> int:
    from collapse_bench.device import resolve_device
    from collapse_bench.rescoring import diagnose_cell, draw_dial

    if not options.cell.exists():
        raise UserError(f"{options.cell}: there is no such cell or model file")
    folder = options.cell if options.cell.is_dir() else options.cell.parent
    device = resolve_device(options.device)
    diagnosis = diagnose_cell(folder, _files(options), options.data, say, device)
    print(diagnosis)
    asked = options.picture or folder / "diagnosis.png"
    picture = diagnosis.draw(asked, title=folder.resolve().name)
    print(f"\npicture: {picture}")
    if turned := draw_dial(folder):
        print(f"the same model at other values of its dial: {turned}")
    return 0


def verify(options: argparse.Namespace) -> int:
    from collapse_bench.verification import table, verify

    checks = []
    for check in verify():
        checks.append(check)
        print(f"{'ok' if check.passed else 'FAIL':4} {check.model}: {check.what}", file=sys.stderr)
    failed = [check for check in checks if not check.passed]
    print("\n".join(table(checks)))
    print(f"\n{len(checks) - len(failed)} of {len(checks)} checks passed")
    return 1 if failed else 0


def check(options: argparse.Namespace) -> int:
    if options.suite.suffix == ".py":
        return _check_remedy(options)
    from collapse_bench.suite import DRAWN, cells_of

    suite, files = load(options)
    cells = cells_of(suite)

    from collapse_bench.trial import UNKNOWN, about_reference, check_builds, check_steps

    sentences = UNKNOWN
    if suite.corpus.name in DRAWN:
        sentences = suite.corpus.sentences or sentences
    read = suite.corpus.path is not None  # what is not at hand, or large, is left to the run
    if read:
        from collapse_bench.corpus import labels_found, load_corpus, with_kinds

        corpus = load_corpus(suite.corpus, None, say=say)
        sentences = len(corpus.train)
        say(labels_found(corpus))
        if any(cell.entry.told == "labels" for cell in cells):
            try:
                with_kinds(corpus)
            except UserError as error:
                raise UserError(f"{options.suite}: {error}") from None
        if problems := check_builds(cells, corpus, files).problems:
            raise SuiteError([f"{options.suite}: {problem}" for problem in problems])
    if problems := check_steps(cells, files, sentences):
        raise SuiteError([f"{options.suite}: {problem}" for problem in problems])
    if warning := about_reference(cells, files):
        say(f"{options.suite}: warning: {warning}")
    unread = "" if read else "; its corpus was not read, the steps were on generated text"
    print(f"{options.suite}: fine, {len(cells)} cells{unread}")
    return 0


def _check_remedy(options: argparse.Namespace) -> int:
    """Every law on a remedy's file, one line a law; tell whether it keeps them all."""
    from collapse_bench.laws import check_file

    if not options.suite.exists():
        raise UserError(f"{options.suite}: no such file; check takes a suite or a remedy's file")
    statuses = []
    for found in check_file(options.suite, options.plugin):
        statuses.append(found.status)
        if found.status == "BROKEN":
            print(f"{found.status:14} {found.law}")
            for seen in found.seen:
                print(f"{'':14}   seen: {seen}")
            print(f"{'':14}   contract: {found.contract}", flush=True)
        else:
            why = f" ({'; '.join(found.seen)})" if found.seen else ""
            print(f"{found.status:14} {found.law}{why}", flush=True)
    broken, apart = statuses.count("BROKEN"), statuses.count("not applicable")
    told = "did not come into play" if broken else "do not apply"
    result = f"breaks {broken} of" if broken else f"keeps all {len(statuses) - apart} of"
    others = f", {apart} {told}" if apart else ""
    print(f"{options.suite}: {result} {len(statuses)} laws{others}")
    return 2 if broken else 0


def new_remedy(options: argparse.Namespace) -> int:
    from collapse_bench.new_remedy import write

    remedy, test = write(options.name, options.lever, Path())
    print(f"written: {remedy}, {test}; they pass as they are, with")
    print(f"  python -m collapse_bench check {remedy}")
    print(f"  python -m pytest {test}")
    return 0


def names(options: argparse.Namespace) -> int:
    from collapse_bench.plugins import summary_of

    if options.what != "remedies" and (options.name or options.page):
        raise UserError(f"list {options.what}: only remedies are told one by one, or on a page")
    if options.what == "remedies":
        return _remedies(options)
    if options.what == "metrics":
        from collapse_bench.metrics import METRICS

        for name, metric in METRICS.items():
            print(f"{name}@{metric.version} ({metric.unit}): {metric.meaning}")
            print(f"    cannot see: {metric.blind}")
    else:
        from collapse_bench.suite import Architecture, CorpusName

        folder, names = {
            "corpora": ("corpus", get_args(CorpusName)),
            "architectures": ("model", get_args(Architecture)),
        }[options.what]
        for name in names:
            print(f"{name}: {summary_of(PACKAGE / folder / f'{name}.py')}")
    return 0


def _remedies(options: argparse.Namespace) -> int:
    """All remedies in a table, one of them, or the page of those that are built in."""
    from collapse_bench.description import describe
    from collapse_bench.listing import page, section, table
    from collapse_bench.plugins import built_in, remedy_files, why_not

    if options.page:
        print(page([describe(*each) for each in built_in().items()]), end="")
        return 0
    files = remedy_files(options.plugin)
    if options.name:
        if options.name not in files:
            raise UserError(why_not(options.name, files))
        found = describe(options.name, files[options.name])
        print(f"{found.name}\n\n{section(found, str(found.path))}")
        return 0
    told = []
    for name, path in files.items():
        try:
            told.append(describe(name, path))
        except UserError as problem:
            files.left_out[name] = str(problem)
    print(table(told))
    _tell_left_out(files)
    return 2 if files.left_out else 0


def say(text: str) -> None:
    """Print a line for the user; that it cannot be shown ends nothing."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)
