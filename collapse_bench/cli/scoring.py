"""What `score` does with one cell, or with a record that was published."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from collapse_bench import lease
from collapse_bench.cli.verbs import say
from collapse_bench.device import resolve_device
from collapse_bench.errors import CorpusMissing, UserError
from collapse_bench.evidence import WORDS, Evidence, Line, hold
from collapse_bench.metrics import key_of
from collapse_bench.record import MODEL, OLDEST, RECORD, SENTENCES, read_published
from collapse_bench.rescoring import (
    read_finished,
    remedies_of,
    rescore,
    restore,
    score_arrays,
    score_model,
)

if TYPE_CHECKING:
    from collapse_bench.plugins import RemedyFiles


def score_one(cell: Path, options: argparse.Namespace, files: "RemedyFiles") -> bool:
    """Score a cell again; tell whether its record agrees, or was written.

    Args:
        cell: its folder, the record in it, or a record as published.
        options: of the verb.
        files: where each remedy is.

    Raises:
        UserError: there is no such cell, or one of its files is damaged or another one.
    """
    if cell.is_file() and cell.name != RECORD:
        return _score_published(cell, options)
    folder = cell.parent if cell.is_file() else cell
    if options.write:
        _write(folder, options, files)
        return True
    result = read_finished(folder)
    evidence = hold(result, folder)
    lines, why = _from_model(folder, result, evidence, options, files)
    held, not_held = list(evidence.held), list(evidence.not_held)
    if why:
        not_held.append(f"the model's numbers, since {why}")
    else:
        held.append("metrics and bound from the model")
    if not (folder / SENTENCES).exists() and (folder / MODEL).exists():
        not_held.append(
            f"make {SENTENCES} again with `python -m collapse_bench score --write model {folder}`"
        )
    return _tell(folder, evidence, lines, held, not_held)


def _score_published(path: Path, options: argparse.Namespace) -> bool:
    """Hold a published record against itself, or against the arrays in a folder of its name."""
    if options.write:
        raise UserError(
            f"{path}: a published record cannot be written anew; give the folder of its cell, such"
            f" as runs/<suite>/{path.stem}"
        )
    evidence = hold(read_published(path), path.with_suffix(""))
    return _tell(path, evidence, [], evidence.held, evidence.not_held)


def _write(folder: Path, options: argparse.Namespace, files: "RemedyFiles") -> None:
    """Write a cell's record anew, from its arrays or its model."""
    result = read_finished(folder, oldest=1 if options.write == "model" else OLDEST)
    remedies = remedies_of(folder, result, files)
    try:
        settings, tokens = result["settings"], result["cost"]["tokens_decoded"]
        with lease.hold(folder, settings) as holding:
            holding.tell({"tokens": tokens, "evaluating": True})
            if options.write == "arrays":
                result = score_arrays(folder, result, remedies)
            else:
                device = resolve_device(options.device)
                restored = restore(folder, result, files, options.data, say, device)
                result = score_model(folder, result, restored, remedies)
    except lease.BusyError as busy:
        raise UserError(
            f"{folder}: {busy} works on this cell; score it when that has ended"
        ) from None
    useful = result["metrics"][key_of("useful_beyond")]
    told = f"{result['verdict']}, bound {result['bound']}, useful beyond {useful:.2f}"
    print(f"{folder}: {told}", flush=True)


def _from_model(
    folder: Path,
    result: Mapping[str, Any],
    evidence: Evidence,
    options: argparse.Namespace,
    files: "RemedyFiles",
) -> tuple[list[Line], str]:
    """Every metric of a cell beside what its model gives; or no line, and why there is none."""
    if not (folder / MODEL).exists():
        return [], f"{MODEL} is not here"
    device = resolve_device(options.device)
    try:
        restored = restore(folder, result, files, options.data, say, device)
    except CorpusMissing as error:
        if options.data is not None:  # where it was said to be
            raise
        return [], f"its corpus is not here: {error}"
    return rescore(folder, restored, result, evidence.from_arrays), ""


def _tell(
    cell: Path,
    evidence: Evidence,
    lines: Sequence[Line],
    held: Sequence[str],
    not_held: Sequence[str],
) -> bool:
    """Print what agrees and what differs, and what could not be held; tell whether all agrees."""
    agree = all(line.agrees for line in lines) and not evidence.differences
    print(f"{cell}: {'agrees' if agree else 'DIFFERS'}")
    if lines:
        print(f"  {'metric':36} {'record':>14} {'from arrays':>14} {'from model':>14}")
    for line in lines:
        numbers = " ".join(map(_shown, (line.recorded, line.from_arrays, line.from_model)))
        print(f"  {line.name:36} {numbers}{'' if line.agrees else '  differs'}")
    told = {f"metrics.{line.name}" for line in lines} | ({*WORDS} if lines else set())
    for each in evidence.differences:
        if each.field not in told:
            numbers = " ".join(map(_shown, (each.recorded, each.found)))
            print(f"  {each.field:36} {numbers}  differs")
    print(f"  held: {', '.join(held)}")
    if not_held:
        print(f"  not held: {'; '.join(not_held)}")
    return agree


def _shown(value: object) -> str:
    if value is None:
        return f"{'-':>14}"
    return f"{value:14.6f}" if isinstance(value, float) else f"{value!s:>14}"
