"""Pooling of the encoder's states (Long, Cao and Cheung 2020; Bosc and Vincent 2020)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from collapse_bench.errors import UserError
from collapse_bench.model import SequenceVAE
from collapse_bench.model.latent import LastState
from collapse_bench.remedy import Remedy


class MaxState(nn.Module):
    """Pool: the largest value of each of the H entries over the sentence."""

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """States [B, T, H] and mask [B, T] to features [B, H]."""
        return states.masked_fill(~mask[:, :, None], -torch.inf).amax(1)


class MeanState(nn.Module):
    """Pool: the mean state of the sentence."""

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """States [B, T, H] and mask [B, T] to features [B, H]."""
        return states.masked_fill(~mask[:, :, None], 0).sum(1) / mask.sum(1, keepdim=True)


class AttendedState(nn.Module):
    """Pool: the mean state with weights that a learned query gives (Yang et al. 2016, eq. 5-7)."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.key = nn.Linear(hidden, hidden)
        self.query = nn.Linear(hidden, 1, bias=False)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """States [B, T, H] and mask [B, T] to features [B, H]."""
        scores = self.query(self.key(states).tanh()).float()  # [B, T, 1]
        weights = scores.masked_fill(~mask[:, :, None], -torch.inf).softmax(1)
        features: Tensor = (weights * states.masked_fill(~mask[:, :, None], 0)).sum(1)
        return features


class JoinedPools(nn.Module):
    """Pool: what several pools give, joined and made H wide again."""

    def __init__(self, pools: list[nn.Module], hidden: int) -> None:
        super().__init__()
        self.pools = nn.ModuleList(pools)
        self.join = nn.Linear(len(pools) * hidden, hidden)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """States [B, T, H] and mask [B, T] to features [B, H]."""
        features: Tensor = self.join(torch.cat([pool(states, mask) for pool in self.pools], 1))
        return features


@dataclass(frozen=True)
class Pooling(Remedy):
    """The head sees the states of all tokens, and not the last one alone.

    The last states of different sentences point in nearly one direction, so that their posteriors
    differ little; pooled ones are more dispersed (Long et al. 2020). It guarantees nothing. Padding
    is left out: the public code of Bosc and Vincent has batches of one length and does not ask.

    Positive case (`suites/positive-distant.yaml`), where what there is to tell stands far from the
    end: NLL 33.18, R 0.65, beyond 0.53; with cosine features and an annealing 32.51, 1.69 and 1.16.
    The plain VAE, and with an annealing, ends collapsed there. Where it stands near the end
    (`suites/positive.yaml`) the last state does better.

    Attributes:
        pools: `max`, `mean`, `attention` or `last`, the state at the end; several are joined by a
            linear map. Long et al. use `max`, Bosc and Vincent `max`, `mean`, and both together;
            `last` alone is the plain VAE.
    """

    neutral: ClassVar[Mapping[str, Any] | None] = {"pools": ("last",)}
    signature: ClassVar[Mapping[str, str]] = {
        "nothing": "collapsed",
        "hard": "collapsed",
        "easy": "use",
    }

    pools: tuple[Literal["max", "mean", "attention", "last"], ...] = ("max",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.pools or len(set(self.pools)) < len(self.pools):
            raise UserError(
                f"pooling: pools must name at least one and none twice, got {list(self.pools)};"
                f" write [max], or [max, mean]"
            )

    def build(self, model: SequenceVAE) -> Mapping[str, nn.Module]:
        """Replace the pool."""
        if tuple(self.pools) == ("last",):
            return {}
        hidden = model.dimensions.hidden
        made = {"max": MaxState, "mean": MeanState, "last": LastState}
        pools = [AttendedState(hidden) if n == "attention" else made[n]() for n in self.pools]
        return {"pool": pools[0] if len(pools) == 1 else JoinedPools(pools, hidden)}
