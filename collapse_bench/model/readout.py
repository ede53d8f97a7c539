"""From decoder states to token log-probabilities: the one place where the vocabulary is wide."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from collapse_bench.corpus import Batch

ROWS = 64
"""Tokens whose float32 probabilities a processor forms at once: few enough to stay in its cache."""

KEPT = 2**25
"""Largest number of probabilities held at once. Where there are more, a part of the tokens is done
at a time and the backward pass computes the probabilities again: memory does not grow."""

ALIGNED = 16
"""Rows of logits begin at multiples of as many numbers, of a whole line of the cache: a product
that writes 10,002 numbers a row takes 1.5 times as long as one whose rows are 10,016 apart."""


def token_log_likelihood(states: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """log softmax(states W')[target] of each token, passing over the wide matrix once.

    The products are computed in the dtype of the states; the softmax in float32 or better, a few
    rows at a time, and rounded to that dtype where the logits were. With P the probabilities and g
    the gradient of the result, the gradient of the states is g (W[target] - P W) and that of W is
    g states, added up at the targets, less P' (g states): g and the targets act on narrow matrices,
    so the backward pass has products only. Both gradients have one of their own.

    Args:
        states: [R, H].
        weight: W, [V, H].
        targets: [R].

    Returns:
        Nats [R], float32 or better.
    """
    if not torch.is_grad_enabled():
        return _without_gradients(states, weight, targets)
    nats, probabilities = _OfStates.apply(states, weight, targets)  # type: ignore[no-untyped-call]
    # In a tuple torch does not see the states: else this node would be on their way, too.
    return nats + _OfWeight.apply(weight, (states,), targets, probabilities)  # type: ignore[no-untyped-call, no-any-return]


class _OfStates(torch.autograd.Function):
    """The nats, and their gradient by the states; that by W is another node's, `_OfWeight`.

    Where the gradient of z alone is asked for, that of W would be a third of the work for nothing.
    """

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Nats [R], and P [R, W], W being V aligned, where it is needed and there is room."""
        of_states, of_weight, _ = ctx.needs_input_grad
        nats = torch.empty(len(states), dtype=_wide(states), device=states.device)
        slope = torch.empty_like(states) if of_states else None
        probabilities = None
        parts, table = _parts(states, weight), _table(weight, states.dtype)
        for part in parts:
            logits = _logits(states[part], table, len(weight))
            target = targets[part]
            above_likeliest = logits.gather(1, target[:, None])[:, 0].to(nats) - logits.amax(1)
            nats[part] = above_likeliest + _softmax_(logits).log_()
            if slope is not None:
                slope[part] = table[target] - logits[:, : len(table)] @ table
            if of_weight and len(parts) == 1:
                probabilities = logits
        ctx.save_for_backward(states, weight, targets, slope, probabilities)
        if probabilities is not None:
            ctx.mark_non_differentiable(probabilities)
        ctx.set_materialize_grads(False)  # else there were zeros as wide as the probabilities
        return nats, probabilities

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None, _: None) -> tuple[Tensor | None, None, None]:
        """Gradient [R] to that of states."""
        states, weight, targets, slope, probabilities = ctx.saved_tensors
        if slope is None or gradient is None:
            return None, None, None
        if torch.is_grad_enabled():  # a gradient of the gradient will be asked for
            slope = _Slope.apply(states, weight, targets, slope, probabilities)  # type: ignore[no-untyped-call]
        return gradient[:, None].to(slope.dtype) * slope, None, None


class _OfWeight(torch.autograd.Function):
    """Zeros with the gradient of the nats by W."""

    @staticmethod
    def forward(
        ctx: Any,
        weight: Tensor,
        states: tuple[Tensor],
        targets: Tensor,
        probabilities: Tensor | None,
    ) -> Tensor:
        """Zeros [R]."""
        ctx.save_for_backward(weight, targets, probabilities)
        (ctx.states,) = states
        return torch.zeros(len(targets), dtype=_wide(ctx.states), device=weight.device)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None, None]:
        """Gradient [R] to that of the weight."""
        weight, targets, probabilities = ctx.saved_tensors
        states = ctx.states
        if torch.is_grad_enabled():  # a gradient of the gradient will be asked for
            return _plain_gradient(weight, states, targets, gradient), None, None, None
        scaled = gradient[:, None].to(states.dtype) * states
        less, table = -scaled, _table(weight, states.dtype)
        of_weight = None
        for part in _parts(states, weight):
            p = probabilities
            if p is None:
                p = _logits(states[part], table, len(weight))
                _softmax_(p)
            p = p[:, : len(weight)].t()
            if of_weight is None:
                # A sum of many parts would lose digits in a narrow dtype.
                of_weight = (p @ less[part]).to(_wide(weight))
            elif of_weight.dtype == p.dtype:
                of_weight.addmm_(p, less[part])
            else:
                of_weight += p @ less[part]
        assert of_weight is not None
        of_weight.index_add_(0, targets, scaled.to(of_weight.dtype))
        return of_weight.to(weight.dtype), None, None, None


