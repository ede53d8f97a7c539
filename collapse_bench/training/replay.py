"""One pass of training that can be done again without its Python: on a GPU as two CUDA graphs.

A pass is cut at the terms of its `Forward`. What comes before them is captured, and so are the
gradients from these terms to the parameters; the remedy's objective acts between the two as ever,
so that schedules and weights are ordinary Python.

Without a GPU each replay is a call of what would be captured, on the same static tensors: so the
tests hold all but the capture itself equal to plain training, bit for bit.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.distributions import Distribution

from collapse_bench.corpus import Batch
from collapse_bench.model import Forward, Objective, SequenceVAE

WARMUP = 2
"""Calls before a capture, in which libraries choose kernels and take what memory they work in."""

TOLERANCE = 1e-2
"""By how much of its norm a replay on a GPU may differ from a call, since sums by index come in any
order there. On a processor nothing may differ."""

TERMS = ("states", "features", "q", "z", "p", "decoded", "distortion", "kl")
TENSORS = ("targets", "inputs", "mask", "lengths", "index", "kinds")

Found = TypeVar("Found")


class CannotCaptureError(Exception):
    """Why passes have to be ordinary ones."""


class Recorder:
    """What the captures of a run share: generators, and on a GPU a stream and memory.

    Args:
        latent: generator of the noise of z, on the model's device.
    """

    def __init__(self, latent: torch.Generator) -> None:
        self.on_gpu = latent.device.type == "cuda"
        self.generators = [torch.default_generator, latent]
        if self.on_gpu:
            self.generators.append(torch.cuda.default_generators[torch.cuda.current_device()])
            self._stream, self._pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()

    @contextmanager
    def stream(self) -> Iterator[None]:
        """All passes on one stream: a parameter remembers where its gradient was first asked for,
        and the default stream, which cannot be captured, would be drawn into the capture."""
        if not self.on_gpu:
            yield
            return
        outside = torch.cuda.current_stream()
        self._stream.wait_stream(outside)
        with torch.cuda.stream(self._stream):
            yield
        outside.wait_stream(self._stream)

    def capture(self, call: Callable[[], Found]) -> tuple[Found, torch.cuda.CUDAGraph]:
        """A call as a graph, and the tensors in which its replays leave their results."""
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self.generators[1])
        try:
            # Not by `torch.cuda.graph`, which gives all unused memory back each time.
            graph.capture_begin(pool=self._pool)
            found = call()
            graph.capture_end()
        except Exception:
            with suppress(RuntimeError):
                graph.capture_end()
            for generator in self.generators[1:]:  # else they wait for the end of the capture
                generator.graphsafe_set_state(generator.clone_state())
            raise
        return found, graph

    def warm_up(self, call: Callable[[], Any]) -> None:
        """Calls before a capture, in which a wait for the GPU is an error: in a capture it would
        be one that leaves torch in disorder."""
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(WARMUP):
                call()
        finally:
            torch.cuda.set_sync_debug_mode(before)


class Part(Generic[Found]):
    """Work that can be done again without its Python; `found` is what it found last."""

    found: Found

    def __init__(self, call: Callable[[], Found], recorder: Recorder) -> None:
        self._call, self._recorder = call, recorder
        self._graph: torch.cuda.CUDAGraph | None = None

    def capture(self) -> None:
        """From now on a GPU's replays leave their results in the same tensors."""
        if self._recorder.on_gpu:
            self.found, self._graph = self._recorder.capture(self._call)
        else:
            self.replay()

    def replay(self) -> None:
        """Do it with what the static tensors hold now."""
        if self._graph is None:
            self.found = self._call()
        else:
            self._graph.replay()


