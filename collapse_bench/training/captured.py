"""The passes of a training run as replays, and as ordinary ones where they cannot be.

A step of a small model is hundreds of kernels, and to start them one by one takes longer than they
run. What a replay would do wrong is found out before there is one: a pass is replayed only where
nothing that the capture took for constant has changed since, and after a replay has been held
against a call on another batch. What cannot be captured runs as ever, and the reason is kept.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor

from collapse_bench.corpus import Batch
from collapse_bench.model import Forward, Noise, Objective, SequenceVAE
from collapse_bench.training.meter import BudgetSpentError, Meter
from collapse_bench.training.replay import CannotCaptureError, Pass, Recorder

MOST = 8
"""States of the model in which batches of one shape may be met: which slots are updated, and what
else a remedy sets. With more of them captures would cost more than they save."""

PLAIN = frozenset((bool, int, float, str, type(None)))

State = dict[tuple[str, str], Any]
"""What a capture takes for constant, by path of the module and name."""


class Passes:
    """The passes of a training run, replayed where they can be.

    The first batch of a shape has an ordinary pass, and so has what never comes again. With the
    second the pass is captured and held against a call.

    Lists and other objects in which a module keeps what changes are not seen: what lasts belongs
    into buffers.

    Args:
        model: that is trained.
        noise: standard normal, drawn from `latent`.
        latent: a generator on the model's device.
        meter: counts what is decoded; a replay does not run its hook.
        eager: why every pass is an ordinary one from now on; None while that is not so.
    """

    def __init__(
        self,
        model: SequenceVAE,
        noise: Noise,
        latent: torch.Generator,
        meter: Meter,
        eager: str | None,
    ) -> None:
        self.model, self.noise, self.meter = model, noise, meter
        self.recorder = Recorder(latent)
        self.eager = eager
        # The tensors in a key are known by their number, so they must not be freed.
        self._met: dict[Any, tuple[Batch, list[Tensor]]] = {}
        self._passes: dict[Any, Pass] = {}

    def __call__(self, batch: Batch, objective: Objective, step: int, progress: float) -> Forward:
        """The forward pass of a batch, the objective applied.

        Raises:
            BudgetSpentError: there are no tokens left to decode.
        """
        if self.meter.spent:  # before the pass has drawn or learned anything, however it is made
            raise BudgetSpentError
        ordinary: Callable[[], Forward] = partial(
            self.model, batch, self.noise, step=step, progress=progress, objective=objective
        )
        if self.eager is not None:
            return ordinary()
        state, tensors = state_of(self.model)
        key = batch.mask.shape, tuple(state.items())
        if key not in self._met:
            forward = ordinary()
            self._meet(key, batch, tensors)
            return forward
        if key not in self._passes:
            self._capture(key, batch)
        if key in self._passes:
            restore = self._moment()
            try:
                self.meter.count(batch.tokens)
                return self._passes[key](batch, objective, step, progress)
            except BudgetSpentError:
                raise
            except Exception as error:  # what is wrong without a graph, too, shows again below
                self._give_up(error)
                restore()
        return ordinary()

    def stream(self) -> AbstractContextManager[None]:
        """Where an update computes: on a stream that can be captured, while there are captures."""
        return self.recorder.stream() if self.eager is None else nullcontext()

    def _meet(self, key: Any, batch: Batch, tensors: list[Tensor]) -> None:
        """Remember what has just been passed for the first time."""
        shape, state = key
        same_shape = [others for met, others in self._met if met == shape]
        if changed := _differing(state_of(self.model)[0], dict(state)):
            self._give_up(CannotCaptureError(f"a pass changes {changed}"))
        elif len(same_shape) == MOST:
            changed = _differing(dict(same_shape[-1]), dict(state))
            self._give_up(CannotCaptureError(f"more than {MOST} values of {changed}"))
        else:
            self._met[key] = batch, tensors

    def _capture(self, key: Any, batch: Batch) -> None:
        """Capture the pass of the batch that was met, and hold a replay against a call of this."""
        restore = self._moment()
        try:
            metered = set(self.model.decoders)
            for path, module in self.model.named_modules():
                hooks = len(module._forward_hooks) + len(module._forward_pre_hooks)
                if hooks > (module in metered):
                    raise CannotCaptureError(f"a replay would not run the hooks of {path}")
            pass_ = Pass(self._run, self._met[key][0], self.model, self.recorder)
            if pass_.differs(batch, self._state, self._moment()):
                raise CannotCaptureError("a replay differs from an ordinary pass")
            self._passes[key] = pass_
        except Exception as error:
            self._give_up(error)
        restore()

    def _run(self, batch: Batch) -> Forward:
        """A pass up to the terms, whose tokens are not counted."""
        kind = batch.mask.device.type
        acted: list[Forward] = []

        def act(forward: Forward) -> Forward:
            acted.append(forward)
            return forward

        dtype, reduced = torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)
        # Copies in a cache would outlive the memory of the capture that made them.
        products = torch.autocast(kind, dtype, enabled=reduced, cache_enabled=False)
        with self.meter.aside() as decoded, products:
            forward: Forward = self.model(batch, self.noise, objective=act)
        if len(acted) > 1:
            raise CannotCaptureError("the head asks for the energy, which the objective makes")
        if decoded != [batch.tokens]:
            raise CannotCaptureError("a pass does not decode each sentence once")
        return forward

    def _state(self) -> list[Tensor]:
        generators = [generator.get_state() for generator in self.recorder.generators]
        return [*generators, *self.model.buffers()]

    def _moment(self) -> Callable[[], None]:
        """What brings random numbers, buffers and counted tokens back to what they are now."""
        state, tokens = [each.clone() for each in self._state()], self.meter.tokens

        def restore() -> None:
            generators = self.recorder.generators
            for generator, before in zip(generators, state, strict=False):
                generator.set_state(before)
            for buffer, before in zip(self.model.buffers(), state[len(generators) :], strict=True):
                buffer.copy_(before)
            self.meter.tokens = tokens

        return restore

    def _give_up(self, error: Exception) -> None:
        kind = "" if isinstance(error, CannotCaptureError) else f"{type(error).__name__}: "
        self.eager = kind + (str(error).strip().splitlines() or [""])[0]
        self._met.clear()
        self._passes.clear()


def state_of(model: SequenceVAE) -> tuple[State, list[Tensor]]:
    """The plain values among the attributes of all modules, which tensors they have, and which of
    these get gradients; and the tensors."""
    state: State = {}
    tensors = []
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if type(value) in PLAIN:
                state[path, name] = value
            elif type(value) is Tensor:
                state[path, name] = id(value)
                tensors.append(value)
        for held in (module._parameters, module._buffers):
            for name, tensor in held.items():
                if tensor is not None:
                    state[path, name] = id(tensor), tensor.requires_grad
                    tensors.append(tensor)
    return state, tensors


def _differing(one: State, other: State) -> str:
    names = [each for each in one | other if one.get(each) != other.get(each)]
    return ", ".join(".".join(each) for each in names)
