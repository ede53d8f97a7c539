"""Noise that belongs to a sentence, so that no batch size changes a number."""

import math
from itertools import count
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from collapse_bench.model import Noise


class Sentences(Protocol):
    """B sentences as a model takes them: a `Batch` of a corpus, or `Rows` of anything."""

    @property
    def lengths(self) -> Tensor: ...
    @property
    def index(self) -> Tensor: ...
    def rows(self, index: Tensor) -> Any: ...
    def to(self, device: torch.device | str) -> Any: ...


MOST_KEPT = 2**26
"""Numbers that are kept, 256 MiB on the model's device, so that the next batch need not draw those
of all again."""


LONG = 256
"""Numbers of z above which each sentence's noise is drawn by itself, as where every token has a
latent: those of all sentences could not be kept, and drawing them again for every batch would take
longer than decoding it."""


class SentenceNoise:
    """Standard normal noise that depends on the seed, the draw and the sentence only."""

    def __init__(self, sentences: int, seed: int) -> None:
        self.sentences = sentences
        self.seed = seed
        self.drawn: dict[tuple[int, torch.Size], Tensor] = {}

    def of(self, batch: Sentences, draw: int) -> Noise:
        """The noise of a batch for the draw of that number."""

        def noise(shape: torch.Size) -> Tensor:
            if math.prod(shape[1:]) > LONG:
                rows = [self.alone(draw, int(i), shape[1:]) for i in batch.index.tolist()]
                return torch.stack(rows).to(batch.index.device)
            key = (draw, shape[1:])
            drawn = self.drawn.get(key)
            if drawn is None:
                generator = torch.Generator().manual_seed(self.seed * 1_000_003 + draw + 1)
                drawn = torch.randn((self.sentences, *shape[1:]), generator=generator)
                if sum(each.numel() for each in self.drawn.values()) >= MOST_KEPT:
                    return drawn[batch.index.cpu()].to(batch.index.device)
                # Where the sentences are, so that a GPU's are not waited for.
                self.drawn[key] = drawn = drawn.to(batch.index.device)
            return drawn[batch.index]

        return noise

    def alone(self, draw: int, sentence: int, event: torch.Size) -> Tensor:
        """The noise of one sentence, of the shape of its z, whatever the others are."""
        rng = np.random.default_rng([self.seed, draw % 2**32, sentence])
        return torch.from_numpy(rng.standard_normal(tuple(event), dtype=np.float32))

    def of_refinement(self, batch: Sentences) -> Noise:
        """The noise of a batch for a head that refines: at each call that of another draw, none of
        which is measured by."""
        number = count(-1, -1)
        return lambda shape: self.of(batch, next(number))(shape)