class _Slope(torch.autograd.Function):
    """The gradient by the states, W[target] - P W, as `_OfStates` has formed it, with its own.

    Given v [R, H], u = W v and Q = P (u - P u) row by row, it is -Q W by the states; by W it is v,
    added up at the targets, less P' v and Q' states.
    """

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        targets: Tensor,
        slope: Tensor,
        probabilities: Tensor | None,
    ) -> Tensor:
        """The slope [R, H]."""
        ctx.save_for_backward(states, weight, targets, probabilities)
        return slope.view_as(slope)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient [R, H] to those of states and weight."""
        states, weight, targets, probabilities = ctx.saved_tensors
        table, of_states = _table(weight, states.dtype), torch.empty_like(states)
        of_weight = None
        if ctx.needs_input_grad[1]:
            of_weight = torch.zeros_like(weight, dtype=_wide(weight)).index_add_(
                0, targets, v.to(_wide(weight))
            )
        for part in _parts(states, weight):
            p = probabilities
            if p is None:
                p = _logits(states[part], table, len(weight))
                _softmax_(p)
            p = p[:, : len(table)]
            q = v[part] @ table.t()
            q.sub_(torch.linalg.vecdot(p, q)[:, None]).mul_(p)
            of_states[part] = -(q @ table)
            if of_weight is not None:
                for rows, what in ((p, v), (q, states)):
                    of_weight -= rows[:, : len(weight)].t() @ what[part]
        return (
            of_states,
            None if of_weight is None else of_weight.to(weight.dtype),
            None,
            None,
            None,
        )


def _without_gradients(states: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """The nats where no gradient is wanted: the logits are only read."""
    table, nats = _table(weight, states.dtype), []
    for part in _parts(states, weight):
        logits = _logits(states[part], table, len(weight))
        for few, target in zip(_few(logits), _few(targets[part]), strict=True):
            nats.append(few.log_softmax(1, dtype=_wide(few)).gather(1, target[:, None])[:, 0])
    return torch.cat(nats)


def _plain_gradient(weight: Tensor, states: Tensor, targets: Tensor, gradient: Tensor) -> Tensor:
    """The gradient of the weight as autograd computes it from the plain formula."""
    logits = (states @ weight.to(states.dtype).t()).to(_wide(states))
    nats = logits.log_softmax(1).gather(1, targets[:, None])[:, 0]
    return torch.autograd.grad(nats, weight, gradient, create_graph=True)[0]


def _parts(states: Tensor, weight: Tensor) -> list[slice]:
    """The R tokens in parts of at most `KEPT` probabilities, but at least one token."""
    rows = max(1, KEPT // len(weight))
    if rows > ROWS:
        rows -= rows % ROWS
    return [slice(start, start + rows) for start in range(0, max(1, len(states)), rows)]


def _aligned(vocabulary: int) -> int:
    """The next multiple of `ALIGNED`."""
    return vocabulary + -vocabulary % ALIGNED


def _table(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """The weight [V, H] in this dtype; where that is a copy, it has rows of zeros beyond V, with
    which products in bfloat16 are up to twice as fast."""
    if weight.dtype == dtype:
        return weight
    table = weight.new_zeros(_aligned(len(weight)), weight.shape[1], dtype=dtype)
    table[: len(weight)] = weight
    return table


def _logits(states: Tensor, table: Tensor, vocabulary: int) -> Tensor:
    """Logits [R, W] of states [R, H], W being V aligned; -inf beyond V, which has no words."""
    logits = states.new_empty(len(states), _aligned(vocabulary))
    torch.mm(states, table.t(), out=logits[:, : len(table)])
    logits[:, vocabulary:] = -math.inf
    return logits


def _wide(values: Tensor) -> torch.dtype:
    """Float32, or what is given if that is more."""
    return torch.promote_types(values.dtype, torch.float32)


def _few(rows: Tensor) -> Sequence[Tensor]:
    """The rows in parts that a processor's cache holds; elsewhere all of them at once."""
    parts: Sequence[Tensor] = rows.split(ROWS if rows.device.type == "cpu" else max(1, len(rows)))
    return parts


def _softmax_(logits: Tensor) -> Tensor:
    """Turn logits [R, V] into probabilities and give the largest of each row, [R]."""
    largest = []
    for part in _few(logits):
        if part.dtype == _wide(part):
            torch.softmax(part, 1, out=part)
            largest.append(part.amax(1))
        else:
            probabilities = part.softmax(1, dtype=_wide(part))
            largest.append(probabilities.amax(1))
            part.copy_(probabilities)
    return torch.cat(largest)


class Readout(nn.Module):
    """The vocabulary matrix, without a bias, fused with log-softmax and the choice of the target.

    Logits [B, T, V] are part of no interface: most of the time goes into this product, and this
    module is free to compute it in any order.
    """

    def __init__(self, hidden: int, vocabulary: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocabulary, hidden))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights, uniform in +-1 / sqrt(H)."""
        bound = self.weight.shape[1] ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, states: Tensor, batch: Batch) -> Tensor:
        """Log-likelihood of each sentence, EOS counted and padding not.

        Args:
            states: decoder states [B, T, H].
            batch: the sentences that the states were computed from.

        Returns:
            log p(x | z) in nats, [B], float32 or better.
        """
        return self.by_position(states, batch).sum(1)

    def by_position(self, states: Tensor, batch: Batch) -> Tensor:
        """log p(x_t | x_<t, z) in nats, [B, T], zero at padding; `forward` is its sum.

        Padding is computed with the rest, since sentences of a batch are about as long as each
        other: the shapes then depend on B and T alone. States at padding may be anything.
        """
        rows = states.masked_fill(~batch.mask[..., None], 0).flatten(0, 1)
        targets = batch.targets.flatten()
        count = len(rows)
        # Libraries keep a plan for every shape that they meet: without this, one for every batch.
        rows, targets = F.pad(rows, (0, 0, 0, -count % ROWS)), F.pad(targets, (0, -count % ROWS))
        if torch.is_autocast_enabled(states.device.type):
            rows = rows.to(torch.get_autocast_dtype(states.device.type))
        nats = token_log_likelihood(rows, self.weight, targets)
        tokens: Tensor = nats[:count].view(batch.mask.shape).masked_fill(~batch.mask, 0)
        return tokens
