"""The ELBO's terms, weighed one by one (Esmaeili et al. 2019, table 1; Chen et al. 2018, eq. 2)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import nn

from collapse_bench.errors import UserError
from collapse_bench.model import Forward, SequenceVAE
from collapse_bench.model.discrepancy import discrepancy
from collapse_bench.model.distributions import draw, shape_of
from collapse_bench.model.recent import Densities, Recent, recent_of
from collapse_bench.remedy import Remedy
from collapse_bench.settings import AtLeast


@dataclass(frozen=True)
class ElboTerms(Remedy):
    """What the rate is made of, each part with a weight of its own. Beside the distortion stands

        a I(x; z) + b KL(q(z) || prod_j q(z_j)) + c sum_j KL(q(z_j) || p(z_j)) - anchored I(x; z_A)

    with the information, the total correlation and the dimension-wise KL of the aggregate posterior
    q(z); a, b and c are the settings of these names, and all 1 are the rate. With S = sum_j I(x;
    z_j) that is c R + (a - b) I + (b - c) S: no density has to be known where weights are equal.
    It stands in the place of the rate: an annealing that comes later in the chain weighs all of it.
    Under a prior whose dimensions depend on each other the third holds that dependence.

    | objective | a | b | c | |
    |---|---|---|---|---|
    | Kingma and Welling 2014 | 1 | 1 | 1 | |
    | beta-VAE, Higgins 2017 | beta | beta | beta | |
    | DIP-VAE, Kumar 2018 | 1 | 1 + lambda | 1 + lambda | theirs is of moments, this of KL |
    | InfoVAE, Zhao 2019 | 1 - alpha | lambda | lambda | any `divergence` |
    | WAE, Tolstikhin 2018 | 0 | lambda | lambda | `imq` |
    | anchored, Gao 2019 | 1 | 1 | 1 | `anchored` = lambda, `anchors` = size of A |
    | Achille and Soatto 2018 | beta | gamma | 0 | the prior is taken to be prod_j q(z_j) |
    | FactorVAE, Kim and Mnih 2018 | 1 | 1 + gamma | 1 | theirs has a critic |
    | beta-TCVAE, Chen 2018 | alpha | beta | gamma | |
    | HFVAE, Esmaeili 2019 | alpha | beta | 1 | groups of one dimension |
    | DG-VAE, Zhang 2022 | 0 | 0 | 1 | |

    The capacity |R - C| of Burgess (2018) is no weight. Nothing is guaranteed, and the objective is
    no bound where a weight is below 1 or something is anchored. Information that costs nothing,
    or is asked for, may be what no decoder listens to. A batch is of one length, so q(z) is that of
    recent posteriors; `Densities` says which estimate it is, and `Recent` what it misses of what z
    tells of the length, which so still costs something at a = 0.

    Positive case (`suites/positive.yaml`): NLL 8.09, R 1.69, beyond 1.32.

    Attributes:
        information: a. The default is InfoVAE at its plainest: information costs nothing.
        total_correlation: b.
        dimension_kl: c.
        anchored: weight of the information of A, which is asked for.
        anchors: dimensions of A, the first of z.
        divergence: `kl`, or a kernel; b and c are then equal, and (b - a) KL(q(z) || p(z)) becomes
            (b - a) MMD^2. That is below 2, and no nats: weights of 10 to 1000 are usual.
        recent: posteriors that are remembered; with 0 it is the others of the batch, as HFVAE has
            it. The default of Chen et al. gives the own posterior the share of the others.
    """

    by_construction: ClassVar[tuple[str, ...]] = (
        "kl",
        "active_units",
        "mutual_information",
        "mutual_information_upper",
        "information_given_length",
        "total_correlation",
        "marginal_kl",
        "moment_kl",
        "dimension_kl",
    )
    neutral: ClassVar[Mapping[str, Any] | None] = {"information": 1.0}
    small: ClassVar[Mapping[str, Any]] = {"recent": 512}
    signature: ClassVar[Mapping[str, str]] = {"nothing": "collapsed", "hard": "use", "easy": "use"}

    information: Annotated[float, AtLeast(0)] = 0.0
    total_correlation: Annotated[float, AtLeast(0)] = 1.0
    dimension_kl: Annotated[float, AtLeast(0)] = 1.0
    anchored: Annotated[float, AtLeast(0)] = 0.0
    anchors: Annotated[int, AtLeast(1)] = 1
    divergence: Literal["kl", "rbf", "imq"] = "kl"
    recent: Annotated[int, AtLeast(0)] = 2048

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.divergence != "kl" and self.total_correlation != self.dimension_kl:
            raise UserError(
                f"elbo_terms: {self.divergence} has one weight for all of q(z): total_correlation"
                f" and dimension_kl must be equal, got {self.total_correlation} and"
                f" {self.dimension_kl}; set both, or divergence to kl"
            )

    def build(self, model: SequenceVAE) -> Mapping[str, nn.Module]:
        """The memory, which no slot calls."""
        sizes = model.dimensions
        if self.anchored and self.anchors > sizes.latent:
            raise UserError(
                f"elbo_terms: anchors must be at most the latent size, got anchors = {self.anchors}"
                f" and latent = {sizes.latent}; change one of them"
            )
        recent = {"elbo_terms": Recent(self.recent, sizes.sentences, sizes.latent)}
        return recent if self.recent else {}

    def objective(self, forward: Forward) -> Forward:
        """Weigh the rate, and add what the weights of its parts differ by."""
        a, b, c = self.information, self.total_correlation, self.dimension_kl
        if a == b == c and not self.anchored:
            return forward if c == 1 else replace(forward, kl=c * forward.kl)
        densities, further = self.densities(forward), torch.zeros_like(forward.distortion)
        if self.divergence != "kl":
            p = draw(forward.p, torch.randn(shape_of(forward.p), device=further.device))
            further = further + (b - a) * discrepancy(densities, p.flatten(1), self.divergence)
            b = c = a  # what is left is a R
        if a != b:
            further = further + (a - b) * densities.information()
        if b != c:
            further = further + (b - c) * densities.information_by_dimension().sum(1)
        if self.anchored:
            further = further - self.anchored * densities.information(self.anchors)
        return replace(forward, kl=torch.cat([c * forward.kl, further[:, None]], 1))

    def densities(self, forward: Forward) -> Densities:
        """Of the draws that were decoded, under q(z|x) and q(z)."""
        if self.recent:
            return Densities.of_recent(forward, forward.z, recent_of(forward, "elbo_terms"))
        return Densities.of_batch(forward, forward.z, forward.model.dimensions.sentences)
