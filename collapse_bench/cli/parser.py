"""The verbs of the command line and their arguments."""

import argparse
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from collapse_bench import __version__
from collapse_bench.cli import running, verbs
from collapse_bench.plugins import LEVERS
from collapse_bench.rules import AtLeast, Rule, rule_of, way_out


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m collapse_bench",
        description="A benchmark of remedies for posterior collapse in text VAEs.",
    )
    parser.add_argument("--version", action="version", version=f"collapse_bench {__version__}")
    added = parser.add_subparsers(required=True, metavar="VERB")

    run = added.add_parser("run", help="train, evaluate and record the cells of a suite")
    _cells_arguments(run)
    run.add_argument(
        "--verbose",
        action="store_true",
        help="say why a cell's passes were not replayed (training.captured)",
    )
    run.add_argument(
        "--fresh",
        action="store_true",
        help="begin interrupted cells anew, not at their last checkpoints",
    )
    run.add_argument(
        "--timeout",
        type=_seconds,
        metavar="TIME",
        help="that an attempt at a cell may take, such as 90s, 30m or 2h; over it the cell's"
        " outcome is 'timeout', and the others go on",
    )
    run.add_argument(
        "--checkpoint",
        type=_seconds,
        metavar="TIME",
        help="after which a checkpoint of a cell is due (5m); it changes no result, and checkpoints"
        " take half a percent of the time at most",
    )
    run.add_argument(
        "--on",
        type=_place,
        default="local",
        metavar="PLACE",
        help="where to compute: local (%(default)s), ray or ray:HOST:PORT, or slurm; see"
        " docs/clusters.md",
    )
    run.add_argument(
        "--slurm",
        type=_option,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an option of sbatch by its long name, such as partition=cpu or time=2:00:00. May be"
        " given several times",
    )
    run.set_defaults(verb=running.run)

    planning = added.add_parser(
        "plan", help="which cells of a suite are left, and how long they will train here"
    )
    _cells_arguments(planning)
    planning.set_defaults(verb=running.plan)

    states = added.add_parser("status", help="how far each cell of a suite is, and who is at it")
    _suite_arguments(states)
    states.add_argument(
        "--out", type=Path, default=Path("runs"), help="folder of all runs (%(default)s)"
    )
    states.add_argument(
        "--budget", type=_positive_number, metavar="TOKENS", help="that the run was given"
    )
    states.add_argument(
        "--watch",
        type=_seconds,
        nargs="?",
        const=2.0,
        metavar="TIME",
        help="follow it, looking again after so long (2s), until every cell has an outcome",
    )
    states.set_defaults(verb=running.status)

    board = added.add_parser("leaderboard", help="records to tables and pictures")
    _suite_arguments(board)
    board.add_argument("--runs", type=Path, default=Path("runs"), help="(%(default)s)")
    board.add_argument("--out", type=Path, default=Path("leaderboard"), help="(%(default)s)")
    board.set_defaults(verb=verbs.leaderboard)

    scoring = added.add_parser(
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
    _device_argument(scoring)
    _data_argument(scoring)
    _plugin_argument(scoring)
    scoring.set_defaults(verb=verbs.score)

    diagnosing = added.add_parser("diagnose", help="is a model collapsed, and how?")
    diagnosing.add_argument(
        "cell", type=Path, metavar="CELL_OR_CHECKPOINT", help="one cell: its folder or model file"
    )
    diagnosing.add_argument(
        "--picture", type=Path, metavar="FILE", help="a PNG (diagnosis.png in the cell's folder)"
    )
    _device_argument(diagnosing)
    _data_argument(diagnosing)
    _plugin_argument(diagnosing)
    diagnosing.set_defaults(verb=verbs.diagnose)

    verifying = added.add_parser(
        "verify", help="hold the measurements against models whose answers are known"
    )
    verifying.set_defaults(verb=verbs.verify)

    check = added.add_parser(
        "check", help="everything that is wrong with a suite, or with a remedy's file, at once"
    )
    check.add_argument(
        "suite",
        type=Path,
        metavar="SUITE_OR_REMEDY",
        help="a YAML file, or the .py file of a remedy, which is held to every law",
    )
    _plugin_argument(check)
    check.set_defaults(verb=verbs.check)

    new = added.add_parser(
        "new-remedy", help="a remedy's file and its test in this folder, to begin with"
    )
    new.add_argument("name", metavar="NAME", help="of the remedy, such as word_dropout")
    new.add_argument(
        "--lever",
        choices=LEVERS,
        required=True,
        help="objective: how much each term counts; build: which parts the model has; step: when"
        " what is updated",
    )
    new.set_defaults(verb=verbs.new_remedy)

    show = added.add_parser("list", help="what a suite can name")
    show.add_argument("what", choices=("remedies", "corpora", "architectures", "metrics"))
    show.add_argument("name", nargs="?", metavar="NAME", help="one remedy, with its settings")
    show.add_argument(
        "--page", action="store_true", help="the built-in remedies as Markdown: docs/remedies.md"
    )
    _plugin_argument(show)
    show.set_defaults(verb=verbs.names)
    return parser


def _cells_arguments(parser: argparse.ArgumentParser) -> None:
    """Which cells of a suite are run, where and how."""
    _suite_arguments(parser)
    parser.add_argument(
        "--out", type=Path, default=Path("runs"), help="folder of all runs (%(default)s)"
    )
    parser.add_argument(
        "--only", metavar="PATTERN", default="*", help="cells, as entry/architecture/seed"
    )
    parser.add_argument("--seeds", type=_seeds, metavar="1,2", help="in place of the suite's")
    parser.add_argument(
        "--budget", type=_positive_number, metavar="TOKENS", help="in place of the suite's"
    )
    parser.add_argument(
        "--workers",
        type=_positive_number,
        metavar="N",
        help="cells at a time (as many as there are cores for); on a GPU, where they are trained",
    )
    parser.add_argument(
        "--threads",
        type=_positive_number,
        metavar="N",
        help="of a cell, in place of the suite's; where neither says, $OMP_NUM_THREADS or one",
    )
    parser.add_argument(
        "--memory",
        type=_bytes,
        metavar="SIZE",
        help="that a cell's process may have, such as 800M or 4G; over it the cell's outcome is"
        " 'out of memory', and the others go on (Linux)",
    )
    parser.add_argument(
        "--retry",
        choices=("failed", "killed", "diverged", "all"),
        help="which outcomes to run again; killed also means those over a limit (without it cells"
        " that failed or were killed are, once)",
    )
    _device_argument(parser)
    _data_argument(parser)


def _suite_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("suite", type=Path, metavar="SUITE", help="a YAML file")
    _plugin_argument(parser)


def _device_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="where to compute (%(default)s: a GPU where there is one)",
    )


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


