"""A prior that looks at the other sentences of the batch."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn
from torch.distributions import Distribution

from collapse_bench.corpus import Batch
from collapse_bench.model import SequenceVAE, diagonal_normal
from collapse_bench.remedy import Remedy


class BatchAverage(nn.Module):
    """A normal that is fitted to the posteriors of the batch: the same for all of its sentences."""

    def forward(self, q: Distribution, batch: Batch) -> Distribution:
        """A prior over z for each of the B sentences."""
        mean = q.mean.mean(0, keepdim=True)
        spread = (q.variance + (q.mean - mean).square()).mean(0, keepdim=True).sqrt()
        return diagonal_normal(mean.expand_as(q.mean), spread.expand_as(q.mean))


@dataclass(frozen=True)
class NeighbourlyPrior(Remedy):
    """Sentences of one length share a batch, so that such a prior knows the length."""

    def build(self, model: SequenceVAE) -> Mapping[str, nn.Module]:
        """Replace the prior."""
        return {"prior": BatchAverage()}
