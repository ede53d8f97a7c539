"""Cells to records: what is due, who is at it, and where it is computed.

plan -> schedule -> engine (local, ray, slurm) -> attempt -> the cell's record
"""

from collapse_bench.interruption import InterruptedRunError
from collapse_bench.runner.engine import Ended, Engine, Outcome, Reported
from collapse_bench.runner.local import ENVIRONMENT, Local, cores
from collapse_bench.runner.plan import is_due, plan, what_has_changed
from collapse_bench.runner.schedule import run_jobs
from collapse_bench.runner.where import engine_on

__all__ = [
    "ENVIRONMENT",
    "Ended",
    "Engine",
    "InterruptedRunError",
    "Local",
    "Outcome",
    "Reported",
    "cores",
    "engine_on",
    "is_due",
    "plan",
    "run_jobs",
    "what_has_changed",
]
