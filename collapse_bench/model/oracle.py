"""Oracles: models that are told something of the sentence in advance, and what it is worth to them.

`told: length` is a language model that knows each sentence's length: what it gains is what a latent
of this could save a decoder. `told: labels` is a latent variable model whose z is the sentence's
labels: its rate is what they cost, and what it gains is what the remedies could have.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from collapse_bench.corpus import Batch, Corpus
from collapse_bench.model.distributions.codes import CodePrior, Codes, independent
from collapse_bench.model.latent import Energy
from collapse_bench.model.transformer import positions
from collapse_bench.model.vae import Dimensions

WIDTH = 16
"""Numbers that tell a length: sines and cosines, so that lengths that are near look alike."""


class ToldLength(nn.Module):
    """A decoder that sees each sentence's length, EOS counted, where others see z.

    Args:
        decoder: the class of an architecture's decoder.
        dimensions: of the language model.
    """

    def __init__(self, decoder: type[nn.Module], dimensions: Dimensions) -> None:
        super().__init__()
        self.decoder = decoder(replace(dimensions, latent=WIDTH))

    def forward(self, batch: Batch, z: Tensor) -> Tensor:
        """States [B, T, H]; of z [B, 0] only the dtype is looked at."""
        # No sentence is longer than the batch is wide, which a GPU need not be asked for.
        table = positions(batch.mask.shape[1] + 1, WIDTH, batch.lengths.device)
        states: Tensor = self.decoder(batch, table[batch.lengths].to(z.dtype))
        return states


@dataclass(frozen=True, eq=False)
class KnownLabels:
    """The labels of a corpus as a latent: which vectors z may be, and how often.

    Attributes:
        codebook: [K, D], for each combination of labels a one at the place of each value.
        shares: of the K in the training split, each taken as met half a time more often than it
            was, since what was never met could not be told at any price otherwise.
    """

    codebook: Tensor
    shares: Tensor


def known_labels(corpus: Corpus) -> KnownLabels:
    """The labels of a corpus of `with_kinds` as a latent."""
    assert corpus.train.kinds is not None
    places = sorted({pair for kind in corpus.kinds for pair in kind.items()})
    at = {pair: place for place, pair in enumerate(places)}
    codebook = torch.zeros(len(corpus.kinds), len(places))
    for row, kind in zip(codebook, corpus.kinds, strict=True):
        row[[at[pair] for pair in kind.items()]] = 1.0
    met = np.bincount(corpus.train.kinds, minlength=len(corpus.kinds)) + 0.5
    return KnownLabels(codebook, torch.from_numpy(met / met.sum()).float())


class ToldLabels(nn.Module):
    """Encoder that hands on which combination of labels a sentence has."""

    def forward(self, batch: Batch, causal: bool = False) -> Tensor:
        """States [B, T, 1], the number of the combination."""
        return batch.kinds[:, None, None].expand(-1, batch.mask.shape[1], 1).float()


class LabelHead(nn.Module):
    """Head: the posterior that is certain of a sentence's labels."""

    codebook: Tensor

    def __init__(self, known: KnownLabels) -> None:
        super().__init__()
        self.register_buffer("codebook", known.codebook)

    def forward(self, features: Tensor, energy: Energy) -> Distribution:
        """Features [B, 1] of `ToldLabels` to q(z|x)."""
        return Codes(features.long(), self.codebook)


class LabelPrior(nn.Module):
    """Prior: the shares of the combinations."""

    log_shares: Tensor
    codebook: Tensor

    def __init__(self, known: KnownLabels) -> None:
        super().__init__()
        self.register_buffer("log_shares", known.shares.log()[None])
        self.register_buffer("codebook", known.codebook)

    def forward(self, q: Distribution, batch: Batch) -> Distribution:
        """The same prior for each of the B sentences."""
        return CodePrior(independent(self.log_shares), self.codebook, len(batch.lengths))
