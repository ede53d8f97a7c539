"""A single code a sentence (van den Oord, Vinyals and Kavukcuoglu 2017, section 3.1)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from collapse_bench.corpus import Batch
from collapse_bench.model import Energy, Forward, SequenceVAE
from collapse_bench.model.distributions.codes import CodePrior, Codes, independent
from collapse_bench.remedy import Remedy
from collapse_bench.settings import AtLeast


class CodeHead(nn.Module):
    """The nearest vector of a codebook, with a straight-through gradient."""

    def __init__(self, hidden: int, latent: int, codes: int) -> None:
        super().__init__()
        self.place = nn.Linear(hidden, latent)
        self.codebook = nn.Parameter(torch.randn(codes, latent))

    def forward(self, features: Tensor, energy: Energy) -> Distribution:
        """Features [B, H] to q(z|x)."""
        place = self.place(features)
        apart = (place[:, None] - self.codebook).square().sum(-1)
        codes = apart.argmin(1)
        return Codes(codes[:, None], self.codebook, self.codebook[codes] + (place - place.detach()))


class CodeChances(nn.Module):
    """A prior over the codes of a head, which it shares the codebook with."""

    def __init__(self, codebook: nn.Parameter) -> None:
        super().__init__()
        self.codebook = codebook
        self.logits = nn.Parameter(torch.zeros(1, len(codebook)))

    def forward(self, q: Distribution, batch: Batch) -> Distribution:
        """A prior over z for each of the B sentences."""
        return CodePrior(independent(self.logits), self.codebook, len(batch.lengths))


@dataclass(frozen=True)
class OneCode(Remedy):
    """z is one of a few vectors.

    Attributes:
        codes: how many there are.
    """

    codes: Annotated[int, AtLeast(2)] = 6

    def build(self, model: SequenceVAE) -> Mapping[str, nn.Module]:
        """Another head and prior."""
        head = CodeHead(model.dimensions.hidden, model.dimensions.latent, self.codes)
        return {"head": head, "prior": CodeChances(head.codebook)}

    def objective(self, forward: Forward) -> Forward:
        """Draw vectors and places together."""
        q: Codes = forward.q  # type: ignore[assignment]
        vectors = q.codebook.vectors_of(q.codes)
        together = (forward.z - vectors.detach()).square().sum(1)
        return replace(forward, extra={**forward.extra, "commitment": together})