def _place(text: str) -> str:
    if not re.fullmatch(r"local|slurm|ray|ray:[^:/]+:\d+", text):
        raise argparse.ArgumentTypeError(
            f"must be local, ray, ray:HOST:PORT or slurm, not {text!r}"
        )
    return text


def _option(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (re.fullmatch("[a-z][a-z_-]*", name) and equals and value):
        raise argparse.ArgumentTypeError(f"must be KEY=VALUE, such as time=120, not {text!r}")
    return name, value


def _seconds(text: str) -> float:
    return _with_unit(text, {"s": 1, "m": 60, "h": 3600}, "a time such as 90s, 30m or 2h")


def _bytes(text: str) -> int:
    return int(_with_unit(text, {"M": 2**20, "G": 2**30}, "a size such as 800M or 4G"))


def _with_unit(text: str, units: Mapping[str, int], rule: str) -> float:
    number, unit = text[:-1], text[-1:]
    if unit not in units or not re.fullmatch(r"\d{1,6}(\.\d{1,3})?", number) or not float(number):
        raise argparse.ArgumentTypeError(f"must be {rule}, not {text!r}")
    return float(number) * units[unit]


def _in_digits(rule: Rule, text: str) -> str:
    """Tell how to write a number such as 1e6."""
    try:
        return way_out(rule, float(text))
    except ValueError:
        return ""


def _positive_number(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        rule = rule_of(Annotated[int, AtLeast(1)])
        raise argparse.ArgumentTypeError(
            f"must be {rule.words}, not {text!r}{_in_digits(rule, text)}"
        )
    return int(text)
