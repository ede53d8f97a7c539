"""Who works on a cell: a lock that the system keeps, and a lease that tells other processes.

The lock ends with the process that holds it, however that ends. It holds between the processes of
one machine, and between machines where their shared folder carries locks. Where it does not, the
lease keeps them apart: its owner writes it anew every few seconds, and one that has not done so for
a while is taken for dead.
"""

import json
import os
import platform
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any, Self

from filelock import FileLock, Timeout

from collapse_bench.errors import UserError
from collapse_bench.writing import telling

LEASE = "lease.json"
LOCKS = ".locks"
"""Folder of a suite's locks, one for each cell: a cell's own folder may be moved and removed."""

BEAT, EXPIRY = 5.0, 120.0
"""Seconds after which an owner says that it lives, and after which one that has not is dead. The
clocks of machines that share a folder have to agree to less than that."""

WAIT = 0.5
"""Seconds to wait for a lock: another process that only looks has it for a moment."""

STOLEN = 75
"""What a process exits with whose cell has been taken over; `os.EX_TEMPFAIL`."""


@dataclass(frozen=True)
class Lease:
    """What an owner tells of itself and of its cell.

    Attributes:
        token: drawn for each attempt.
        host: name of its machine.
        machine: the same for all processes among which a lock is sure to hold, and a number means
            the same process.
        process: its number there.
        began: when, in seconds since 1970.
        settings: the cell's identity, as its record carries it.
        tokens: decoded by now, in this attempt and those that it goes on from.
        tokens_a_second: in this attempt; None until that is known.
        phase: `training` or `evaluating`.
        stopped: whether the owner has left the cell unfinished and said so.
        age: seconds since the lease was written.
    """

    token: str
    host: str
    machine: str
    process: int
    began: float
    settings: Mapping[str, Any]
    tokens: int = 0
    tokens_a_second: float | None = None
    phase: str = "training"
    stopped: bool = False
    age: float = field(default=0.0, compare=False)

    @property
    def budget(self) -> int:
        """Decoded tokens that the cell trains for."""
        return int(self.settings["training"]["budget"])

    @property
    def owner(self) -> str:
        return f"process {self.process} on {self.host}"

    @property
    def alive(self) -> bool:
        """Whether its owner may still be at the cell, as far as a file can tell."""
        if self.stopped or self.age > EXPIRY:
            return False
        return self.machine != this_machine() or _exists(self.process)


class BusyError(Exception):
    """Another process works on the cell.

    Attributes:
        lease: of that one, None where it has not written it yet.
    """

    def __init__(self, lease: Lease | None) -> None:
        super().__init__(lease.owner if lease else "another process")
        self.lease = lease


def this_machine() -> str:
    """A name that processes share that know each other by number: those of a machine, or of one of
    its containers, until it is started again."""
    with suppress(OSError):
        started = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{started} {os.readlink('/proc/self/ns/pid')}"
    return platform.node()


