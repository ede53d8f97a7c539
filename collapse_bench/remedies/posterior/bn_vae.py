"""BN-VAE (Zhu, Bi, Liu, Ma, Li and Wu 2020, "A batch normalized inference network", section 4)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import nn

from collapse_bench.model import SequenceVAE
from collapse_bench.model.normalised import NormalisedHead
from collapse_bench.remedy import Remedy
from collapse_bench.settings import Above, AtLeast


@dataclass(frozen=True)
class BnVae(Remedy):
    """Posterior means are batch-normalised, with a fixed scale and a learnt shift.

    So to a standard normal prior the mean rate is sum_j (gamma^2 + shift_j^2) / 2 or more, about so
    over recent batches and exactly over a batch in the published form; variances are left alone.
    Under a prior that is learned there is no floor. Where it is, it says nothing of whether z is
    used: means of variance gamma^2 make every unit active and tell sentences apart whatever the
    decoder does.

    A batch is of one length. Normalised by itself, as published, it loses in training what its
    means tell of the length; in evaluation nothing takes it away. By default the statistics are
    those of recent batches, in training and in evaluation; see `RecentNorm`. In both forms 1e-12 is
    added to a variance and not 1e-5, which alone can leave collapsed means collapsed.

    Positive case (`suites/positive.yaml`): NLL 8.01, R 1.47, beyond 0.99.

    Attributes:
        gamma: standard deviation of a dimension's means. Zhu et al. (2020) have 0.6 and 0.7 in
            their tables; 0.6 is at least 5.8 nats for 32 dimensions.
        recent: batches that the averages reach back; 0 is the published form, which in evaluation
            has averages of batches (momentum 0.1).
    """

    by_construction: ClassVar[tuple[str, ...]] = (
        "kl",
        "active_units",
        "mutual_information",
        "mutual_information_upper",
        "information_given_length",
    )
    signature: ClassVar[Mapping[str, str]] = {"nothing": "use", "hard": "use", "easy": "use"}

    gamma: Annotated[float, Above(0)] = 0.6
    recent: Annotated[int, AtLeast(0)] = 10

    def build(self, model: SequenceVAE) -> Mapping[str, nn.Module]:
        """Wrap the head."""
        latent = model.dimensions.latent
        return {"head": NormalisedHead(model.head, latent, self.gamma, self.recent)}
