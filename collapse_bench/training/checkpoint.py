"""A training on disk between two of its steps, so that one that is interrupted goes on from there.

A checkpoint holds what a run and its selection depend on, as tensors and plain values, and what it
is of: the cell, its corpus, the code. It ends in the SHA-256 of all that is before.
"""

import hashlib
import io
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from threading import Event
from typing import Any

import torch

from collapse_bench.errors import UserError
from collapse_bench.record import CHECKPOINTS
from collapse_bench.remedy import Step
from collapse_bench.training.run import TrainingRun
from collapse_bench.training.selection import Selection
from collapse_bench.writing import replacing, telling

EVERY, SOONEST = 300.0, 60.0
"""Seconds after which a checkpoint is due, and after which a validation makes one due."""

SHARE = 0.005
"""Of the time, what checkpoints may take: none is due until the last one has taken no more."""

KEPT = 2
"""Checkpoints of a cell: one can be damaged."""

DIGEST = 64
"""Characters of a SHA-256."""


_OF_ANOTHER_SHAPE = (LookupError, RuntimeError, TypeError, ValueError, AttributeError)


class RefusedError(Exception):
    """Why a checkpoint cannot be gone on from."""


class OtherError(RefusedError):
    """It is of something else, which may go on from it.

    Attributes:
        names: of what differs.
    """

    def __init__(self, others: Mapping[str, str]) -> None:
        super().__init__(f"of {', '.join(others.values())}; not gone on from")
        self.names = tuple(others)


class StoppedError(Exception):
    """The training was asked to stop, and has left its checkpoint or those that it refused."""


class Checkpoints:
    """The last checkpoints of a cell, and what all attempts at it have cost together.

    Args:
        folder: the cell's.
        of: what a checkpoint has to be of, by name: another one is not gone on from.
        say: told in a line what is gone on from, and what is not and why.
        stop: set by whoever wants a checkpoint and an end; None is nobody.
        every: seconds after which a checkpoint is due, and not later after a validation; None is
            `EVERY` and `SOONEST`.

    Attributes:
        attempts: this one, and those that it goes on from.
        others: what is another one in the checkpoints that were refused, by name.
    """

    def __init__(
        self,
        folder: Path,
        of: Mapping[str, str],
        say: Callable[[str], None] = lambda text: None,
        stop: Event | None = None,
        every: float | None = None,
    ) -> None:
        self.folder = folder
        self.of = dict(of)
        self.say = say
        self.stop = stop or Event()
        self.every = every
        self.attempts = 1
        self._kept: list[Path] = []
        self.others: set[str] = set()
        self._began = self._last = time.monotonic()
        self._took = self._writing = 0.0

    def start(self, run: TrainingRun, selection: Selection) -> Step:
        """The remedy's step, from the newest checkpoint or, where there is none, the beginning.

        Args:
            run: nothing has been trained in it yet.
            selection: of the same run.

        Raises:
            UserError: the run is not of the shape that the checkpoint has.
        """
        path, saved = self.newest()
        if path is None:
            return run.start()
        try:
            selection.load_state_dict(saved["selection"])
            step = run.start(dict(saved["run"]))  # None would begin anew
            self.add(saved["cost"])
        except _OF_ANOTHER_SHAPE as error:
            raise UserError(
                f"{path}: does not fit this cell: {type(error).__name__}: {error}; begin it anew"
                " with `run --fresh`"
            ) from error
        self._kept = [path]
        self.say(f"goes on from {run.meter.tokens:,} of {run.meter.budget:,} tokens")
        return step

    def offer(self, run: TrainingRun, selection: Selection, *, validated: bool) -> None:
        """Write a checkpoint if one is due.

        Args:
            run: between two steps, or at its end.
            selection: of the same run.
            validated: whether there has just been a validation.

        Raises:
            StoppedError: the training is to stop; there is a checkpoint of this moment. Only one
                that has just begun leaves those that it refused in its place: whoever reads that
                may want to go back to the code that they are of.
        """
        if self.stop.is_set():
            has_just_begun = time.monotonic() < self._began + SOONEST
            if self._kept or not (self.others and has_just_begun):
                self.write(run, selection)
            raise StoppedError
        waited = time.monotonic() - self._last
        asked = self.every or EVERY
        if waited >= max(self._took / SHARE, min(SOONEST, asked) if validated else asked):
            self.write(run, selection)

    def write(self, run: TrainingRun, selection: Selection) -> None:
        """Write a checkpoint, unless there is one of this moment; the one before it stays, too.

        A checkpoint that cannot be written is told of and costs no result.
        """
        path = self.folder / CHECKPOINTS.replace("*", f"{run.meter.tokens:012}")
        if path in self._kept:
            return
        began = time.monotonic()
        try:
            saved = {"run": run.state_dict(), "selection": selection.state_dict()}
            write_checkpoint(path, {"of": self.of, "cost": self.cost(), **saved})
            self._kept = [*self._kept, path][-KEPT:]
            for other in set(self.folder.glob(CHECKPOINTS)) - set(self._kept):
                other.unlink(missing_ok=True)
        except Exception as error:  # a full disk, or what JSON does not know in `run.state`
            self.say(f"no checkpoint at {run.meter.tokens:,} tokens: {error}")
        self._last = time.monotonic()
        self._took = self._last - began
        self._writing += self._took

    def cost(self) -> dict[str, Any]:
        """Of all attempts until now: the time between them is not in it, nor what an attempt did
        after the checkpoint that was gone on from."""
        return {
            "attempts": self.attempts,
            "seconds": time.monotonic() - self._began - self._writing,
            "checkpoint_seconds": self._writing,
        }

    def add(self, cost: Mapping[str, Any]) -> None:
        """Count what attempts that this one goes on from have cost, as `cost` tells it."""
        self.attempts += cost["attempts"]
        self._writing += cost["checkpoint_seconds"]
        self._began -= cost["seconds"] + cost["checkpoint_seconds"]

    def remove(self) -> None:
        """Delete all checkpoints of the cell, and what is left of a writing that was cut off.

        Raises:
            DiskError: the system refuses to.
        """
        for path in left_behind(self.folder):
            with telling(path):
                path.unlink(missing_ok=True)

    def newest(self) -> tuple[Path | None, dict[str, Any]]:
        """The newest checkpoint that is whole and of this cell, and what it holds."""
        refused = False
        for path in sorted(self.folder.glob(CHECKPOINTS), reverse=True):
            try:
                return path, read_checkpoint(path, self.of)
            except FileNotFoundError:  # another run of the suite has written a newer one
                continue
            except (RefusedError, OSError) as why:
                self.say(f"{path}: {why}")
                refused = True
                self.others |= set(why.names if isinstance(why, OtherError) else ())
        if refused:
            self.say("begins anew")
        return None, {}


