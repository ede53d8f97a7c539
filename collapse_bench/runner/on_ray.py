"""Cells on the machines of a Ray cluster: one task a cell, in a process of its own there."""

import secrets
import signal
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import collapse_bench
from collapse_bench import provenance
from collapse_bench.corpus import Corpus
from collapse_bench.errors import UserError
from collapse_bench.interruption import GRACE
from collapse_bench.job import Job
from collapse_bench.runner import afar
from collapse_bench.runner.engine import Ended, Outcome, Reported
from collapse_bench.writing import replacing

SHARED = ".shared-{}"
"""A file in a suite's folder, called after random digits that are also in it: who reads them sees
the folder. Each engine has its own, which a copy of the folder from before cannot have."""

ANSWER = 5.0
"""Seconds in which the head of a cluster has to answer."""

LOSSES = 5
"""How often a cell may lose the machine that it is on; then it is the cell that is blamed."""

SLACK = 2.0
"""Seconds in which a machine that has ended a cell has to say so."""


@dataclass(eq=False)
class _Sent:
    """A cell that the cluster has.

    Attributes:
        files: names of those that were in its folder when it was sent.
        reports: Ray's generator of what its task tells.
        cancelled: when it was told to end; None as long as it has not been.
    """

    job: Job
    files: tuple[str, ...] = ()
    reports: Any = None
    cancelled: float | None = None


class Ray:
    """The engine of a Ray cluster.

    A task that is lost with its machine is sent again, and goes on from the cell's checkpoint. The
    code of this process is sent along.

    Args:
        address: of the cluster's head, `HOST:PORT`; None is the cluster that this machine belongs
            to, and one of this machine alone where it belongs to none.
        workers: cells at a time, None is as many as the cluster has room for; on a GPU, of one GPU,
            None is one.

    Raises:
        UserError: there is no such cluster.
    """

    queues = True

    def __init__(self, address: str | None = None, workers: int | None = None) -> None:
        import ray

        _check_reachable(address)
        self._ray: Any = ray
        self._workers = workers
        self._sent: list[_Sent] = []
        self._told: list[Reported | Ended] = []
        self._over: list[Ended] = []
        self._corpora: dict[int, Any] = {}
        self._markers: dict[Path, tuple[Path, str]] = {}
        self._losses: Counter[Path] = Counter()
        self._asked = False
        variables = {provenance.SENT: told} if (told := provenance.commit()) else {}
        package = str(Path(collapse_bench.__file__).parent)
        # A terminal that is closed tells all that was started here, and a cluster that is would be
        # gone before its cells had left a checkpoint; Ray itself sees to SIGINT.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
        try:
            ray.init(
                address=address,
                log_to_driver=False,
                logging_level="error",
                runtime_env={"py_modules": [package], "env_vars": variables},
            )
        except Exception as error:  # Ray has many kinds
            place = f"ray:{address}" if address else "ray"
            raise UserError(
                f"--on {place}: {_first_line(error)}; give the HOST:PORT that `ray"
                " start --head` told, or none for this machine"
            ) from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._remote: Any = ray.remote(max_retries=0, num_returns="streaming")(_on_a_node)

    def room(self) -> bool:
        on_gpus = any(each.job.device != "cpu" for each in self._sent)
        return self._workers is None or on_gpus or len(self._sent) < self._workers

    def submit(self, job: Job) -> None:
        """Have a task made of a cell.

        Raises:
            DiskError: a file that tells machines of this folder cannot be written, or one of a
                remedy cannot be read.
        """
        sent = _Sent(job)
        if not self._asked:
            self._asked = True
            self._look_for_a_machine(job)
        self._send(sent)
        self._sent.append(sent)  # only now: what has no task cannot be cancelled

    def events(self, seconds: float) -> list[Reported | Ended]:
        found, self._told = self._told, []
        over, self._over = self._over, []
        for ended in over:
            (self._over if afar.is_held(ended.job.folder) else found).append(ended)
        of = {each.reports: each for each in self._sent}
        if not of:
            time.sleep(0 if found else seconds)
            return found
        self._ray.wait(list(of), num_returns=1, timeout=0 if found else seconds)
        ready, _ = self._ray.wait(list(of), num_returns=len(of), timeout=0)
        for reports in ready:
            found += self._heard(of[reports])
        for sent in self._sent:
            if sent.cancelled and time.monotonic() > sent.cancelled + GRACE + SLACK:
                self._ray.cancel(sent.reports, force=True)
        return found

    def kill(self, job: Job) -> None:
        for sent in self._sent:
            if sent.job.folder == job.folder and sent.cancelled is None:
                self._cancel(sent)

    def close(self, grace: float) -> None:
        for sent in self._sent:
            self._cancel(sent)
        until = time.monotonic() + grace
        while self._sent and time.monotonic() < until:
            self.events(0.2)
        for sent in self._sent:
            self._ray.cancel(sent.reports, force=True)
        self._sent.clear()
        for path, _ in self._markers.values():
            with suppress(OSError):
                path.unlink(missing_ok=True)
        self._ray.shutdown()

    def _send(self, sent: _Sent) -> None:
        """Have a task made of a cell, now or again."""
        job = sent.job
        if id(job.corpus) not in self._corpora:
            self._corpora[id(job.corpus)] = self._ray.put(job.corpus)
        own = afar.files_of(job.folder)
        sent.files = tuple(own)
        lender = afar.files_of(job.trained_in) if job.trained_in else {}
        # In a list it stays where it is until a task asks for it, which one that sees the folder
        # never does.
        files = [self._ray.put((own, lender))]
        threads = job.cell.training.threads or 1
        options = {"num_cpus": threads, "name": job.cell.name}
        if job.memory is not None:
            options["memory"] = job.memory
        if job.device == "cuda":
            options["num_gpus"] = 1 / (self._workers or 1)
        sent.reports = self._remote.options(**options).remote(
            afar.pack(job), self._corpora[id(job.corpus)], files, self._marker(job.folder.parent)
        )

    def _cancel(self, sent: _Sent) -> None:
        sent.cancelled = time.monotonic()
        self._ray.cancel(sent.reports)

    def _heard(self, sent: _Sent) -> list[Reported | Ended]:
        """What a cell has told and nobody has read."""
        found: list[Reported | Ended] = []
        while self._ray.wait([sent.reports], timeout=0)[0]:
            told = self._next(sent)
            if isinstance(told, Outcome):
                self._sent.remove(sent)
                ended = Ended(sent.job, told)
                if told.kind in ("killed", "failed") and afar.is_held(sent.job.folder):
                    self._over.append(ended)
                    return found
                return [*found, ended]
            found.append(Reported(sent.job, told))
            if "lost" in told:
                break
        return found

    def _next(self, sent: _Sent) -> dict[str, Any] | Outcome:
        """The next that a cell tells: a report, or how its attempt has ended."""
        errors = self._ray.exceptions
        try:
            told = self._ray.get(next(sent.reports))
        except Exception as error:
            if sent.cancelled is not None:
                return Outcome("killed", "it was ended by this run")
            first = _first_line(error)
            if isinstance(error, errors.RayTaskError):
                # What the task itself raises: its cell's process has not even begun.
                cause = error.cause if isinstance(error.cause, Exception) else error
                return Outcome("failed", f"on its machine: {type(cause).__name__}: {cause}")
            if isinstance(error, errors.OutOfMemoryError):
                # Ray has ended the task, and its machine goes on.
                return Outcome(
                    "killed",
                    f"its machine had no memory left: {first}; say what a cell needs with --memory,"
                    " or have fewer at a time with --workers",
                )
            sent.job = replace(sent.job, fresh=False)  # it goes on from its checkpoint
            self._losses[sent.job.folder] += 1
            if (times := self._losses[sent.job.folder]) > LOSSES:
                return Outcome("killed", f"its machine was lost {times} times: {first}")
            self._send(sent)
            return {"said": f"its machine was lost: {first}; it is sent again", "lost": True}
        if not isinstance(told, tuple):
            return dict(told)
        outcome, files = told
        if files is not None and outcome.kind == "recorded":
            outcome = afar.bring_home(sent.job, sent.files, files)
        elif outcome.kind == "recorded":
            afar.wait_for_record(sent.job.folder)
        return Outcome(outcome.kind, outcome.why)

    def _marker(self, folder: Path) -> tuple[Path, str]:
        """A file, and what is in it, by which a machine knows whether it sees a folder of this
        one's."""
        if folder not in self._markers:
            digits = secrets.token_hex(8)
            path = folder.absolute() / SHARED.format(digits)
            with replacing(path) as temporary:
                temporary.write_text(digits, encoding="ascii")
            self._markers[folder] = (path, digits)
        return self._markers[folder]

    def _look_for_a_machine(self, job: Job) -> None:
        """Say it where no machine could take a cell: a cluster may grow, so it may yet come."""
        needs = {"CPU": job.cell.training.threads or 1, "memory": job.memory or 0}
        needs["GPU"] = int(job.device == "cuda")
        machines = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if not any(all(m.get(n, 0) >= much for n, much in needs.items()) for m in machines):
            listed = ", ".join(f"{much:,} {name}" for name, much in needs.items() if much)
            said = f"no machine of the cluster has {listed}; it waits until one joins"
            self._told.append(Reported(job, {"said": said}))


