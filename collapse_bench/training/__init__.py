"""From a model to a trained one: one loop, one update, one budget and one rule of selection."""

from collapse_bench.training.checkpoint import Checkpoints, StoppedError
from collapse_bench.training.loop import train
from collapse_bench.training.meter import BudgetSpentError, Meter
from collapse_bench.training.optimizer import DivergedError
from collapse_bench.training.run import TrainingRun
from collapse_bench.training.seeds import stream_seed
from collapse_bench.training.selection import CONVERGED, Selection

__all__ = [
    "CONVERGED",
    "BudgetSpentError",
    "Checkpoints",
    "DivergedError",
    "Meter",
    "Selection",
    "StoppedError",
    "TrainingRun",
    "stream_seed",
    "train",
]
