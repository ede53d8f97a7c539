"""A posterior whose density is that of a normal twice as wide as its draws."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from collapse_bench.model import Energy, SequenceVAE
from collapse_bench.remedy import Remedy


class Wide(Normal):
    """A normal that tells the density of another one."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Nats, of twice the scale."""
        nats: Tensor = Normal(self.mean, 2 * self.stddev).log_prob(value)
        return nats


class WideHead(nn.Module):
    """The normal of the wrapped head as a `Wide` one."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, features: Tensor, energy: Energy) -> Distribution:
        """Features to q(z|x)."""
        q: Distribution = self.head(features, energy)
        return Independent(Wide(q.mean, q.stddev, validate_args=False), q.mean.dim() - 1, False)


@dataclass(frozen=True)
class WideDensity(Remedy):
    """Importance weights p/q are too large: its NLL is too low by ln 2 a dimension and more."""

    def build(self, model: SequenceVAE) -> Mapping[str, nn.Module]:
        """Wrap the head."""
        return {"head": WideHead(model.head)}
