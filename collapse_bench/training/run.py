"""One model being trained: the plain update, and what a remedy's step may ask for."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from collapse_bench.corpus import Batch, Corpus, Split, training_batches
from collapse_bench.errors import UserError
from collapse_bench.evaluation import evaluate
from collapse_bench.metrics import posterior_scores
from collapse_bench.model import (
    INFERENCE,
    SLOTS,
    Forward,
    Objective,
    SequenceVAE,
    plain,
)
from collapse_bench.model.contract import ContractError
from collapse_bench.precision import products_in, resolve_precision
from collapse_bench.remedy import Chain, Step, checked
from collapse_bench.training.captured import Passes
from collapse_bench.training.meter import Meter
from collapse_bench.training.optimizer import ClippedOptimizer, DivergedError
from collapse_bench.training.seeds import set_streams, stream_seed, streams

DECAYS: dict[str, Callable[[float], float]] = {
    "linear": lambda spent: max(0.05, min(1.0, 2 * (1 - spent))),
    "exponential": lambda spent: 0.001 ** max(0.0, 2 * spent - 1),
}
"""What is left of the learning rate once a share of the budget is spent. It depends on nothing
else, so no remedy's schedule can move it."""

LOOK = 50
"""Updates between two looks at whether a GPU has met a gradient that is not finite."""

COUNTS = ("epoch", "steps", "updates", "_drawn", "_began", "_ends", "_since_look")
"""Attributes of a run that are plain values and change as it goes on; a checkpoint has them."""


