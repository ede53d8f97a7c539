"""From decoder states to token log-probabilities: the one place where the vocabulary is wide."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from collapse_bench.corpus import Batch

ROWS = 64
"""Tokens whose float32 probabilities a processor forms at once: few enough to stay in its cache."""

KEPT = 2**25
"""Largest number of probabilities held at once. Where there are more, a part of the tokens is done
at a time and the backward pass computes the probabilities again: memory does not grow."""


class TokenLogLikelihood(torch.autograd.Function):
    """log softmax(states W')[target] of each token, passing over the wide matrix once.

    The products are computed in the dtype of what is given; the softmax in float32 or better, a
    few rows at a time, and rounded to that dtype where the logits were. With P the probabilities
    and g the gradient of the result, the gradient of the states is g (W[target] - P W) and that of
    W is g states, added up at the targets, less P' (g states): g and the targets act on narrow
    matrices, so the backward pass has products only; with `create_graph` it is the plain formula's.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        """States [R, H], weight [V, H] and targets [R] to nats [R], float32 or better."""
        of_states, of_weight, _ = ctx.needs_input_grad
        nats = torch.empty(len(states), dtype=_wide(states), device=states.device)
        slope = torch.empty_like(states) if of_states else None
        probabilities = None
        parts = _parts(states, weight)
        for part in parts:
            logits = states[part] @ weight.t()
            target = targets[part]
            above_likeliest = logits.gather(1, target[:, None])[:, 0].to(nats) - logits.amax(1)
            nats[part] = above_likeliest + _softmax_(logits).log_()
            if slope is not None:
                slope[part] = weight[target] - logits @ weight
            if of_weight and len(parts) == 1:
                probabilities = logits
        ctx.save_for_backward(states, weight, targets, slope, probabilities)
        return nats

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """Gradient [R] to those of states and weight."""
        states, weight, targets, slope, probabilities = ctx.saved_tensors
        if torch.is_grad_enabled():  # a gradient of the gradient will be asked for
            return *_plain_gradients(ctx.needs_input_grad, states, weight, targets, gradient), None
        gradient = gradient[:, None].to(states.dtype)
        of_states = None if slope is None else gradient * slope
        of_weight = None
        if ctx.needs_input_grad[1]:
            scaled = gradient * states
            # A sum of many parts would lose digits in a narrow dtype.
            dtype = _wide(weight) if probabilities is None else weight.dtype
            of_weight = torch.zeros_like(weight, dtype=dtype)
            of_weight.index_add_(0, targets, scaled.to(dtype))
            for part in _parts(states, weight):
                p = probabilities
                if p is None:
                    p = states[part] @ weight.t()
                    _softmax_(p)
                of_weight -= p.t() @ scaled[part]
            of_weight = of_weight.to(weight.dtype)
        return of_states, of_weight, None


def _plain_gradients(
    needed: tuple[bool, ...], states: Tensor, weight: Tensor, targets: Tensor, gradient: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients as autograd computes them from the plain formula, so that they have one too.

    The fast backward pass hides from autograd how the slope depends on states and weight: a
    Hessian-vector product would miss that part.
    """
    logits = (states @ weight.t()).to(_wide(states))
    nats = logits.log_softmax(1).gather(1, targets[:, None])[:, 0]
    wanted = [tensor for tensor, need in zip((states, weight), needed, strict=False) if need]
    found = iter(torch.autograd.grad(nats, wanted, gradient, create_graph=True))
    return next(found) if needed[0] else None, next(found) if needed[1] else None


def _parts(states: Tensor, weight: Tensor) -> list[slice]:
    """The R tokens in parts of at most `KEPT` probabilities, but at least one token."""
    rows = max(1, KEPT // len(weight))
    if rows > ROWS:
        rows -= rows % ROWS
    return [slice(start, start + rows) for start in range(0, max(1, len(states)), rows)]


def _wide(values: Tensor) -> torch.dtype:
    """Float32, or what is given if that is more."""
    return torch.promote_types(values.dtype, torch.float32)


def _softmax_(logits: Tensor) -> Tensor:
    """Turn logits [R, V] into probabilities and give the largest of each row, [R]."""
    rows = ROWS if logits.device.type == "cpu" else max(1, len(logits))
    largest = []
    for part in logits.split(rows):
        probabilities = part.softmax(1, dtype=_wide(logits))
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
        tokens = self._tokens(states, batch)
        sentence = batch.place // states.shape[1]
        return tokens.new_zeros(len(states)).index_add(0, sentence, tokens)

    def by_position(self, states: Tensor, batch: Batch) -> Tensor:
        """log p(x_t | x_<t, z) in nats, [B, T], zero at padding; `forward` is its sum."""
        tokens = self._tokens(states, batch)
        places = tokens.new_zeros(states.shape[0] * states.shape[1])
        return places.index_add(0, batch.place, tokens).view(states.shape[:2])

    def _tokens(self, states: Tensor, batch: Batch) -> Tensor:
        """Nats of each target, [R]."""
        rows = states.flatten(0, 1)[batch.place]
        targets = batch.targets.flatten()[batch.place]
        count = len(rows)
        # Libraries keep a plan for every shape that they meet: without this, one for every batch.
        rows, targets = F.pad(rows, (0, 0, 0, -count % ROWS)), F.pad(targets, (0, -count % ROWS))
        if torch.is_autocast_enabled(states.device.type):
            dtype = torch.get_autocast_dtype(states.device.type)
            rows = rows.to(dtype)
        tokens: Tensor = TokenLogLikelihood.apply(  # type: ignore[no-untyped-call]
            rows, self.weight.to(rows.dtype), targets
        )[:count]
        return tokens
