"""The command line: parse and call, nothing else. Heavy imports wait until a verb needs them."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from collapse_bench import __version__
from collapse_bench.errors import SuiteError, UserError

if TYPE_CHECKING:
    from collapse_bench.suite import Suite

PACKAGE = Path(__file__).parent


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb.

    Returns:
        0 all is well; 1 cells failed, or numbers do not agree; 2 bad suite or usage; 3 corpus
        missing; 128 + n on signal n.
    """
    options = _parser().parse_args(arguments)
    try:
        code: int = options.verb(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m collapse_bench",
        description="A benchmark of remedies for posterior collapse in text VAEs.",
    )
    parser.add_argument("--version", action="version", version=f"collapse_bench {__version__}")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    run = verbs.add_parser("run", help="train, evaluate and record the cells of a suite")
    _suite_arguments(run)
    run.add_argument(
        "--out", type=Path, default=Path("runs"), help="folder of all runs (%(default)s)"
    )
    run.add_argument(
        "--only", metavar="PATTERN", default="*", help="cells, as entry/architecture/seed"
    )
    run.add_argument("--seeds", type=_seeds, metavar="1,2", help="in place of the suite's")
    run.add_argument(
        "--budget", type=_positive_number, metavar="TOKENS", help="in place of the suite's"
    )
    run.add_argument(
        "--workers", type=_positive_number, metavar="N", help="cells at a time (one a core)"
    )
    run.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    _data_argument(run)
    run.set_defaults(verb=_run)

    board = verbs.add_parser("leaderboard", help="records to tables and pictures")
    _suite_arguments(board)
    board.add_argument("--runs", type=Path, default=Path("runs"), help="(%(default)s)")
    board.add_argument("--out", type=Path, default=Path("leaderboard"), help="(%(default)s)")
    board.set_defaults(verb=_leaderboard)

    scoring = verbs.add_parser(
        "score", help="score finished cells again, from their arrays and from their models"
    )
    scoring.add_argument(
        "cells", type=Path, nargs="+", metavar="CELL", help="a folder, runs/<suite>/<cell id>"
    )
    scoring.add_argument(
        "--write",
        choices=("model", "arrays"),
        help="write new scores into the record, from the model evaluated anew or from the arrays,"
        " in place of comparing",
    )
    _data_argument(scoring)
    _plugin_argument(scoring)
    scoring.set_defaults(verb=_score)

    diagnosing = verbs.add_parser("diagnose", help="is a model collapsed, and how?")
    diagnosing.add_argument(
        "cell", type=Path, metavar="CELL_OR_CHECKPOINT", help="a cell's folder or its model file"
    )
    diagnosing.add_argument(
        "--picture", type=Path, metavar="FILE", help="a PNG (diagnosis.png in the cell's folder)"
    )
    _data_argument(diagnosing)
    _plugin_argument(diagnosing)
    diagnosing.set_defaults(verb=_diagnose)

    verifying = verbs.add_parser(
        "verify", help="hold the measurements against models whose answers are known"
    )
    verifying.set_defaults(verb=_verify)

    check = verbs.add_parser("check", help="everything that is wrong with a suite, at once")
    _suite_arguments(check)
    check.set_defaults(verb=_check)

    show = verbs.add_parser("list", help="what a suite can name")
    show.add_argument("what", choices=("remedies", "corpora", "architectures", "metrics"))
    _plugin_argument(show)
    show.set_defaults(verb=_list)
    return parser


def _suite_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("suite", type=Path, metavar="SUITE", help="a YAML file")
    _plugin_argument(parser)


def _data_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        default=os.environ.get("COLLAPSE_BENCH_DATA"),
        help="folder of corpora ($COLLAPSE_BENCH_DATA)",
    )


def _plugin_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--plugin",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="a remedy of your own; its code is run. May be given several times",
    )


def _seeds(text: str) -> tuple[int, ...]:
    seeds = tuple(int(seed) if seed.isdecimal() else -1 for seed in text.split(","))
    if len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise argparse.ArgumentTypeError(
            f"must be different whole numbers from 0 on, such as 1,2, not {text!r}"
        )
    return seeds