def read_lease(folder: Path) -> Lease | None:
    """The lease in a cell's folder; None where there is none, or none that can be read."""
    path = folder / LEASE
    try:
        age = time.time() - path.stat().st_mtime
        found = replace(Lease(**json.loads(path.read_text(encoding="utf-8"))), age=age)
        numbers = found.process, found.tokens, found.settings["training"]["budget"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return found if all(type(n) is int and 0 <= n < 2**31 for n in numbers) else None


def bury(folder: Path) -> None:
    """Remove the lease of an owner that has died on this machine: another machine cannot know, and
    would wait until it is taken for dead."""
    found = read_lease(folder)
    if not found or found.stopped or found.machine != this_machine():
        return
    if not _exists(found.process):  # however old the lease: one that was suspended has the lock
        with suppress(OSError):
            (folder / LEASE).unlink()


@contextmanager
def hold(folder: Path, settings: Mapping[str, Any]) -> Iterator["Holding"]:
    """Be the one that works on a cell.

    Args:
        folder: the cell's, made if need be.
        settings: the cell's identity, as its record carries it.

    Raises:
        BusyError: another process works on it.
        UserError: the file system has no locks.
        DiskError: nothing can be written there.
    """
    path = folder.parent / LOCKS / f"{folder.name}.lock"
    with telling(path):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path.parent.mkdir(exist_ok=True)
            _check_locks(path)
            lock = FileLock(path)
            lock.acquire(timeout=WAIT, poll_interval=0.05)
        except Timeout:
            raise BusyError(read_lease(folder)) from None
    try:
        other = read_lease(folder)
        # On this machine the lock is enough: whoever held it before is gone.
        if other and other.alive and other.machine != this_machine():
            raise BusyError(other)
        with Holding(folder, settings) as holding:
            yield holding
    finally:
        lock.release()


def _check_locks(path: Path) -> None:
    """Raise UserError where a file cannot be locked: `filelock` then makes do with a file that an
    owner which is killed leaves behind for ever."""
    try:
        import fcntl
    except ImportError:  # not a Unix: there it is another kind of lock
        return
    with path.open("a+", encoding="ascii") as file:  # NFS shares a lock of readers only
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:  # somebody has it
            return
        except OSError as error:
            raise UserError(
                f"{path}: this file system has no locks ({error.strerror}), so two runs could train"
                f" one cell twice; give a folder on another one with --out"
            ) from None


class Holding:
    """The lease of this process on a cell; as a context, written anew every `BEAT` seconds.

    A process that does not find its own lease any more ends itself: it was suspended for so long
    that its cell has been taken over, and may have been finished.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self._path = folder / LEASE
        self._lease = Lease(
            token=secrets.token_hex(8),
            host=platform.node(),
            machine=this_machine(),
            process=os.getpid(),
            began=time.time(),
            settings=settings,
        )
        self._over, self._writing = Event(), Lock()
        self._thread = Thread(target=self._beat, daemon=True)
        self._first: tuple[float, int] | None = None

    def __enter__(self) -> Self:
        with telling(self._path):
            self._write()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        if self._lease.stopped:
            self._renew()
        elif self._is_ours():
            with suppress(OSError):
                self._path.unlink()

    def tell(self, told: Mapping[str, Any]) -> None:
        """Note what the next beat will say of a report of the cell, if that is still ours: what
        comes after a report may be a file, written by one that was suspended until now."""
        self._check()
        if "tokens" in told:
            now = time.monotonic()
            self._first = self._first or (now, told["tokens"])
            seconds, tokens = now - self._first[0], told["tokens"] - self._first[1]
            rate = round(tokens / seconds, 1) if seconds > 1 else None
            self._lease = replace(self._lease, tokens=told["tokens"], tokens_a_second=rate)
        if "evaluating" in told:
            self._lease = replace(self._lease, phase="evaluating")
            self._renew()

    def stopped(self) -> None:
        """Note that the cell is left unfinished, so that another process need not wait."""
        self._lease = replace(self._lease, stopped=True)

    def _beat(self) -> None:
        while not self._over.wait(BEAT):
            self._check()
            self._renew()

    def _check(self) -> None:
        if not self._is_ours():
            said = f"{self._path}: is gone or another process's, so this one ends\n"
            with suppress(OSError):
                os.write(2, said.encode())
            os._exit(STOLEN)

    def _is_ours(self) -> bool:
        found = read_lease(self._path.parent)
        if found is not None:
            return found.token == self._lease.token
        try:
            self._path.stat()
        except OSError as error:  # where it is gone, whoever has taken it over has finished it
            return not isinstance(error, FileNotFoundError)
        return True

    def _renew(self) -> None:
        with self._writing, suppress(OSError):  # a full disk ends no training: the lock still holds
            self._write()

    def _write(self) -> None:
        told = {name: value for name, value in asdict(self._lease).items() if name != "age"}
        # Not brought to the disk at once: after a crash of the machine it tells nothing any more.
        temporary = self._path.with_name(f".{LEASE}.{self._lease.token}.tmp")
        temporary.write_text(json.dumps(told), encoding="utf-8")
        temporary.replace(self._path)


def _exists(process: int) -> bool:
    """Whether a process of this machine has not ended."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    # One that was killed keeps its number until its parent has asked how it ended, which the first
    # process of a container may never do.
    with suppress(OSError):
        stat = Path(f"/proc/{process}/stat").read_bytes()
        return stat.rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    return True
