"""The verbs that train: what is to be done, doing it, and how far it is."""

import argparse
import os
import shutil
import signal
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from collapse_bench.cli.verbs import load, say
from collapse_bench.errors import SuiteError, UserError
from collapse_bench.writing import free_bytes

CLEAR = "\x1b[H\x1b[J"
"""What has a terminal begin anew."""

if TYPE_CHECKING:
    from collapse_bench.job import Job
    from collapse_bench.suite import Suite


def plan(options: argparse.Namespace) -> int:
    from collapse_bench.damage import damaged
    from collapse_bench.durations import in_words
    from collapse_bench.forecast import forecast, remaining, room
    from collapse_bench.runner import is_due, what_has_changed

    jobs, workers, _ = _jobs(options)
    faults = {job.folder: found for job in jobs if (found := damaged(job.folder))}
    left = [job for job in jobs if is_due(job) or job.folder in faults]
    tokens = sum(map(remaining, left))
    first = jobs[0]
    print(
        f"{first.cell.suite} on {first.corpus.name}: {len(left)} of {len(jobs)} cells to run,"
        f" {len(jobs) - len(left)} are kept; {tokens:,} tokens to train"
    )
    for line in what_has_changed(jobs):
        say(line)
    for folder, found in faults.items():
        say(f"{folder}: {found[0][0].name} is damaged; a run puts it aside and makes it again")
    trained = [job for job in left if job.trained_in is None]
    if trained:
        told = forecast(jobs, trained, workers)
        rates = ", ".join(f"{name} {rate:,.0f}" for name, rate in told.rates.items())
        with_evaluation = ", evaluation in it" if told.evaluated else "; evaluation comes on top"
        measured = f"as {told.finished} finished cells were" if told.finished else "timed alone"
        print(
            f"they take about {in_words(told.seconds)} on this machine, {workers} at a time on"
            f" {first.device_name}{with_evaluation}"
        )
        print(f"(tokens a second of one cell, {measured}: {rates})")
        print(f"memory: about {told.memory_mib:,.0f} MiB a cell, at least")
    if left:
        free = free_bytes(first.folder) / 2**20
        print(f"disk: about {room(left, workers) / 2**20:,.0f} MiB needed, {free:,.0f} MiB free")
    return 0


def run(options: argparse.Namespace) -> int:
    jobs, workers, device = _jobs(options)

    from collapse_bench.progress import Progress
    from collapse_bench.runner import InterruptedRunError, engine_on, run_jobs, what_has_changed

    jobs = [replace(job, fresh=options.fresh, checkpoint=options.checkpoint) for job in jobs]
    suite, corpus = jobs[0].cell.suite, jobs[0].corpus
    threads = jobs[0].cell.training.threads or 1
    budgets = sorted({job.budget for job in jobs})
    tokens = " to ".join(f"{budget:,}" for budget in dict.fromkeys((budgets[0], budgets[-1])))
    each = f", {threads} threads each" if threads > 1 else ""
    engine = engine_on(
        options.on, workers=options.workers, at_once=workers, slurm=dict(options.slurm)
    )
    where = f"{min(workers, len(jobs))} at a time on {device}"
    if options.on != "local":
        where = f"on {device} by {options.on}"
    print(
        f"{suite}: {len(jobs)} {'cell' if len(jobs) == 1 else 'cells'} on {corpus.name},"
        f" {tokens} tokens each, "
        f"{where}{each}; "
        f"records in {options.out / suite}",
        flush=True,
    )
    for line in what_has_changed(jobs, elsewhere=options.on != "local"):
        say(line)
    progress = Progress(len(jobs), verbose=options.verbose)
    try:
        records = run_jobs(jobs, engine, progress, options.timeout)
    except InterruptedRunError as interruption:
        say("interrupted; finished cells are kept, the same command goes on with the others")
        return 128 + interruption.signal_number
    failed = [record for record in records if record["status"] != "done"]
    for record in failed:
        path = options.out / suite / record["cell"] / "record.json"
        say(f"{record['status']}: {record['entry']}/{record['architecture']}/{record['seed']}, "
             f"why is in {path}")  # fmt: skip
    return 1 if failed else 0


def status(options: argparse.Namespace) -> int:
    suite, _ = load(options)
    folder = options.out / suite.name
    if not folder.is_dir():
        say(f"{folder}: there is no such folder, so nothing has been run there yet")
    with suppress(KeyboardInterrupt):
        if options.watch:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        _show(suite, folder, options.budget, options.watch)
    return 0


def _show(suite: "Suite", folder: Path, budget: int | None, watch: float | None) -> None:
    """Print how far a suite is, again and again where it is to be followed."""
    from collapse_bench.status import UNFINISHED, status_of, table

    while True:
        states, others = status_of(suite, folder, budget)
        terminal = sys.stdout.isatty()
        width = shutil.get_terminal_size((200, 0)).columns if terminal else sys.maxsize
        lines = "\n".join(table(states, width))
        if others:
            lines += f"\n{others} more are of other settings, texts or remedies, and left out"
        follows = watch and terminal
        print(f"{CLEAR}{lines}" if follows else lines, flush=True)
        if not watch or not any(each.state in UNFINISHED for each in states):
            return
        time.sleep(watch)


def _jobs(options: argparse.Namespace) -> "tuple[list[Job], int, str]":
    """The chosen cells of a suite, how many at a time, and on which device."""
    from collapse_bench.suite import cells_of, select

    suite, files = load(options)
    if options.out.exists() and not options.out.is_dir():
        raise UserError(f"--out: must be a folder, and {options.out} is a file; name another one")
    if options.seeds:
        suite = replace(suite, seeds=options.seeds)
    threads = options.threads or suite.training.threads or _threads_of_the_environment()
    suite = replace(suite, training=replace(suite.training, threads=threads))
    chosen = select(cells_of(suite), options.only)

    from collapse_bench import runner
    from collapse_bench.corpus import load_corpus
    from collapse_bench.device import resolve_device
    from collapse_bench.trial import check_builds

    device = resolve_device(options.device)
    at_once = max(1, runner.cores() // threads) if device == "cpu" else 1
    corpus = load_corpus(suite.corpus, options.data, say=say)
    built = check_builds(chosen, corpus, files)
    if built.problems:
        raise SuiteError([f"{options.suite}: {problem}" for problem in built.problems])
    jobs = runner.plan(
        chosen,
        corpus,
        options.out,
        budget=options.budget,
        device=device,
        remedy_files=files,
        retry=options.retry,
        memory=options.memory,
        parameters=built.parameters,
    )
    return jobs, options.workers or at_once, device


def _threads_of_the_environment() -> int:
    """What OMP_NUM_THREADS says of the outermost level, as `4` or `4,2`; one where it says nothing.

    Raises:
        UserError: it is no number.
    """
    told = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if told and not (told.isdecimal() and int(told)):
        raise UserError(
            f"OMP_NUM_THREADS: must be a number of threads, 1 or more, not {told!r}; unset it, or"
            " give --threads"
        )
    return int(told or 1)
