"""VampPrior (Tomczak and Welling 2018, equation 9), of features in place of inputs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from collapse_bench.corpus import Batch
from collapse_bench.model import SequenceVAE
from collapse_bench.model.distributions import as_normal, draw, shape_of
from collapse_bench.model.distributions.mixture import NormalMixture
from collapse_bench.model.modes import eval_mode
from collapse_bench.remedy import Remedy
from collapse_bench.settings import AtLeast


class MixtureOfPosteriors(nn.Module):
    """Prior: what the model's head makes of learned features, in equal parts."""

    def __init__(self, head: nn.Module, components: int, hidden: int) -> None:
        super().__init__()
        self.head = head
        self.features = nn.Parameter(torch.empty(components, hidden))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the features from N(0, I)."""
        nn.init.normal_(self.features)

    def forward(self, q: Distribution, batch: Batch) -> Distribution:
        """A prior over z [B, D] for each of the B sentences."""
        # A head that learns from what it sees, or drops some of it, is for sentences.
        with eval_mode(self.head.modules()):
            parts = as_normal(self.head(self.features, self.energy))
        return NormalMixture(parts.mean, parts.stddev, len(batch.lengths))

    def energy(self, q: Distribution) -> Tensor:
        """Zero for each posterior, [C]: there is no sentence that a head could refine it by."""
        return 0 * draw(q, self.features.new_ones(shape_of(q))).flatten(1).sum(1)


@dataclass(frozen=True)
class VampPrior(Remedy):
    """p(z) = (1/C) sum_c q(z|u_c), a mixture of posteriors of learned pseudo-inputs u_c.

    The best prior is the aggregate posterior, and this one is of its form. It guarantees nothing.
    Pseudo-inputs are features, what the head sees of a sentence, as words have no gradient;
    Pelsmaeker and Aziz (2020) have sequences of embeddings, of lengths that are drawn once. They
    begin as draws of N(0, I). The head is the posterior's own with what earlier remedies have made
    of it: this one comes after those that change the head. The rate has no closed form: in training
    it is log q/p of the draw, K = 1, so that free bits floor the whole of it.

    Positive case (`suites/positive.yaml`): alone it ends collapsed at R 0.00; with an
    annealing NLL 7.99, R 0.75, beyond 0.70, where that alone has 0.51.

    Attributes:
        components: C, pseudo-inputs. The authors' code has 500 for images, Pelsmaeker and Aziz 100
            for text.
    """

    # Such a prior fixes no scale of z, which active units are counted by.
    by_construction: ClassVar[tuple[str, ...]] = ("active_units",)
    signature: ClassVar[Mapping[str, str]] = {"nothing": "collapsed", "hard": "collapsed"}

    components: Annotated[int, AtLeast(1)] = 500

    def build(self, model: SequenceVAE) -> Mapping[str, nn.Module]:
        """Replace the prior."""
        hidden = model.dimensions.hidden
        return {"prior": MixtureOfPosteriors(model.head, self.components, hidden)}
