"""Cells as jobs of SLURM, through submitit: one array of jobs for all cells that may begin."""

import errno
import pickle
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from collapse_bench import lease
from collapse_bench.errors import UserError
from collapse_bench.job import Job
from collapse_bench.runner import afar
from collapse_bench.runner.engine import Ended, Outcome, Reported
from collapse_bench.runner.local import Local
from collapse_bench.runner.sbatch import delay_of, options, parameters
from collapse_bench.writing import replacing, telling

FOLDER = ".slurm"
"""Folder of a suite's batch scripts, of what is sent and of what its jobs say."""

PACE = 0.5
"""Seconds between two looks at the leases of all cells, which are on a file system of many."""

GRACE_SHARE = 2 / 3
"""Of the seconds between SLURM's signal and the end of a job: for a cell to leave a checkpoint."""

LATE = 15.0
"""Seconds after which what a job has left has to be seen in the shared folder."""

REQUEUES = 1000
"""How often a job may run out of its time: more than any cell needs."""


class Task:
    """What a job of SLURM does: one cell; submitit calls `checkpoint` when its time is over.

    Args:
        parcel: the cell.
        corpus: the file of its corpus.
        grace: seconds that it has to leave a checkpoint in.
    """

    def __init__(self, parcel: afar.Parcel, corpus: Path, grace: float) -> None:
        self._parcel, self._corpus, self._grace = parcel, corpus, grace
        self._engine: Local | None = None

    def __call__(self) -> Outcome:
        corpus = pickle.loads(self._corpus.read_bytes())
        with tempfile.TemporaryDirectory(prefix="collapse_bench-") as scratch:
            job = afar.unpack(self._parcel, corpus, Path(scratch))
            # SLURM signals every process of a job. Those that are started here are told by
            # `checkpoint` alone, and would die of the signal.
            signals = {signal.SIGUSR1, signal.SIGUSR2}
            signal.pthread_sigmask(signal.SIG_BLOCK, signals)
            try:
                self._engine = afar.begin(job)
            finally:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
            outcome = Outcome("failed", "it told nothing")
            for event in afar.follow(job, self._engine, 0):
                if isinstance(event, Ended):
                    outcome = event.outcome
        while outcome.kind == "stopped":
            # SLURM has asked it to, on `scancel` or for a job of more importance, and is about to
            # end this process: a job that is to run again must not have come to its end.
            time.sleep(1.0)
        return outcome

    def checkpoint(self) -> Any:
        """Have the cell leave a checkpoint; what goes on from it in the job that SLURM starts."""
        import submitit

        if self._engine is not None:
            self._engine.close(self._grace)
        parcel = replace(self._parcel, parts={**self._parcel.parts, "fresh": False})
        task = Task(parcel, self._corpus, self._grace)
        return submitit.helpers.DelayedSubmission(task)


@dataclass(eq=False)
class _Submitted:
    """A cell that SLURM has.

    Attributes:
        handle: submitit's of its job.
        token: of the last owner of the cell that has been seen.
        began: whether it has been seen to begin.
        tokens: decoded by that owner when it last told.
        killed: whether it was told to end.
        over: when its job was first seen to be over; None as long as it is not.
    """

    job: Job
    handle: Any
    token: str | None
    began: bool = False
    tokens: int = 0
    killed: bool = False
    over: float | None = None


