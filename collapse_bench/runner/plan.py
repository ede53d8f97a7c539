"""Which cells a run has, and which of them are due."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from collapse_bench import record
from collapse_bench.cell import gone_on_from
from collapse_bench.corpus import Corpus
from collapse_bench.device import name_of_device
from collapse_bench.errors import UserError
from collapse_bench.job import Job
from collapse_bench.lease import read_lease
from collapse_bench.precision import resolve_precision
from collapse_bench.provenance import CODE
from collapse_bench.suite import Cell, cell_id, digest_of, named, trained_as

RETRY = {
    "failed": ("failed",),
    "killed": ("killed", "timeout", "out of memory"),
    "diverged": ("diverged",),
}
RETRY["all"] = tuple(status for statuses in RETRY.values() for status in statuses)
"""What `--retry` runs again: cells of these outcomes."""

ONCE = ("failed", "killed")
"""Outcomes after which a cell is run again without being asked to, once with the same code."""


def plan(
    chosen: Sequence[Cell],
    corpus: Corpus,
    out: Path,
    *,
    budget: int | None,
    device: str,
    remedy_files: Mapping[str, Path],
    retry: str | None = None,
    memory: int | None = None,
    parameters: Mapping[tuple[str, str], int] | None = None,
) -> list[Job]:
    """The jobs of a run, finished cells included.

    Args:
        chosen: the cells.
        corpus: loaded once, shared by all.
        out: folder of all runs; a cell is kept in `<out>/<suite>/<cell id>`.
        budget: decoded tokens, in place of the suite's and of every entry's; None keeps those.
        device: `cpu` or `cuda`.
        remedy_files: where each remedy is.
        retry: which outcomes to run again, a key of `RETRY`; None is `ONCE`.
        memory: bytes that a cell's process may have; None is no limit.
        parameters: of the models, by entry and architecture, where they have been counted.

    Raises:
        UserError: the device cannot be used, or not compute in the precision that a cell asks for;
            or a cell shares a training that is neither there nor chosen.
    """
    code, device_name = CODE, name_of_device(device)
    jobs = []
    for each in chosen:
        each = replace(each, training=replace(each.training, threads=each.training.threads or 1))
        precision = {}
        for part in ("training", "evaluation"):
            try:
                precision[part] = resolve_precision(getattr(each, part).precision, device)
            except UserError as error:
                raise UserError(f"{part}.precision: {error}") from None
        tokens = budget or each.budget_for(corpus.name)

        def identifier(cell: Cell, tokens: int = tokens) -> str:
            return cell_id(cell, corpus.name, corpus.sha256, corpus.labels_sha256, tokens)

        trained = trained_as(each)
        folder = out / each.suite / identifier(each)
        jobs.append(
            Job(
                each,
                identifier(each),
                folder,
                corpus,
                tokens,
                device,
                device_name,
                precision,
                dict(remedy_files),
                code,
                suite_budget=budget or each.training.budget_for(corpus.name),
                trained_in=None if trained is None else out / each.suite / identifier(trained),
                retry=retry,
                tried=attempts(record.read_if_whole(folder)),
                memory=memory,
                parameters=(parameters or {}).get((each.entry.name, each.architecture), 0),
            )
        )
    planned = {job.folder for job in jobs}
    for job in jobs:
        lender = job.trained_in
        if lender is not None and not (lender in planned or record.is_finished(lender)):
            shared = trained_as(job.cell)
            raise UserError(
                f"{job.cell.name}: shares the training of {shared and shared.name}, which has not"
                f" finished and is not chosen: choose both"
            )
    return jobs


def is_due(job: Job) -> bool:
    """Whether a cell has to be run: it has no result that is kept, and nobody has made another
    attempt at it since the run was planned."""
    told = record.read_if_whole(job.folder)
    if told is None:
        return True
    if attempts(told) != job.tried:
        return False
    status = told["status"]
    if status == "done":
        # Its arrays or its model have been lost; a record that has neither beside it was published.
        if (job.folder / record.SENTENCES).exists() != (job.folder / record.MODEL).exists():
            return True
        # It shares the training of another cell, which has been trained again since.
        lent = record.digest_of_model(job.trained_in) if job.trained_in is not None else None
        return lent is not None and told.get("trained_model") != lent
    if status == "failed" and _waited_for(job, told):
        return True
    if job.retry is not None:
        return status in RETRY[job.retry]
    same_code = [each for each in told.get("attempts", []) if each["code"] == job.code]
    return status in ONCE and not (same_code and told["environment"]["code"] == job.code)


def what_has_changed(jobs: Sequence[Job], *, elsewhere: bool = False) -> list[str]:
    """What it means that the package, the suite or a remedy has been edited, or another one of what
    a checkpoint is of is here, since some of the cells were trained, in words; nothing where that
    is nothing.

    Args:
        jobs: of a run.
        elsewhere: whether they are run on other machines: see `gone_on_from`.
    """
    due = [job for job in jobs if is_due(job)]
    commits: dict[str, int] = {}
    for job in jobs:
        told = record.read_if_whole(job.folder)
        if due and told and told["status"] == "done" and told["environment"]["code"] != job.code:
            commit = told["environment"]["commit"] or "an unknown commit"
            commits[commit] = commits.get(commit, 0) + 1
    replaced = _of_other_settings(jobs) if due else []
    refused = [others for job in due if (others := gone_on_from(job, elsewhere=elsewhere)[1])]
    said = []
    if commits:
        of = ", ".join(f"{n} of {commit}" for commit, n in sorted(commits.items()))
        said.append(
            f"finished cells were trained by other code ({of}): they are kept, and their records"
            f" say by which; remove the folders of those that are to be trained anew"
        )
    if replaced:
        said.append(
            f"cells of other settings, text or remedies: {len(replaced)}, such as {replaced[0]};"
            f" they are left as they are: put back what was edited to go on with them, or remove"
            f" their folders"
        )
    if refused:
        names = " or ".join(sorted(frozenset.union(*refused)))
        said.append(
            f"interrupted cells that begin anew: {len(refused)}, whose checkpoints are of another"
            f" {names}: go back to that, such as by checking its commit out, to go on with them"
        )
    return said


def _of_other_settings(jobs: Sequence[Job]) -> list[Path]:
    """The folders of cells that are called as those of a run, and are of other settings than a
    budget and a number of threads, which each run may choose."""
    settings = {named(job.id): _digest_but_for_a_run(job.settings) for job in jobs}
    suites = {job.folder.parent for job in jobs}
    found = [path for suite in suites if suite.is_dir() for path in suite.iterdir()]
    return sorted(
        path
        for path in found
        if (now := settings.get(named(path.name))) is not None
        and (told := _settings_of(path)) is not None
        and _digest_but_for_a_run(told) != now
    )


def _settings_of(folder: Path) -> Mapping[str, Any] | None:
    """Of a cell that has begun, as far as its record or its last owner tells them."""
    with suppress(UserError):
        if (told := record.read_if_whole(folder)) is not None:
            return told.get("settings")
    last = read_lease(folder)
    return None if last is None else last.settings


def _digest_but_for_a_run(settings: Mapping[str, Any]) -> str | None:
    """None of settings that do not tell enough."""
    with suppress(AttributeError, KeyError, TypeError):
        training = dict(settings["training"])
        for name in ("budget", "threads"):
            training.pop(name, None)
        return digest_of({**settings, "training": training})
    return None


def _waited_for(job: Job, told: Mapping[str, Any]) -> bool:
    """Whether a cell failed because the training that it shares had not finished, and it has since:
    the failure was that of the other cell."""
    if job.trained_in is None or told.get("trained_model") is not None:
        return False
    other = record.read_if_whole(job.trained_in)
    return other is not None and other["status"] in record.FINISHED


def attempts(told: Mapping[str, Any] | None) -> int:
    """How many attempts at a cell have ended, by its record."""
    return 0 if told is None else 1 + len(told.get("attempts", []))