def _check_reachable(address: str | None) -> None:
    """Raise UserError where nobody answers: Ray itself tries it again for many minutes."""
    if address is None:
        return
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER).close()
    except (OSError, ValueError) as error:
        raise UserError(
            f"--on ray:{address}: no cluster answers there ({error}); give the HOST:PORT that `ray"
            " start --head` told, or none for this machine"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _sees(marker: tuple[Path, str]) -> bool:
    path, content = marker
    return path.is_file() and path.read_text(encoding="ascii") == content


def _on_a_node(
    parcel: afar.Parcel, corpus: Corpus, files: list[Any], marker: tuple[Path, str]
) -> Iterator[dict[str, Any] | tuple[Outcome, dict[str, bytes] | None]]:
    """The task: what the cell reports, then its outcome and, where the folder of the run is not to
    be seen, the cell's files."""
    import ray

    with tempfile.TemporaryDirectory(prefix="collapse_bench-") as name:
        scratch = Path(name)
        job = afar.unpack(parcel, corpus, scratch)
        if here := not _sees(marker):
            own, lenders = ray.get(files[0])
            job = replace(job, folder=scratch / job.cell.suite / job.id)
            afar.put_files(job.folder, own)
            if job.trained_in is not None:
                lender = job.folder.with_name(job.trained_in.name)
                afar.put_files(lender, lenders)
                job = replace(job, trained_in=lender)
        for event in afar.follow(job, afar.begin(job), GRACE):
            if isinstance(event, Reported):
                yield event.told
            else:
                yield event.outcome, afar.files_of(job.folder) if here else None