def left_behind(folder: Path) -> list[Path]:
    """What a finished cell has no use for: its checkpoints, and what a writing that was cut off has
    left."""
    return [path for pattern in (CHECKPOINTS, ".*.tmp") for path in folder.glob(pattern)]


def write_checkpoint(path: Path, saved: Mapping[str, Any]) -> None:
    """Write a checkpoint; a reader sees the whole of it or none.

    Args:
        path: of the file.
        saved: tensors and plain values.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, _Digested(temporary) as file:
        torch.save(saved, file)
        file.write(file.sha256.hexdigest().encode())


def read_checkpoint(path: Path, of: Mapping[str, str]) -> dict[str, Any]:
    """A checkpoint, its tensors on the host; no code of its is run.

    Args:
        path: of the file.
        of: what it has to be of.

    Raises:
        OtherError: it is of something else.
        RefusedError: it is damaged.
    """
    if not _has_its_digest(path):
        raise RefusedError("damaged, its SHA-256 is not the one at its end; not gone on from")
    try:  # of an archive with a digest after it, zipfile and torch read the archive
        with zipfile.ZipFile(path) as archive:
            if any(each.file_size != each.compress_size for each in archive.infolist()):
                raise RefusedError("compressed, as no checkpoint is; not gone on from")
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except RefusedError:
        raise
    except UnpicklingError as error:  # whose message says how to run what is in it
        raise RefusedError("holds more than tensors and plain values; not gone on from") from error
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RefusedError(f"cannot be read: {first}; not gone on from") from error
    if not isinstance(saved, dict) or not _told_in_words(saved.get("of")):
        raise RefusedError("does not tell what it is of; not gone on from")
    others = {
        name: f"another {name} ({saved['of'].get(name)}, now {value})"
        for name, value in of.items()
        if saved["of"].get(name) != value
    }
    if others:
        raise OtherError(others)
    return saved


def _has_its_digest(path: Path) -> bool:
    """Whether a file ends in the SHA-256 of all that is before, which is read piece by piece."""
    sha256, left = hashlib.sha256(), path.stat().st_size - DIGEST
    with path.open("rb") as file:
        while left > 0 and (some := file.read(min(left, 2**20))):
            sha256.update(some)
            left -= len(some)
        return file.read() == sha256.hexdigest().encode()


def _told_in_words(of: object) -> bool:
    """Whether it is texts by name, which can be shown without looking how long they get."""
    return isinstance(of, dict) and all(
        isinstance(text, str) for pair in of.items() for text in pair
    )


class _Digested(io.BufferedWriter):
    """A file to write to that knows the SHA-256 of what has been written."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path, "w"))
        self.sha256 = hashlib.sha256()

    def write(self, some: Any, /) -> int:
        self.sha256.update(some)
        return super().write(some)
