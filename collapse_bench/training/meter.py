"""The budget is decoded tokens, counted where they are decoded."""

from typing import Any

from torch import nn


class BudgetSpentError(Exception):
    """The training budget is used up; raised from inside whatever loop is running."""


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