def _positive_number(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 on, not {text!r}")
    return int(text)


def _load(options: argparse.Namespace) -> "tuple[Suite, dict[str, Path]]":
    from collapse_bench.plugins import remedy_files
    from collapse_bench.suite import load_suite

    files = remedy_files(options.plugin)
    return load_suite(options.suite, files), files


def _run(options: argparse.Namespace) -> int:
    from collapse_bench.suite import cells_of, select

    suite, files = _load(options)
    if options.seeds:
        suite = replace(suite, seeds=options.seeds)
    chosen = select(cells_of(suite), options.only)

    from collapse_bench import runner
    from collapse_bench.corpus import load_corpus
    from collapse_bench.progress import Progress

    device = runner.resolve_device(options.device)
    workers = options.workers or (runner.cores() if device == "cpu" else 1)
    corpus = load_corpus(suite.corpus, options.data, say=_say)
    if problems := runner.check_builds(chosen, corpus, files):
        raise SuiteError([f"{options.suite}: {problem}" for problem in problems])
    options.out.mkdir(parents=True, exist_ok=True)
    jobs = runner.plan(
        chosen,
        corpus,
        options.out,
        budget=options.budget,
        workers=workers,
        device=device,
        remedy_files=files,
    )
    print(
        f"{suite.name}: {len(jobs)} cells on {corpus.name}, {jobs[0].budget:,} tokens each, "
        f"{min(workers, len(jobs))} at a time on {device}; records in {options.out / suite.name}",
        flush=True,
    )
    try:
        records = runner.run_jobs(jobs, workers, Progress(len(jobs)))
    except runner.InterruptedRunError as interruption:
        _say("interrupted; finished cells are kept, the same command goes on with the others")
        return 128 + interruption.signal_number
    failed = [record for record in records if record["status"] != "done"]
    for record in failed:
        where = options.out / suite.name / record["cell"] / "record.json"
        _say(f"{record['status']}: {record['entry']}/{record['architecture']}/{record['seed']}, "
             f"traceback in {where}")  # fmt: skip
    return 1 if failed else 0


def _leaderboard(options: argparse.Namespace) -> int:
    from collapse_bench.leaderboard import write_leaderboard
    from collapse_bench.record import read_records
    from collapse_bench.suite import belongs, cells_of, curves_of

    suite, _ = _load(options)
    cells = cells_of(suite)
    everything = read_records(options.runs / suite.name)
    records = [record for record in everything if belongs(record, suite)]
    if len(records) < len(everything):
        _say(f"{len(everything) - len(records)} records of earlier settings are left out")
    expected = [(cell.entry.name, cell.architecture, cell.seed) for cell in cells]
    page = write_leaderboard(suite.name, expected, records, options.out, curves_of(suite))
    print(page)
    return 0


def _score(options: argparse.Namespace) -> int:
    codes = {0}
    for folder in options.cells:
        try:
            codes.add(0 if _score_one(folder, options) else 1)
        except UserError as error:  # the other cells are none the worse for it
            _say(f"error: {error}")
            codes.add(error.exit_code)
    return max(codes)


def _score_one(folder: Path, options: argparse.Namespace) -> bool:
    """Score a cell again; tell whether its record agrees, or was written."""
    from collapse_bench.metrics import key_of
    from collapse_bench.plugins import remedy_files
    from collapse_bench.rescoring import (
        read_finished,
        remedies_of,
        rescore,
        restore,
        score_arrays,
        score_model,
    )

    files = remedy_files(options.plugin)
    result = read_finished(folder, oldest=1 if options.write == "model" else 2)
    if options.write:
        remedies = remedies_of(folder, result, files)
        if options.write == "arrays":
            result = score_arrays(folder, result, remedies)
        else:
            restored = restore(folder, result, files, options.data, _say)
            result = score_model(folder, result, restored, remedies)
        useful = result["metrics"][key_of("useful_information")]
        print(f"{folder}: {result['verdict']}, useful information {useful:.2f}", flush=True)
        return True
    lines = rescore(folder, restore(folder, result, files, options.data, _say), result)
    agree = all(line.agrees for line in lines)
    print(f"{folder}: {'agrees' if agree else 'DIFFERS'}")
    print(f"  {'metric':36} {'record':>14} {'from arrays':>14} {'from model':>14}")
    for line in lines:
        numbers = [
            f"{'-':>14}" if value is None else f"{value:14.6f}"
            for value in (line.recorded, line.from_arrays, line.from_model)
        ]
        print(f"  {line.name:36} {' '.join(numbers)}{'' if line.agrees else '  differs'}")
    return agree


def _diagnose(options: argparse.Namespace) -> int:
    from collapse_bench.plugins import remedy_files
    from collapse_bench.rescoring import diagnose_cell

    if not options.cell.exists():
        raise UserError(f"{options.cell}: there is no such cell or model file")
    folder = options.cell if options.cell.is_dir() else options.cell.parent
    diagnosis = diagnose_cell(folder, remedy_files(options.plugin), options.data, _say)
    print(diagnosis)
    asked = options.picture or folder / "diagnosis.png"
    picture = diagnosis.draw(asked, title=folder.resolve().name)
    print(f"\npicture: {picture}")
    return 0


def _verify(options: argparse.Namespace) -> int:
    from collapse_bench.verification import table, verify

    checks = []
    for check in verify():
        checks.append(check)
        print(f"{'ok' if check.passed else 'FAIL':4} {check.model}: {check.what}", file=sys.stderr)
    failed = [check for check in checks if not check.passed]
    print("\n".join(table(checks)))
    print(f"\n{len(checks) - len(failed)} of {len(checks)} checks passed")
    return 1 if failed else 0


def _check(options: argparse.Namespace) -> int:
    from collapse_bench.suite import cells_of

    suite, files = _load(options)
    cells = cells_of(suite)

    from collapse_bench.runner import check_steps

    if problems := check_steps(cells, files):
        raise SuiteError([f"{options.suite}: {problem}" for problem in problems])
    print(f"{options.suite}: fine, {len(cells)} cells")
    return 0


def _list(options: argparse.Namespace) -> int:
    from collapse_bench.plugins import class_name, remedy_files, summary_of
    from collapse_bench.settings import rule_of, schema_of_file

    if options.what == "remedies":
        for name, path in remedy_files(options.plugin).items():
            print(f"{name}: {summary_of(path)}")
            for setting in schema_of_file(path, class_name(name)).values():
                rule = rule_of(setting.annotation).words
                print(f"    {setting.name} = {setting.default}  ({rule})")
    elif options.what == "metrics":
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


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
