"""Files that are written whole or not at all, and what a full disk says."""

import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from collapse_bench.errors import DiskError

_BY_NUMBER = re.compile(r"\(os error (\d+)\)")
"""How libraries that are written in Rust tell what the system said."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Hand out a temporary path and put the file in place when it is complete and on the disk.

    Until then it is called after itself, its process and 8 random digits, since two machines may
    have a process of the same number.

    Whatever goes wrong, what was there before is as it was.

    Args:
        path: of the file; its folder is made if need be.

    Raises:
        DiskError: the system refuses to write, also where the body of the `with` is told so.
    """
    name = f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp"
    temporary = path.with_name(name)
    try:
        with telling(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            _to_the_disk(temporary)
            os.replace(temporary, path)
            with _unless_it_cannot():
                _to_the_disk(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def telling(path: Path) -> Iterator[None]:
    """Turn what the system says about writing a file into words.

    Raises:
        DiskError: in place of an OSError, and of an error that a library makes of one.
    """
    try:
        yield
    except DiskError:
        raise
    except Exception as error:
        if (said := _said(error)) is None:
            raise
        raise DiskError(
            f"{path}: cannot be written: {said}; {_free(path)} bytes are free there; make room, or"
            " the folder writable, and give the same command again: what was there before is as it"
            " was"
        ) from error


@contextmanager
def _unless_it_cannot() -> Iterator[None]:
    """Some file systems flush no folders: then what they promise of a rename is all there is."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise


def _to_the_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _said(error: BaseException | None) -> str | None:
    """What the system said, by an error or by one that it was made of; None where it said
    nothing."""
    while error is not None:
        if isinstance(error, OSError):
            return error.strerror or str(error) or type(error).__name__
        if told := _BY_NUMBER.search(str(error)):
            return os.strerror(int(told[1]))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return None


def flush_or_give_up(stream: TextIO) -> OSError | None:
    """Why what has been printed does not get where it was to. It then goes nowhere: the interpreter
    would try it once more as it ends, and end with a code of its own."""
    try:
        stream.flush()
    except OSError as error:
        with suppress(OSError):  # of a stream that is no file
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return error
    return None


def free_bytes(path: Path) -> int:
    """How many bytes are free where a file is to be, whose folder need not be there yet.

    Raises:
        OSError: the system does not say.
    """
    there = next(each for each in path.absolute().parents if each.exists())
    return shutil.disk_usage(there).free


def _free(path: Path) -> str:
    with suppress(OSError):
        return f"{free_bytes(path):,}"
    return "an unknown number of"
