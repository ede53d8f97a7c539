"""DG-VAE (Zhang, Bai, Lin, Wang and Rong 2022, "Density gap-based regularization", eq. 11)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from collapse_bench.model import Forward, SequenceVAE
from collapse_bench.model.distributions import as_normal
from collapse_bench.model.recent import Densities, Recent, recent_of
from collapse_bench.remedy import Remedy
from collapse_bench.settings import AtLeast, Between


@dataclass(frozen=True)
class DgVae(Remedy):
    """The density gap between aggregate posterior and prior, dimension by dimension, is the rate.

        sum_j KL(q(z_j) || p(z_j)),  the mean of log prod_j q(z_j) / p(z) at draws of q(z),

    is all that is left of the rate, as in the authors' code: neither information nor what
    dimensions have in common costs anything. The objective is no bound. Nothing is guaranteed: an
    encoder may tell what it likes to a decoder that does not listen. The authors anneal the gap's
    weight over ten epochs: `[dg_vae, kl_annealing]`.

    `elbo_terms` with weights 0, 0 and 1 estimates the same otherwise. A batch is of one length, so
    that q(z_j) is that of the length; recent posteriors are of many, but the encoder runs after its
    own past: on newswire the rate went to 8.5 nats at an information of 0.02.

    Positive case (`suites/positive.yaml`): NLL 8.18, R 4.22, beyond 1.34; among 2,048 recent
    posteriors 8.12, 3.89 and 1.37, among 512 collapsed.

    Attributes:
        share: of the rate that is replaced; 0 is the plain VAE.
        draws: of each posterior. The authors take 32, from a mixture of 32, whose densities they
            need anyway; among recent posteriors 32 would cost 32 times as much.
        recent: posteriors that are remembered, such as 2,048; with 0 q(z) is the batch's mixture,
            as published. `Recent` says what a memory misses of the length.
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
    neutral: ClassVar[Mapping[str, Any] | None] = {"share": 0.0}
    small: ClassVar[Mapping[str, Any]] = {"recent": 512}
    signature: ClassVar[Mapping[str, str]] = {"hard": "use", "easy": "use"}

    share: Annotated[float, Between(0, 1)] = 1.0
    draws: Annotated[int, AtLeast(1)] = 1
    recent: Annotated[int, AtLeast(0)] = 0

    def build(self, model: SequenceVAE) -> Mapping[str, nn.Module]:
        """The memory, which no slot calls."""
        sizes = model.dimensions
        recent = {"dg_vae": Recent(self.recent, sizes.sentences, sizes.latent)}
        return recent if self.recent else {}

    def objective(self, forward: Forward) -> Forward:
        """Put the gap in the place of the rate."""
        if self.share == 0:
            return forward
        gap = self.share * self.gap(forward)[:, None]  # one more entry of the rate
        return replace(forward, kl=torch.cat([(1 - self.share) * forward.kl, gap], 1))

    def gap(self, forward: Forward) -> Tensor:
        """log prod_j q(z_j) / p(z) at draws of each posterior, [B]."""
        q = as_normal(forward.q)
        z = q.mean + q.stddev * torch.randn(self.draws, *q.mean.shape, device=q.mean.device)
        if self.recent:
            densities = Densities.of_recent(forward, z, recent_of(forward, "dg_vae"))
        else:
            densities = Densities.of_batch(forward, z, len(forward.batch.lengths))
        return (densities.log_marginals().sum(-1) - forward.p.log_prob(z)).mean(0)
