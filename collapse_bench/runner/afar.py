"""A cell on another machine: what is sent there, how it is computed there, and what comes back."""

import os
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from collapse_bench import lease, record
from collapse_bench.corpus import Corpus
from collapse_bench.damage import put_aside
from collapse_bench.errors import DiskError
from collapse_bench.job import Job
from collapse_bench.plugins import BUILT_IN, built_in
from collapse_bench.runner.engine import Ended, Outcome, Reported
from collapse_bench.runner.local import Local
from collapse_bench.runner.plan import is_due
from collapse_bench.writing import replacing, telling

VISIBLE = 60.0
"""Seconds after which a file of another machine has to be seen in a shared folder: NFS remembers
for as long, by default, that there was none."""


@dataclass(frozen=True)
class Parcel:
    """A job as it is sent.

    Attributes:
        parts: all of it but the corpus, which is sent once for all; its folders are absolute.
        sources: what is in the file of each of the cell's remedies that is not built in.
    """

    parts: Mapping[str, Any]
    sources: Mapping[str, bytes]


def pack(job: Job) -> Parcel:
    """What is sent of a job.

    Raises:
        DiskError: the file of a remedy cannot be read.
    """
    parts = {each.name: getattr(job, each.name) for each in fields(job) if each.name != "corpus"}
    parts["folder"] = job.folder.absolute()
    parts["trained_in"] = job.trained_in and job.trained_in.absolute()
    sources = {}
    for remedy in job.cell.entry.remedies:
        path = job.remedy_files[remedy.name]
        if not path.is_relative_to(BUILT_IN):
            with telling(path):
                sources[remedy.name] = path.read_bytes()
    return Parcel(parts, sources)


def unpack(parcel: Parcel, corpus: Corpus, scratch: Path) -> Job:
    """The job of a parcel, here.

    Built-in remedies are those of the package here; `cell.run_cell` refuses another one's code.

    Args:
        parcel: as it was sent.
        corpus: its corpus.
        scratch: folder for the files of remedies that are not where they were, or are others.
    """
    files: dict[str, Path] = dict(built_in())
    for name, source in parcel.sources.items():
        path = parcel.parts["remedy_files"][name]
        if not path.is_file() or path.read_bytes() != source:
            path = scratch / f"{name}.py"
            path.write_bytes(source)
        files[name] = path
    return Job(**{**parcel.parts, "corpus": corpus, "remedy_files": files})


def begin(job: Job) -> Local:
    """Start a cell in a process of its own here, as every run on one machine does: what becomes of
    the cell is told apart from what becomes of this machine.

    Raises:
        UserError: there is no process to fork it from.
    """
    os.environ["OMP_NUM_THREADS"] = str(job.cell.training.threads or 1)
    engine = Local(1)
    engine.submit(job)
    return engine


def follow(job: Job, engine: Local, grace: float) -> Iterator[Reported | Ended]:
    """Everything that a cell tells, until it has ended.

    Whoever stops listening ends it.

    Args:
        job: the cell.
        engine: as `begin` gives it.
        grace: seconds that the cell then has to leave a checkpoint in.
    """
    try:
        over = False
        while not over:
            for event in engine.events(0.5):
                over = isinstance(event, Ended)
                if over:
                    lease.bury(job.folder)
                yield event
    finally:
        engine.close(grace)
        lease.bury(job.folder)


def files_of(folder: Path) -> dict[str, bytes]:
    """What is in the files of a cell, by name; nothing that only tells who works on it."""
    if not folder.is_dir():
        return {}
    found = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name[0] != "." and path.name != lease.LEASE:
            with suppress(FileNotFoundError):  # a checkpoint that has been replaced meanwhile
                found[path.name] = path.read_bytes()
    return found


def put_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write the files of a cell, its record last.

    Raises:
        DiskError: the system refuses to write one.
    """
    for name in sorted(files, key=lambda name: (name == record.RECORD, name)):
        with replacing(folder / name) as temporary:
            temporary.write_bytes(files[name])


def bring_home(job: Job, before: Collection[str], after: Mapping[str, bytes]) -> Outcome:
    """Write into its folder what a cell has left where that folder is not to be seen.

    Args:
        job: the cell, as it was planned.
        before: names of its files when it was sent.
        after: what is now.
    """
    try:
        with job.hold():
            put_aside(job.folder)
            if not is_due(job):
                return Outcome("kept")
            put_files(job.folder, after)
            for name in set(before) - after.keys():
                (job.folder / name).unlink(missing_ok=True)
    except lease.BusyError as busy:
        return Outcome("busy", str(busy))
    except DiskError as error:
        return Outcome("disk", str(error))
    return Outcome("recorded")


def wait_for_record(folder: Path) -> None:
    """Until the record that another machine has written is seen here, or it is too late for it."""
    until = time.monotonic() + VISIBLE
    while not (folder / record.RECORD).exists() and time.monotonic() < until:
        time.sleep(0.2)


def is_held(folder: Path) -> bool:
    """Whether somebody may still be at a cell, as far as a file can tell.

    What has ended without a word may have left its lease: until that has expired no record of it
    can be written, and the cell would be run again in place of having an outcome.
    """
    found = lease.read_lease(folder)
    return found is not None and found.alive
