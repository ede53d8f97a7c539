"""The training loop, the meter of its budget, and what a remedy's step may ask for."""

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from collapse_bench.corpus import Batch, Corpus, Split, training_batches
from collapse_bench.evaluation import evaluate, negative_elbo
from collapse_bench.metrics import posterior_scores
from collapse_bench.model import (
    INFERENCE,
    SLOTS,
    Forward,
    Objective,
    SequenceVAE,
    plain,
)
from collapse_bench.precision import products_in, resolve_precision
from collapse_bench.remedy import Remedy

DECAY_FROM, LAST_RATE = 0.5, 0.05
"""The learning rate is constant up to this share of the budget, then falls linearly to this share
of itself. It depends on nothing else, so no remedy's schedule can move it."""

CONVERGED = 0.1
"""A run has converged if the last quarter of its budget gained less, in nats a sentence."""


LOOK = 50
"""Updates between two looks at whether a GPU has met a gradient that is not finite."""


class BudgetSpentError(Exception):
    """The training budget is used up; raised from inside whatever loop is running."""


class DivergedError(ArithmeticError):
    """The loss or a gradient is no longer finite."""


class TrainingSettings(Protocol):
    """The part of a suite that the loop reads; `suite.Training` has it."""

    @property
    def batch(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def clip(self) -> float: ...
    @property
    def validations(self) -> int: ...
    @property
    def precision(self) -> str: ...


def stream_seed(seed: int, stream: str) -> int:
    """A seed for one of the independent streams of randomness of a run.

    Args:
        seed: the cell's.
        stream: `initialisation`, `order`, `dropout`, `latent`, `validation` or `test`.
    """
    return int.from_bytes(hashlib.sha256(f"{seed}:{stream}".encode()).digest()[:5], "big")


class Meter:
    """Counts the tokens that a decoder decodes in training, where they are decoded.

    Inner loops, pre-training and refinement pass here too, so they are all paid for. The decoder's
    eval mode is free: that is measuring.
    """

    def __init__(self, decoder: nn.Module, budget: int) -> None:
        self.budget = budget
        self.tokens = 0
        self._hook = decoder.register_forward_pre_hook(self._count)

    def _count(self, decoder: nn.Module, arguments: tuple[Any, ...]) -> None:
        if decoder.training:
            if self.tokens >= self.budget:
                raise BudgetSpentError
            self.tokens += arguments[0].tokens

    def stop(self) -> None:
        """Count no more."""
        self._hook.remove()


class TrainingRun:
    """One model being trained: the plain update, and `remedy.Run` for a remedy's step.

    Args:
        model: in the state to start from, on its device.
        remedy: built into the model already.
        corpus: trained on `train`, selected on `valid`; `test` is not touched.
        settings: the suite's.
        budget: decoded tokens.
        seed: the cell's; order, dropout, latent and validation have a generator each.
    """

    def __init__(
        self,
        model: SequenceVAE,
        remedy: Remedy,
        corpus: Corpus,
        settings: TrainingSettings,
        *,
        budget: int,
        seed: int,
    ) -> None:
        self.model = model
        self.remedy = remedy
        self.validation = corpus.valid
        self.settings = settings
        self.seed = seed
        self.epoch = 0
        self.steps = 0
        self.updates = {"encoder": 0, "decoder": 0}
        self.state: dict[str, Any] = {}
        self.device = next(model.parameters()).device
        self.meter = Meter(model.decoder, budget)
        self.optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate, fused=True)
        self._broken = torch.zeros((), device=self.device)
        self._since_look = 0
        self._precision = resolve_precision(settings.precision, self.device.type)
        self._latent = torch.Generator(self.device).manual_seed(stream_seed(seed, "latent"))
        self._batches = self._draws(corpus.train)

    @property
    def progress(self) -> float:
        """Share of the budget that is spent, 0 to 1."""
        return min(1.0, self.meter.tokens / self.meter.budget)

    @property
    def learning_rate(self) -> float:
        """That of the suite, as `DECAY_FROM` and `LAST_RATE` have it at this point."""
        left = (1 - self.progress) / (1 - DECAY_FROM)
        return self.settings.learning_rate * max(LAST_RATE, min(1.0, left))

    def draw(self) -> Batch:
        """The next training batch, on the model's device."""
        return next(self._batches).to(self.device)

    def _draws(self, split: Split) -> Iterator[Batch]:
        order = stream_seed(self.seed, "order")
        while True:
            yield from training_batches(split, self.settings.batch, order, self.epoch)
            self.epoch += 1

    def update(
        self, batch: Batch, *, only: tuple[str, ...] = SLOTS, then: Objective = plain
    ) -> Forward:
        """One gradient update of the slots in `only`.

        Args:
            batch: B sentences.
            only: slots; the others get no gradient, so a step on the encoder alone costs less.
            then: applied after the remedies' objective.

        Raises:
            DivergedError: see `check_gradients`.
            BudgetSpentError: there are no tokens left to decode.
        """
        self.optimizer.zero_grad(set_to_none=True)
        with self._training(only):
            with products_in(self._precision, self.device.type):
                forward: Forward = self.model(
                    batch,
                    self._noise,
                    step=self.steps,
                    progress=self.progress,
                    objective=lambda forward: then(self.remedy.objective(forward)),
                )
            forward.loss().backward()
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        self._broken = torch.maximum(self._broken, norm.isfinite().logical_not().float())
        # The fused optimiser divides by the one as it reads the gradient, and does nothing where
        # the other is 1: no second pass over the gradient, and no wait for a GPU.
        self.optimizer.grad_scale = (norm / self.settings.clip).clamp(min=1)  # type: ignore[attr-defined]
        self.optimizer.found_inf = self._broken  # type: ignore[attr-defined]
        self.optimizer.param_groups[0]["lr"] = self.learning_rate
        self.optimizer.step()
        self._since_look += 1
        if self.device.type == "cpu" or self._since_look == LOOK:
            self.check_gradients()
        for side, slots in {"encoder": INFERENCE, "decoder": ("decoder",)}.items():
            trained = self.model.parameters_of(tuple(slot for slot in slots if slot in only))
            self.updates[side] += any(parameter.numel() for parameter in trained)
        return forward

    def check_gradients(self) -> None:
        """Waits for a GPU, which is therefore asked every `LOOK` updates only.

        Raises:
            DivergedError: a gradient was not finite; the model is as it was before that.
        """
        self._since_look = 0
        if self._broken:
            before = "" if self.device.type == "cpu" else " or shortly before"
            raise DivergedError(
                f"the gradient is not finite at step {self.steps}{before}, "
                f"{self.meter.tokens} tokens decoded"
            )

    def _noise(self, shape: torch.Size) -> Tensor:
        return torch.randn(shape, generator=self._latent, device=self.device)

    @contextmanager
    def _training(self, only: tuple[str, ...]) -> Iterator[None]:
        trained = set(self.model.parameters_of(only))
        frozen = [parameter for parameter in self.model.parameters() if parameter not in trained]
        for parameter in frozen:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in frozen:
                parameter.requires_grad_(True)

    def validate(self, samples: int) -> dict[str, Any]:
        """Per-sentence arrays of the validation split; 0 samples leave the decoder out."""
        return evaluate(
            self.model, self.validation, samples=samples, batch=2 * self.settings.batch,
            seed=stream_seed(self.seed, "validation"), precision=self._precision, shuffled=False,
        )  # fmt: skip

    def measure(self, metric: str) -> float:
        """`kl`, `mutual_information` or `active_units` on the validation split."""
        return posterior_scores(self.validate(samples=0)).metrics[metric]

    def reset(self, slot: str) -> None:
        """Draw a slot's weights anew and forget its optimiser state; the readout is the decoder's.

        Raises:
            TypeError: a part of the slot has weights and no `reset_parameters`.
        """
        for module in self.model.modules_of((slot,)):
            for part in module.modules():
                reset: Any = getattr(part, "reset_parameters", None)
                if reset is not None:
                    reset()
                elif next(part.parameters(recurse=False), None) is not None:
                    raise TypeError(f"{type(part).__name__} has weights and no reset_parameters")
        for parameter in self.model.parameters_of((slot,)):
            self.optimizer.state.pop(parameter, None)