class TrainingSettings(Protocol):
    """The part of a suite that the loop reads; `suite.Training` has it."""

    @property
    def batch(self) -> int: ...
    @property
    def optimizer(self) -> str: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def decay(self) -> str: ...
    @property
    def clip(self) -> float: ...
    @property
    def validations(self) -> int: ...
    @property
    def weights(self) -> str: ...
    @property
    def precision(self) -> str: ...
    @property
    def captured(self) -> bool: ...


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
        remedy: Chain,
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
        self.sentences = len(corpus.train)
        self.device = next(model.parameters()).device
        self.meter = Meter(model.decoders, budget)
        self._broken = torch.zeros((), device=self.device)
        self._parameters = {slot: model.parameters_of((slot,)) for slot in SLOTS}
        # A critic's gradient in the norm that clips the VAE's would shrink the VAE's step.
        self.optimizer, self.further_optimizer = (
            ClippedOptimizer(
                settings.optimizer,
                parameters,
                settings.learning_rate,
                settings.clip,
                self._broken,
            )
            for parameters in (model.parameters_of(SLOTS), model.parameters_of(("further",)))
        )
        self._drawn = 0
        self._began, self._ends = 0, float(budget)
        self._since_look = 0
        self._precision = resolve_precision(settings.precision, self.device.type)
        self._latent = torch.Generator(self.device).manual_seed(stream_seed(seed, "latent"))
        self.passes = Passes(
            model, self._noise, self._latent, self.meter,
            eager=None if settings.captured else "training.captured is false",
        )  # fmt: skip
        self._batches = self._draws(corpus.train)

    def start(self, state: Mapping[str, Any] | None = None) -> Step:
        """The remedy's step, from the beginning or from a `state_dict` of a run of the same cell.

        What a step draws as it is made is drawn from the seed in both cases.
        """
        torch.manual_seed(stream_seed(self.seed, "dropout"))
        if state is None:
            return self.remedy.step(self.update, self)
        self._load(state)  # before there is a step, which holds what is in `self.state`
        step = self.remedy.step(self.update, self)
        # What was drawn or scaled since the step was made is not to be drawn or scaled back.
        set_streams(state["streams"], self.device)
        self.optimizer.factors = state["factors"]
        return step

    def state_dict(self) -> dict[str, Any]:
        """All that the rest of the training depends on between two steps: tensors, which are not
        copied, and plain values.

        Raises:
            TypeError: there is in `state` what JSON does not know, or would give back as another.
        """
        return {
            "parameters": {name: p.detach() for name, p in self.model.named_parameters()},
            "buffers": {name: b.detach() for name, b in self.model.named_buffers()},
            "optimizer": self.optimizer.state_dict(),
            "further_optimizer": self.further_optimizer.state_dict(),
            "factors": self.optimizer.factors,
            "broken": self._broken,
            "state": _in_json(self.state),
            "streams": streams(self.device),
            "latent": self._latent.get_state(),
            "tokens": self.meter.tokens,
            "counts": {name: getattr(self, name) for name in COUNTS},
            "eager": self.passes.eager,
        }

    def _load(self, state: Mapping[str, Any]) -> None:
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(state["parameters"][name])
        for path, buffer in state["buffers"].items():
            # In place of the tensor of a new model, which may have another shape, or be none.
            part, _, name = path.rpartition(".")
            setattr(self.model.get_submodule(part), name, buffer.to(self.device))
        self.optimizer.load_state_dict(state["optimizer"])
        self.further_optimizer.load_state_dict(state["further_optimizer"])
        self._broken.copy_(state["broken"])  # which the optimisers share
        self.state = json.loads(state["state"])
        self._latent.set_state(state["latent"])
        self.meter.tokens = state["tokens"]
        vars(self).update(state["counts"])
        self.passes.eager = state["eager"]

    @property
    def spent(self) -> float:
        """Share of the budget that is spent, 0 to 1."""
        return min(1.0, self.meter.tokens / self.meter.budget)

    @property
    def progress(self) -> float:
        """Share of the budget from `begin` to `end` that is spent, 0 to 1."""
        left = self._ends - self._began
        return min(1.0, (self.meter.tokens - self._began) / left) if left > 0 else 1.0

    def begin(self) -> None:
        """Count progress from here; the learning rate goes on as it was."""
        self._began = self.meter.tokens

    def end(self, share: float) -> None:
        """Count progress up to this share of the budget; the learning rate goes on as it was."""
        self._ends = share * self.meter.budget

    @property
    def learning_rate(self) -> float:
        """That of the suite, as its decay has it at this point."""
        return self.settings.learning_rate * DECAYS[self.settings.decay](self.spent)

    def scale_learning_rate(self, slots: tuple[str, ...], factor: float) -> None:
        """Give these slots that factor of the learning rate, in place of what they had."""
        self.optimizer.scale(self.model.parameters_of(slots), factor)

    def draw(self) -> Batch:
        """The next training batch, on the model's device."""
        return next(self._batches).to(self.device)

    def _draws(self, split: Split) -> Iterator[Batch]:
        order = stream_seed(self.seed, "order")
        while True:
            batches = training_batches(split, self.settings.batch, order, self.epoch)
            for batch in islice(batches, self._drawn, None):
                self._drawn += 1
                yield batch
            self.epoch, self._drawn = self.epoch + 1, 0

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
        if isinstance(only, str) or not only or not set(only) <= set(SLOTS):
            raise ContractError(
                f"step: only must be slots, some of {', '.join(SLOTS)}, such as ('encoder',), not"
                f" {only!r}"
            )
        self.model.zero_grad(set_to_none=True)

        def objective(forward: Forward) -> Forward:
            return checked("step", "then", then(self.remedy.objective(forward)))

        with self._training(only), self.passes.stream():
            with products_in(self._precision, self.device.type):
                forward = self.passes(batch, objective, self.steps, self.progress)
            forward.loss().backward()
        optimizers = (self.optimizer, self.further_optimizer)
        for optimizer in optimizers:  # all of them, before the first does anything
            optimizer.look()
        for optimizer in optimizers:
            optimizer.step(self.learning_rate)
        self._since_look += 1
        if self.device.type == "cpu" or self._since_look == LOOK:
            self.check_gradients()
        for side, slots in {"encoder": INFERENCE, "decoder": ("decoder",)}.items():
            trained = [p for slot in slots if slot in only for p in self._parameters[slot]]
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
        frozen = [
            parameter
            for slot in SLOTS
            if slot not in only
            for parameter in self._parameters[slot]
            if parameter.requires_grad
        ]
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
        """`kl`, `mutual_information` or `active_units` on the validation split.

        Raises:
            UserError: there is no such metric, or none of this family of posteriors.
        """
        metrics = posterior_scores(self.validate(samples=0)).metrics
        if metric not in metrics:
            raise UserError(
                f"run.measure: no metric {metric!r} of this model's posterior; there are"
                f" {', '.join(metrics)}"
            )
        return metrics[metric]

    def reset(self, slot: str) -> None:
        """Draw a slot's weights anew and forget its optimiser state.

        Raises:
            ContractError: there is no such slot, or a part of it has weights and no
                `reset_parameters`.
        """
        if slot not in SLOTS:
            raise ContractError(f"run.reset: must be one of {', '.join(SLOTS)}, not {slot!r}")
        own = set(self._parameters[slot])  # what is shared with an earlier slot stays
        for module in getattr(self.model, slot).modules():
            weights = list(module.parameters(recurse=False))
            if weights and not own & set(weights):
                continue
            reset: Any = getattr(module, "reset_parameters", None)
            if reset is not None:
                reset()
            elif weights:
                raise ContractError(
                    f"run.reset: {type(module).__name__} in {slot} has weights and no"
                    f" reset_parameters to draw them anew"
                )
        self._forget(own)

    def forget(self, slots: tuple[str, ...]) -> None:
        """Forget what the optimiser knows of these slots; their weights stay.

        Raises:
            ContractError: there is no such slot.
        """
        for slot in slots:
            if slot not in SLOTS:
                raise ContractError(f"run.forget: must be of {', '.join(SLOTS)}, not {slot!r}")
            self._forget(set(self._parameters[slot]))

    def _forget(self, parameters: set[nn.Parameter]) -> None:
        for optimizer in (self.optimizer, self.further_optimizer):
            optimizer.forget(parameters)


def _in_json(state: dict[str, Any]) -> str:
    """A text from which exactly the same can be read.

    Raises:
        TypeError: there is none.
    """
    text = json.dumps(state)
    # By what they look like, since no NaN is equal to itself.
    if repr(json.loads(text)) != repr(state):
        raise TypeError(
            "JSON does not give it back as it is: keys are texts, tuples become lists, and numbers"
            " are Python's own"
        )
    return text
