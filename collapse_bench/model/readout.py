"""From decoder states to token log-probabilities: the one place where the vocabulary is wide."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from collapse_bench.corpus import Batch

ROWS = 64
"""Tokens whose float32 probabilities exist at once: few enough to stay in a processor's cache."""


class TokenLogLikelihood(torch.autograd.Function):
    """log softmax(states W')[target] of each token, without a float32 tensor over all logits.

    The product is computed in the dtype it is given in; the normaliser and the gradient of the
    logits are formed in float32, a few rows at a time. It can be differentiated once.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        """States [R, H], weight [V, H] and targets [R] to nats [R], float32."""
        logits = states @ weight.t()
        normalisers = [part.float().logsumexp(1) for part in logits.split(ROWS)]
        normaliser = torch.cat(normalisers) if normalisers else logits.new_zeros(0)
        ctx.save_for_backward(states, weight, targets, logits, normaliser)
        return logits.gather(1, targets[:, None])[:, 0].float() - normaliser

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """Gradient [R] to those of states and weight."""
        states, weight, targets, logits, normaliser = ctx.saved_tensors
        of_logits = torch.empty_like(logits)
        for start in range(0, len(states), ROWS):
            part = slice(start, start + ROWS)
            target = targets[part, None]
            residual = (logits[part].float() - normaliser[part, None]).exp_().neg_()
            residual.scatter_add_(1, target, torch.ones_like(target, dtype=residual.dtype))
            of_logits[part] = residual.mul_(gradient[part, None])
        needs_states, needs_weight, _ = ctx.needs_input_grad
        return (
            of_logits @ weight if needs_states else None,
            of_logits.t() @ states if needs_weight else None,
            None,
        )


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
            log p(x | z) in nats, [B], float32.
        """
        rows, targets = states[batch.mask], batch.targets[batch.mask]
        count = len(rows)
        # Libraries keep a plan for every shape that they meet: without this, one for every batch.
        rows, targets = F.pad(rows, (0, 0, 0, -count % ROWS)), F.pad(targets, (0, -count % ROWS))
        if torch.is_autocast_enabled(states.device.type):
            dtype = torch.get_autocast_dtype(states.device.type)
            rows = rows.to(dtype)
        tokens: Tensor = TokenLogLikelihood.apply(  # type: ignore[no-untyped-call]
            rows, self.weight.to(rows.dtype), targets
        )[:count]
        sentence = torch.arange(len(states), device=states.device)
        owner = sentence[:, None].expand_as(batch.mask)[batch.mask]
        return tokens.new_zeros(len(states)).index_add(0, owner, tokens)