class Selection:
    """Validates on a fixed schedule and keeps the best weights.

    The negative ELBO on the validation split, every term counted in full, is the only criterion,
    whatever the remedy's objective.

    Attributes:
        history: one row a validation.
        best: the least bound, nats a sentence, and `best_tokens`, when it was reached.
    """

    def __init__(self, run: TrainingRun) -> None:
        self.run = run
        self.history: list[dict[str, float]] = []
        self.best = math.inf
        self.best_tokens = 0
        self._weights: dict[str, Tensor] = {}
        self._began = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether the next validation of the schedule has been reached."""
        last = self.history[-1]["tokens"] if self.history else 0
        every = self.run.meter.budget / self.run.settings.validations
        return self.run.meter.tokens // every > last // every

    @property
    def converged(self) -> bool:
        """Whether the last quarter of the budget gained less than `CONVERGED`."""
        early = 0.75 * self.run.meter.budget
        before = [row["negative_elbo"] for row in self.history if row["tokens"] <= early]
        return bool(before) and min(before) - self.best < CONVERGED

    def validate(self) -> None:
        """Measure, and keep the weights if they are the best so far.

        Raises:
            DivergedError: the bound or a gradient before it is not finite.
        """
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
        if bound < self.best:
            self.best, self.best_tokens = bound, run.meter.tokens
            self._weights = {name: v.clone() for name, v in run.model.state_dict().items()}

    def summary(self) -> dict[str, Any]:
        """What a record says of it; null where there has been no validation."""
        return {
            "negative_elbo": self.best if self.history else None,
            "tokens": self.best_tokens,
            "converged": self.converged,
        }

    def restore(self) -> None:
        """Put the best weights back into the model."""
        self.run.model.load_state_dict(self._weights)


def train(
    run: TrainingRun, selection: Selection, report: Callable[[TrainingRun, Forward], None]
) -> None:
    """Train until the budget is spent; the model ends with the selected weights.

    Args:
        run: a model and all that it is trained by.
        selection: of the same run.
        report: called after every step.

    Raises:
        DivergedError: a gradient or the bound is not finite.
    """
    torch.manual_seed(stream_seed(run.seed, "dropout"))
    step = run.remedy.step(run.update, run)
    run.model.train()
    with suppress(BudgetSpentError):
        while True:
            forward = step(run.draw())
            run.steps += 1
            report(run, forward)
            if selection.due:
                selection.validate()
    if not selection.history or selection.history[-1]["tokens"] < run.meter.tokens:
        selection.validate()
    selection.restore()
    run.meter.stop()