class Pass:
    """Forward and backward pass for one shape of batches and one state of the model.

    Args:
        run: a batch's pass up to the terms of the plain objective.
        batch: of that shape.
        model: whose parameters get gradients.
        recorder: of the run.

    Raises:
        CannotCaptureError: a distribution is made of more than tensors and numbers.
    """

    def __init__(
        self,
        run: Callable[[Batch], Forward],
        batch: Batch,
        model: SequenceVAE,
        recorder: Recorder,
    ) -> None:
        self._run = run
        own = {name: getattr(batch, name).clone() for name in TENSORS}
        # Of chosen rows a capture could not ask the device for their number.
        self._batch = replace(batch, counted=batch.tokens, **own)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self._forward = Part(lambda: run(self._batch), recorder)
        self._backward = Part(lambda: self._gradients(self._forward.found), recorder)
        self._forward.replay()
        terms = list(tensors_of(self._forward.found))
        self._reached = [_reached(term) for term in terms]
        self._incoming = [torch.ones_like(term) for term in terms if term.requires_grad]
        if recorder.on_gpu:
            recorder.warm_up(lambda: self._gradients(run(self._batch)))
        self._forward.capture()
        self._backward.capture()
        self._objective_acts = False

    def __call__(self, batch: Batch, objective: Objective, step: int, progress: float) -> Forward:
        """The forward pass of a batch; the backward pass of its loss is a replay, too."""
        self._load(batch)
        found = replace(self._forward.found, step=step, progress=progress, batch=batch)
        terms = _Joined.apply(self, list(tensors_of(found)), *self.parameters)  # type: ignore[no-untyped-call]
        self._objective_acts = True
        forward = objective(with_tensors(found, iter(terms)))
        self._objective_acts = False
        return forward

    def gradients(self, incoming: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Gradients of the parameters from those of the terms; None where none arrives.

        Raises:
            CannotCaptureError: the objective asks for them itself, which a graph answers but once.
        """
        if self._objective_acts:
            raise CannotCaptureError("an objective takes derivatives itself")
        given = [each for each, reached in zip(incoming, self._reached, strict=True) if reached]
        for static, gradient in zip(self._incoming, given, strict=True):
            static.zero_() if gradient is None else static.copy_(gradient)
        self._backward.replay()
        reached = set[Tensor]().union(
            *(r for r, each in zip(self._reached, incoming, strict=True) if each is not None)
        )
        # New tensors on the static memory: autograd takes them for `grad` without a copy.
        return [
            gradient.detach() if parameter in reached else None
            for parameter, gradient in zip(self.parameters, self._backward.found, strict=True)
        ]

    def differs(
        self,
        batch: Batch,
        state: Callable[[], Sequence[Tensor]],
        restore: Callable[[], None],
    ) -> bool:
        """Whether a replay and a call differ in terms, gradients, or the state that they leave.

        Args:
            batch: of the shape, other than the one that was captured.
            state: what passes change: random numbers, buffers.
            restore: brings it back to what it is now.
        """
        self._load(batch)
        for static in self._incoming:
            static.fill_(1)
        self._backward.replay()
        terms = tensors_of(self._forward.found)
        replayed = [each.detach().clone() for each in (*terms, *self._backward.found, *state())]
        restore()
        called = self._run(batch)
        gradients = self._gradients(called)
        return not _agree(replayed, [*tensors_of(called), *gradients, *state()])

    def _load(self, batch: Batch) -> None:
        """Replay the forward pass of a batch."""
        for name in TENSORS:
            getattr(self._batch, name).copy_(getattr(batch, name))
        self._forward.replay()

    def _gradients(self, forward: Forward) -> list[Tensor]:
        terms = [term for term in tensors_of(forward) if term.requires_grad]
        found = torch.autograd.grad(
            terms, self.parameters, self._incoming, allow_unused=True, materialize_grads=True
        )
        # The two biases of an LSTM get one and the same tensor, and the optimiser scales it in
        # place: each has to have memory of its own.
        taken: set[int] = set()
        gradients = []
        for gradient in found:
            gradients.append(gradient.clone() if gradient.data_ptr() in taken else gradient)
            taken.add(gradient.data_ptr())
        return gradients


class _Joined(torch.autograd.Function):
    """Parameters to the terms of a pass: all of a replay as one node of the objective's graph."""

    @staticmethod
    def forward(ctx: Any, pass_: Pass, terms: list[Tensor], *parameters: Tensor) -> Any:
        """Copies of the terms, which the next replay writes over."""
        ctx.pass_ = pass_
        ctx.set_materialize_grads(False)
        copies = tuple(term.clone() for term in terms)
        constant = [c for c, term in zip(copies, terms, strict=True) if not term.requires_grad]
        ctx.mark_non_differentiable(*constant)
        return copies

    @staticmethod
    def backward(ctx: Any, *incoming: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients of the terms to those of the parameters."""
        return None, None, *ctx.pass_.gradients(incoming)


def tensors_of(value: Any) -> Iterator[Tensor]:
    """The tensors that a forward pass consists of, or a distribution.

    Raises:
        CannotCaptureError: a distribution holds what is neither a tensor nor a plain value.
    """
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Forward):
        for name in TERMS:
            yield from tensors_of(getattr(value, name))
    elif isinstance(value, Distribution):
        for part in vars(value).values():
            yield from tensors_of(part)
    elif not (value is None or isinstance(value, int | float | str | torch.Size)):
        raise CannotCaptureError(f"a distribution holds {type(value).__name__}")


def with_tensors(value: Any, tensors: Iterator[Tensor]) -> Any:
    """The same with other tensors, in the order of `tensors_of`."""
    if isinstance(value, Tensor):
        return next(tensors)
    if isinstance(value, Forward):
        return replace(value, **{n: with_tensors(getattr(value, n), tensors) for n in TERMS})
    if isinstance(value, Distribution):
        other = copy.copy(value)
        vars(other).update({n: with_tensors(v, tensors) for n, v in vars(value).items()})
        return other
    return value


def _reached(term: Tensor) -> set[Tensor]:
    """The parameters that a term depends on; at least one where it has a gradient."""
    if term.is_leaf:
        return {term} if term.requires_grad else set()
    seen, ahead = set(), [term.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is not None and node not in seen:
            seen.add(node)
            ahead += [following for following, _ in node.next_functions]
    return {node.variable for node in seen if hasattr(node, "variable")}


def _agree(some: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    """Whether a replay has what a call has: equal, or on a GPU within `TOLERANCE`."""
    norms = [float(other.detach().double().norm()) for other in others]
    # What is zero but for rounding, such as the gradient of the keys' biases, is compared with the
    # other tensors.
    least = TOLERANCE * max(norms, default=0.0)
    return all(
        torch.equal(one, other)
        or (one.is_cuda and float((one - other).double().norm()) <= TOLERANCE * (norm + least))
        for one, other, norm in zip(some, others, norms, strict=True)
    )