class Slurm:
    """The engine of a SLURM cluster, whose machines share the folder of the run.

    Jobs outlive this process: one that is interrupted leaves them running, and says so.

    Args:
        given: options of sbatch by their long names, in place of the bench's: `partition`,
            `account`, `gres`, `mem`. Of `time`, in SLURM's forms, the bench has to know; also taken
            are submitit's `signal_delay_s`, seconds before the end of that time at which a
            checkpoint is written, and `setup`, a line of shell to run before.
        workers: jobs of an array at a time, None is no limit.
        cluster: `slurm`, or `local` for submitit's imitation of it.

    Raises:
        UserError: this machine has no SLURM, or an option is none.
    """

    queues = True

    def __init__(
        self, given: Mapping[str, str], workers: int | None = None, cluster: str = "slurm"
    ) -> None:
        if cluster == "slurm" and not (shutil.which("sbatch") and shutil.which("srun")):
            raise UserError(
                "--on slurm: this machine has no sbatch or no srun; run it on a login node of the"
                " cluster, or leave --on out"
            )
        self._given = {name.replace("-", "_"): value for name, value in given.items()}
        options(self._given)
        self._workers, self._cluster = workers, cluster
        self._new: list[Job] = []
        self._submitted: list[_Submitted] = []
        self._told: list[Reported | Ended] = []
        self._looks = 0.0

    def room(self) -> bool:
        return True

    def submit(self, job: Job) -> None:
        self._new.append(job)

    def events(self, seconds: float) -> list[Reported | Ended]:
        if self._new:
            new, self._new = self._new, []
            self._submit(new)
        left = self._looks - time.monotonic()
        if not self._told and left > 0:
            time.sleep(min(left, seconds))
        found, self._told = self._told, []
        if time.monotonic() >= self._looks:
            for each in list(self._submitted):
                found += self._news(each)
            self._looks = time.monotonic() + PACE
        return found

    def kill(self, job: Job) -> None:
        if any(each is job for each in self._new):
            self._new = [each for each in self._new if each is not job]
            self._told.append(Ended(job, Outcome("killed", "it was ended by this run")))
        for each in self._submitted:
            if each.job is job and not each.killed:
                each.killed = True
                each.handle.cancel(check=False)

    def close(self, grace: float) -> None:
        ids = sorted({each.handle.job_id.split("_")[0] for each in self._submitted})
        if ids:
            listed, many = " ".join(ids), len(self._submitted)
            with suppress(OSError):  # of a terminal that is closed
                print(
                    f"left running: {many} {'cell' if many == 1 else 'cells'}, as {listed} in"
                    f" SLURM; the same command waits for what runs, `scancel {listed}` ends it",
                    file=sys.stderr,
                    flush=True,
                )
        self._submitted.clear()

    def _submit(self, jobs: Sequence[Job]) -> None:
        """Submit cells as one array.

        Raises:
            UserError: SLURM refuses.
            DiskError: a file of a job cannot be written.
        """
        folder = jobs[0].folder.absolute().parent / FOLDER
        executor = self._executor(folder, jobs[0])
        grace = GRACE_SHARE * delay_of(self._given)
        tasks = [Task(afar.pack(job), _corpus_of(job, folder), grace) for job in jobs]
        try:
            with executor.batch():
                handles = [executor.submit(task) for task in tasks]
        except Exception as error:  # what sbatch says, as submitit's error
            if isinstance(error, OSError) and not _is_of_sbatch(error):
                with telling(folder):
                    raise
            raise UserError(
                f"--on slurm: sbatch refuses: {error}; see --slurm, and the script in {folder}"
            ) from error
        for job, handle in zip(jobs, handles, strict=True):
            before = lease.read_lease(job.folder)
            token = before.token if before else None
            self._submitted.append(_Submitted(job, handle, token))

    def _executor(self, folder: Path, job: Job) -> Any:
        import submitit

        minutes, _ = options(self._given)
        if self._cluster == "local":
            executor: Any = submitit.LocalExecutor(folder, max_num_timeout=REQUEUES)
            delay = delay_of(self._given)
            executor.update_parameters(timeout_min=minutes, signal_delay_s=delay)
        else:
            executor = submitit.SlurmExecutor(folder, max_num_timeout=REQUEUES)
            executor.update_parameters(**parameters(self._given, job, self._workers))
        return executor

    def _news(self, each: _Submitted) -> list[Reported | Ended]:
        """What is new of a cell: by its lease, and by what SLURM tells of its job."""
        found: list[Reported | Ended] = []
        seen = lease.read_lease(each.job.folder)
        if seen is not None and seen.alive:
            if seen.token != each.token:
                each.token, each.tokens = seen.token, 0
                # Once, however often the job is put back: the time of a cell counts from here.
                if not each.began:
                    each.began = True
                    found.append(Reported(each.job, {"began": True}))
            if seen.tokens > each.tokens:
                each.tokens = seen.tokens
                found.append(Reported(each.job, {"tokens": seen.tokens}))
        if each.over is None and each.handle.done():
            each.over = time.monotonic()
        if each.over is not None and (outcome := self._outcome(each, each.over)) is not None:
            self._submitted.remove(each)
            found.append(Ended(each.job, outcome))
        return found

    def _outcome(self, each: _Submitted, over: float) -> Outcome | None:
        """How a job that is over has ended; None where that has yet to be seen here."""
        import submitit

        handle = each.handle
        failed = handle.paths.result_pickle.exists()
        if failed:
            with suppress(submitit.core.utils.FailedJobError):
                outcome: Outcome = handle.result()
                if outcome.kind == "recorded":
                    afar.wait_for_record(each.job.folder)
                if outcome.kind == "stopped" and each.killed:
                    return Outcome("killed", "it was ended by this run")
                return outcome
        elif not each.killed and time.monotonic() < over + LATE:
            return None
        if afar.is_held(each.job.folder):
            return None
        if each.killed:
            return Outcome("killed", "it was ended by this run")
        return Outcome(
            "failed" if failed else "killed",
            f"the SLURM job {handle.job_id} is over ({handle.state}) and left no record:"
            f" {_last_line(handle.paths.stderr)}; all that it said is in {handle.paths.stderr}",
        )


def _is_of_sbatch(error: OSError) -> bool:
    """Whether the system could not start sbatch; else it is a file that it refuses."""
    return error.filename == "sbatch" or error.errno in (errno.EAGAIN, errno.ENOMEM)


def _last_line(path: Path) -> str:
    """What a job has said last, as it seems from here."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        lines = []
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


def _corpus_of(job: Job, folder: Path) -> Path:
    """The file of a job's corpus, written once."""
    corpus = job.corpus
    digests = [job.code, corpus.sha256, *([corpus.labels_sha256] if corpus.labels_sha256 else [])]
    path = folder / f"corpus-{'-'.join(each[:12] for each in digests)}.pkl"
    if not path.exists():
        with replacing(path) as temporary:
            temporary.write_bytes(pickle.dumps(corpus))
    return path
