"""Which weights a training ends with: the best on validation, by one criterion, or the last."""

import math
import time
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from collapse_bench.evaluation import negative_elbo
from collapse_bench.metrics import posterior_scores
from collapse_bench.training.optimizer import DivergedError
from collapse_bench.training.run import TrainingRun

CONVERGED = 0.1
"""A run has converged if the last quarter of its budget gained less, in nats a sentence."""


class Selection:
    """Validates on a fixed schedule and keeps the best weights, or where the settings say so the
    last.

    The negative ELBO on the validation split, every term counted in full, is the only criterion,
    whatever the remedy's objective.

    Attributes:
        history: one row a validation.
        best: the bound of the weights that are kept, nats a sentence, and `best_tokens`, when it
            was reached.
        seconds: that validations have taken.
    """

    def __init__(self, run: TrainingRun) -> None:
        self.run = run
        self.history: list[dict[str, float]] = []
        self.best = math.inf
        self.best_tokens = 0
        self.seconds = 0.0
        self._weights: dict[str, Tensor] = {}
        self._began = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether the next validation of the schedule has been reached."""
        last = self.history[-1]["tokens"] if self.history else 0
        return self._mark(self.run.meter.tokens) > self._mark(last)

    @property
    def converged(self) -> bool:
        """Whether the last quarter of the budget gained less than `CONVERGED`."""
        early = self._mark(0.75 * self.run.meter.budget)
        before = [r["negative_elbo"] for r in self.history if self._mark(r["tokens"]) <= early]
        return bool(before) and min(before) - self.best < CONVERGED

    def _mark(self, tokens: float) -> float:
        """The place in the schedule: a validation comes with the first batch that passes it."""
        return tokens * self.run.settings.validations // self.run.meter.budget

    def validate(self) -> None:
        """Measure, and keep the weights if they are the best so far, or if the last are to be.

        Raises:
            DivergedError: the bound or a gradient before it is not finite.
        """
        began = time.monotonic()
        self.run.check_gradients()
        run, arrays = self.run, self.run.validate(samples=1)
        bound = negative_elbo(arrays)
        if not math.isfinite(bound):
            raise DivergedError(f"the validation bound is {bound} at step {run.steps}")
        self.history.append({
            "tokens": run.meter.tokens,
            "step": run.steps,
            "seconds": time.monotonic() - self._began,
            "negative_elbo": bound,
            "distortion": float(arrays["distortion"].mean()),
            **posterior_scores(arrays).metrics,
        })  # fmt: skip
        if bound < self.best or self.run.settings.weights == "last":
            self.best, self.best_tokens = bound, run.meter.tokens
            self._weights = {name: v.clone() for name, v in run.model.state_dict().items()}
        self.seconds += time.monotonic() - began

    def summary(self) -> dict[str, Any]:
        """What a record says of it; null where there has been no validation."""
        return {
            "negative_elbo": self.best if self.history else None,
            "tokens": self.best_tokens,
            "converged": self.converged,
        }

    def restore(self) -> None:
        """Put the weights that were kept back into the model."""
        self.run.model.load_state_dict(self._weights)

    def state_dict(self) -> dict[str, Any]:
        """All that it has found so far, and for how long it has been looking."""
        return {
            "history": self.history,
            "best": self.best,
            "best_tokens": self.best_tokens,
            "weights": self._weights,
            "seconds": time.monotonic() - self._began,
            "validating": self.seconds,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`; the time since then is not counted."""
        self.history, self._weights = state["history"], state["weights"]
        self.best, self.best_tokens = state["best"], state["best_tokens"]
        self._began, self.seconds = time.monotonic() - state["seconds"], state["validating"]
