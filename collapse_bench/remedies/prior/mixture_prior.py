"""A mixture of normals as the prior (Pelsmaeker and Aziz 2020)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import nn
from torch.distributions import Distribution
from torch.nn import functional as F

from collapse_bench.corpus import Batch
from collapse_bench.model import SequenceVAE
from collapse_bench.model.distributions import shape_of
from collapse_bench.model.distributions.mixture import NormalMixture
from collapse_bench.remedy import Remedy
from collapse_bench.settings import AtLeast


class LearnedParts(nn.Module):
    """Prior: diagonal normals in equal parts, with learned means and variances softplus(v)."""

    def __init__(self, components: int, latent: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.empty(components, latent))
        self.raw_variance = nn.Parameter(torch.empty(components, latent))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw means and variances (Xavier), which begin near 0 and ln 2."""
        nn.init.xavier_normal_(self.mean)
        nn.init.xavier_normal_(self.raw_variance)

    def forward(self, q: Distribution, batch: Batch) -> Distribution:
        """A prior over z, [B, D] or [B, n, d], for each of the B sentences."""
        shape = (len(self.mean), *shape_of(q)[1:])
        scale = F.softplus(self.raw_variance).sqrt()
        return NormalMixture(self.mean.view(shape), scale.view(shape), len(batch.lengths))


@dataclass(frozen=True)
class MixturePrior(Remedy):
    """p(z) = (1/C) sum_c N(m_c, diag softplus(v_c)), learned with the model.

    Where posteriors lie together may then be expected of z, and costs no rate. It guarantees
    nothing: a collapsed model has its best prior, too. The parts have equal and fixed weights, and
    their means and variances begin as Xavier's rule draws them, as in the authors' code. The rate
    has no closed form: in training it is log q/p of the draw, K = 1, so that free bits floor the
    whole of it.

    Positive case (`suites/positive.yaml`): alone it ends collapsed at R 0.00; with an
    annealing NLL 7.99, R 0.58, beyond 0.54, where that alone has 0.51: of one seed.

    Attributes:
        components: C, parts of the mixture. The authors' code has 100.
    """

    # Such a prior fixes no scale of z, which active units are counted by.
    by_construction: ClassVar[tuple[str, ...]] = ("active_units",)
    signature: ClassVar[Mapping[str, str]] = {"nothing": "collapsed", "hard": "collapsed"}

    components: Annotated[int, AtLeast(1)] = 100

    def build(self, model: SequenceVAE) -> Mapping[str, nn.Module]:
        """Replace the prior."""
        return {"prior": LearnedParts(self.components, model.dimensions.latent)}
