"""Which mode the parts of a model are in."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def eval_mode(parts: Iterable[nn.Module]) -> Iterator[None]:
    """Eval mode inside; every one of these modules in the mode it was in afterwards."""
    modes = {part: part.training for part in parts}
    for part in modes:
        part.training = False
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode
