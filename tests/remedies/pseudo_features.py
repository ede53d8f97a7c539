"""A prior that is a mixture of posteriors (Tomczak and Welling 2018, eq. 9), of features."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Normal

from collapse_bench.corpus import Batch
from collapse_bench.model import SequenceVAE
from collapse_bench.model.distributions import as_normal
from collapse_bench.remedy import Remedy
from collapse_bench.settings import AtLeast


class Mixture(Distribution):
    """Diagonal normals with means and scales [K, D], in equal parts, for each of B sentences."""

    family = "other"

    def __init__(self, parts: Normal, sentences: int) -> None:
        super().__init__(torch.Size([sentences]), parts.mean.shape[1:], validate_args=False)
        self.parts = parts

    def from_noise(self, noise: Tensor) -> Tensor:
        """The first coordinate tells the part, and what is left of it is noise again."""
        count = len(self.parts.mean)
        scaled = torch.special.ndtr(noise[..., 0].double()) * count
        part = scaled.long().clamp(max=count - 1)
        left = torch.special.ndtri((scaled - part).clamp(1e-9, 1 - 1e-9)).to(noise)
        noise = torch.cat([left[..., None], noise[..., 1:]], -1)
        return self.parts.mean[part] + self.parts.stddev[part] * noise

    def log_prob(self, z: Tensor) -> Tensor:
        """z [..., D] against [B] to [..., B], nats."""
        nats = self.parts.log_prob(z[..., None, :]).sum(-1)
        nats = nats.logsumexp(-1) - torch.tensor(float(len(self.parts.mean))).log()
        return nats.expand(torch.broadcast_shapes(nats.shape, self.batch_shape))


class PseudoPrior(nn.Module):
    """The head's posteriors of learnt features."""

    def __init__(self, head: nn.Module, hidden: int, count: int) -> None:
        super().__init__()
        self.head = head
        self.features = nn.Parameter(torch.randn(count, hidden))

    def forward(self, q: Distribution, batch: Batch) -> Distribution:
        """A prior over z for each of the B sentences."""
        parts = self.head(self.features, lambda q: self.features.new_zeros(len(self.features)))
        return Mixture(as_normal(parts), len(batch.lengths))


@dataclass(frozen=True)
class PseudoFeatures(Remedy):
    """The prior holds the head: its weights are in two slots.

    Attributes:
        count: pseudo-sentences.
    """

    count: Annotated[int, AtLeast(1)] = 6

    def build(self, model: SequenceVAE) -> Mapping[str, nn.Module]:
        """Replace the prior."""
        return {"prior": PseudoPrior(model.head, model.dimensions.hidden, self.count)}
