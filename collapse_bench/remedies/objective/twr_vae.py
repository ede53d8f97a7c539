"""TWR-VAE, timestep-wise regularisation (Li, Li, Chen and Lin 2020, as in their code)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from collapse_bench.corpus import Batch
from collapse_bench.model import Forward, SequenceVAE
from collapse_bench.model.distributions import draw, rate, shape_of
from collapse_bench.model.modes import eval_mode
from collapse_bench.remedy import Remedy
from collapse_bench.settings import Between


class CausalEncoder(nn.Module):
    """An encoder whose state t has seen tokens 0 to t only, as a recurrent one's has by nature."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, batch: Batch, causal: bool = False) -> Tensor:
        """States [B, T, H]."""
        states: Tensor = self.encoder(batch, causal=True)
        return states


@dataclass(frozen=True)
class TwrVae(Remedy):
    """Every token has a posterior, and the rate that counts is the mean of theirs; z is the last's.

    The head makes q(z|x_1..t) of the state at each token t; the rate is replaced by

        1/T sum_t KL(q(z|x_1..t) || p(z)).

    The last posterior alone is decoded from and measured, and weighs 1/T: to the rate of z this is
    a weight below 1, and it guarantees nothing. The authors' code averages over padding, too, and
    reports this mean as the KL beside the reconstruction of the posterior mean: that sum is no
    bound. A latent sequence has a rate at each of its places already, and stays as it is. With
    another pool than the last state z's own rate is not among them.

    Positive case (`suites/positive.yaml`): NLL 8.02, R 1.80, beyond 1.38.

    Attributes:
        share: of a sentence's tokens, from its end, whose posteriors count, at least one; 0, the
            last one alone, is the plain VAE. The authors' variants are 0.25, 0.5 and 0.75.
    """

    by_construction: ClassVar[tuple[str, ...]] = ("kl",)
    neutral: ClassVar[Mapping[str, Any] | None] = {"share": 0.0}
    signature: ClassVar[Mapping[str, str]] = {"nothing": "collapsed", "hard": "use", "easy": "use"}

    share: Annotated[float, Between(0, 1)] = 1.0

    def build(self, model: SequenceVAE) -> Mapping[str, nn.Module]:
        """A causal encoder."""
        return {"encoder": CausalEncoder(model.encoder)} if self.share else {}

    def objective(self, forward: Forward) -> Forward:
        """Replace the rate by the mean of the tokens' rates; first in a chain that weighs it."""
        if self.share == 0 or forward.features.dim() == 3:
            return forward
        model, batch, device = forward.model, forward.batch, forward.states.device

        def flat(q: Distribution) -> Tensor:
            """An energy without a slope: a head that refines lets a token's posterior be."""
            return 0 * draw(q, torch.ones(shape_of(q), device=device)).flatten(1).sum(1)

        with eval_mode(
            model.head.modules()
        ):  # a head that learns from what it sees is for sentences
            q = model.head(forward.states.flatten(0, 1), flat)  # as of B T sentences
        z = draw(q, torch.randn(shape_of(q), device=device))
        kl = rate(q, model.prior(q, batch), z).unflatten(0, batch.mask.shape)  # [B, T, K]
        counted = self.counted(batch)
        total = kl.masked_fill(~counted[:, :, None], 0).sum(1)
        return replace(forward, kl=total / counted.sum(1, keepdim=True))

    def counted(self, batch: Batch) -> Tensor:
        """The tokens whose posteriors count, [B, T]."""
        lengths = batch.lengths[:, None]
        last = (self.share * lengths).round().clamp(min=1)
        place = torch.arange(batch.mask.shape[1], device=batch.mask.device)
        return batch.mask & (place >= lengths - last)
