"""What SLURM is asked for: by the cells, and by the user, who has the last word."""

import math
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from collapse_bench.errors import UserError
from collapse_bench.job import Job

TIME, DELAY = 60.0, 90
"""Minutes that a job may take where the user does not say, and seconds before their end at which
SLURM signals. A cell that needs longer goes on in the next job."""

BESIDE = 2 * 2**30
"""Bytes that SLURM is asked for beside those that a cell's process may have: for the process that
watches it and the one that it is forked from, each with torch."""

OURS = ("array", "output", "error", "open_mode", "signal", "nodes", "ntasks", "ntasks_per_node")
"""Options of sbatch that are no one's choice."""

_TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")


def options(given: Mapping[str, str]) -> tuple[float, dict[str, str]]:
    """What the user says to SLURM: minutes of a job, and all that is passed on as it is.

    Raises:
        UserError: an option is the bench's own, or not a time.
    """
    for name in OURS:
        if name in given:
            raise UserError(f"--slurm {name}: is set by the bench; leave it out")
    delay = delay_of(given)
    minutes = minutes_of(given["time"]) if "time" in given else TIME
    if minutes * 60 <= 2 * delay:
        raise UserError(
            f"--slurm time: must be more than {2 * delay} s, twice signal_delay_s, not"
            f" {minutes * 60:g} s: a job would end as it begins"
        )
    passed = {n: v for n, v in given.items() if n not in ("time", "signal_delay_s", "setup")}
    return minutes, passed


def delay_of(given: Mapping[str, str]) -> int:
    """Seconds before the end of a job's time at which it is signalled.

    Raises:
        UserError: it is no number.
    """
    delay = given.get("signal_delay_s", str(DELAY))
    if not delay.isdecimal():
        raise UserError(f"--slurm signal_delay_s: must be whole seconds, not {delay!r}")
    return int(delay)


def minutes_of(text: str) -> float:
    """A time in one of SLURM's forms: `MINUTES`, `MINUTES:SECONDS`, `HOURS:MINUTES:SECONDS`,
    `DAYS-HOURS`, `DAYS-HOURS:MINUTES` or `DAYS-HOURS:MINUTES:SECONDS`.

    Raises:
        UserError: it is none.
    """
    found = _TIME.fullmatch(text)
    if found is None:
        raise UserError(
            f"--slurm time: must be as SLURM writes it, such as 90, 1:30:00 or 2-12, not {text!r}"
        )
    days, *rest = found.groups()
    parts = [int(part) for part in rest if part is not None]
    if days is not None:
        hours, minutes, seconds = (*parts, 0, 0)[:3]
    elif len(parts) == 3:
        hours, minutes, seconds = parts
    else:
        hours, (minutes, seconds) = 0, (*parts, 0)[:2]
    return 24 * 60 * int(days or 0) + 60 * hours + minutes + seconds / 60


def parameters(given: Mapping[str, str], job: Job, workers: int | None) -> dict[str, Any]:
    """What submitit is told of the jobs of an array.

    Args:
        given: by the user, names with underscores; whatever it says wins.
        job: one of the cells.
        workers: jobs at a time, None is no limit.

    Raises:
        UserError: as `options`.
    """
    minutes, passed = options(given)
    package = shlex.quote(str(Path(__file__).parents[2]))
    threads = str(job.cell.training.threads or 1)
    told: dict[str, Any] = {
        "job_name": job.cell.suite,
        "time": math.ceil(minutes),
        "cpus_per_task": threads,
        # Since SLURM 22.05 a step no longer takes this from its job.
        "srun_args": [f"--cpus-per-task={passed.get('cpus_per_task', threads)}"],
        "signal_delay_s": delay_of(given),
        "setup": [
            f"export PYTHONPATH={package}${{PYTHONPATH:+:$PYTHONPATH}}",
            *filter(None, [given.get("setup")]),
        ],
        # Also on a cluster where jobs are not put back by default.
        "additional_parameters": {"requeue": True, **passed},
    }
    if job.memory is not None:
        told["mem"] = f"{math.ceil((job.memory + BESIDE) / 2**20)}M"
    if job.device == "cuda" and not any(name[:3] in ("gpu", "gre") for name in passed):
        told["gpus_per_node"] = 1
    if workers is not None:
        told["array_parallelism"] = workers
    return told
