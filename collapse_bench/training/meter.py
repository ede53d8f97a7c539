"""The budget is decoded tokens, counted where they are decoded."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn


class BudgetSpentError(Exception):
    """The training budget is used up; raised from inside whatever loop is running."""


class Meter:
    """Counts the tokens that decoders decode in training, where they are decoded.

    Inner loops, pre-training and refinement pass here too, so they are all paid for. A decoder's
    eval mode is free: that is measuring.
    """

    def __init__(self, decoders: Sequence[nn.Module], budget: int) -> None:
        self.budget = budget
        self.tokens = 0
        self._aside: list[int] | None = None
        self._hooks = [each.register_forward_pre_hook(self._passed) for each in decoders]

    @property
    def spent(self) -> bool:
        """Whether there are no tokens left."""
        return self.tokens >= self.budget

    def count(self, tokens: int) -> None:
        """Pay for tokens that are about to be decoded.

        Raises:
            BudgetSpentError: there are none left.
        """
        if self.spent:
            raise BudgetSpentError
        self.tokens += tokens

    @contextmanager
    def aside(self) -> Iterator[list[int]]:
        """Count nothing inside; what is given lists the tokens of each pass of a decoder."""
        self._aside = []
        try:
            yield self._aside
        finally:
            self._aside = None

    def _passed(self, decoder: nn.Module, arguments: tuple[Any, ...]) -> None:
        if not decoder.training:
            return
        if self._aside is None:
            self.count(arguments[0].tokens)
        else:
            self._aside.append(arguments[0].tokens)

    def stop(self) -> None:
        """Count no more."""
        for hook in self._hooks:
            hook.remove()
