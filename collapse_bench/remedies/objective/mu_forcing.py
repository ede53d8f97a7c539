"""mu-forcing (Liu, Yang, He, Chen and Lv 2020, "Training variational recurrent autoencoders")."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

from torch import nn

from collapse_bench.model import Forward, SequenceVAE
from collapse_bench.model.distributions import as_normal
from collapse_bench.model.recent import Recent, recent_of
from collapse_bench.remedy import Remedy
from collapse_bench.settings import AtLeast


@dataclass(frozen=True)
class MuForcing(Remedy):
    """A hinge: posterior means that scatter less than a margin are pulled apart.

        weight * max(0, margin - mean_n |mu_n - mean mu|^2 / 2)

    With a weight of 1 that is what the rate has against the same scatter: below the margin it is
    free, as in free bits, and only the decoder's need makes it grow. Above 1 it is driven to the
    margin, whether the decoder listens or not. Nothing is guaranteed of a single sentence.

    A batch is of one length, so the scatter, and what it is around, is that of recent posteriors.
    A copy of this method that leaves the mean out is satisfied by one shift of all posteriors.

    Attributes:
        margin: nats a sentence; 0 is the plain VAE. The authors' code has a variance of 1.5 to 3
            for each of 16 dimensions, 12 to 24 nats.
        weight: of the hinge. The code has 2/D beside a rate that is weighed by 0.1, and tokens'
            mean in place of their sum: 1.25 of the rate's weight.
        recent: posteriors that are remembered; with 0 it is the scatter of the batch, as published.
    """

    by_construction: ClassVar[tuple[str, ...]] = ("kl", "active_units", "mutual_information")
    neutral: ClassVar[Mapping[str, Any] | None] = {"margin": 0.0}

    margin: Annotated[float, AtLeast(0)] = 12.0
    weight: Annotated[float, AtLeast(0)] = 1.0
    recent: Annotated[int, AtLeast(0)] = 1024

    def build(self, model: SequenceVAE) -> Mapping[str, nn.Module]:
        """The memory, which no slot calls."""
        sizes = model.dimensions
        recent = {"mu_forcing": Recent(self.recent, sizes.sentences, sizes.latent)}
        return recent if self.recent else {}

    def objective(self, forward: Forward) -> Forward:
        """Add the hinge, a sentence's share of it each."""
        if self.margin == 0:
            return forward
        means = as_normal(forward.q).mean.flatten(1)
        if self.recent:
            centre, variance = recent_of(forward, "mu_forcing").moments()
        else:
            centre, variance = means.mean(0), means.detach().var(0, correction=0)
        missing = self.margin - (means - centre).square().sum(1) / 2
        below = (variance.sum() / 2 < self.margin).to(missing)
        return replace(
            forward, extra={**forward.extra, "mu_forcing": self.weight * below * missing}
        )
