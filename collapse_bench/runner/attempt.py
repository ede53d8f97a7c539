"""One attempt at a cell, by whatever process an engine has for it."""

from contextlib import suppress
from threading import Event

from collapse_bench import evidence, lease, record
from collapse_bench.cell import Report, run_cell
from collapse_bench.damage import put_aside
from collapse_bench.device import limit_memory
from collapse_bench.errors import DiskError, UserError
from collapse_bench.job import Job
from collapse_bench.runner.engine import Outcome
from collapse_bench.runner.plan import is_due
from collapse_bench.training import Checkpoints, StoppedError
from collapse_bench.training.checkpoint import left_behind


def attempt(job: Job, report: Report, stop: Event) -> Outcome:
    """Run a cell that is due and that nobody else works on, and leave its record.

    What is damaged in its folder is put aside first, so that nothing is built on it.

    Args:
        job: the cell.
        report: told what `run_cell` tells, and `began` before it.
        stop: set by whoever wants a checkpoint and an end.
    """
    try:
        with job.hold() as holding:
            for said in put_aside(job.folder):
                report({"said": said})
            if not is_due(job):
                return Outcome("kept")
            limit_memory(job.memory)
            report({"began": True})

            def tell(told: dict[str, object]) -> None:
                holding.tell(told)
                report(told)

            try:
                result = run_cell(job, tell, stop)
                if result["status"] == "done":
                    with suppress(DiskError):  # it costs no result, and a page makes it anew
                        evidence.note(job.folder)
            except StoppedError:
                holding.stopped()
                return Outcome("stopped")
    except lease.BusyError as busy:
        return Outcome("busy", str(busy))
    except DiskError as error:
        return Outcome("disk", str(error))
    except UserError as error:  # of a folder that has no locks
        return Outcome("failed", str(error))
    if result["status"] != "done" and record.is_done(job.folder):
        return Outcome(
            "failed", f"it has kept its record; when it was run again: {result['error']}"
        )
    return Outcome("recorded")


def tidy(job: Job) -> None:
    """Remove what an attempt has left beside its record that was ended right after it: checkpoints,
    which are three times the model, and its lease.

    Nothing is removed from a cell that is to be run, or that another process is at.
    """
    if not (left_behind(job.folder) or lease.read_lease(job.folder)):
        return
    with (
        suppress(lease.BusyError, UserError),
        job.hold(),
    ):
        if record.is_finished(job.folder) and not is_due(job):
            Checkpoints(job.folder, {}).remove()
