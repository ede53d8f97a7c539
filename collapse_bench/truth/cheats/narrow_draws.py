"""A posterior of an own family whose draws are half as wide as its density says."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.distributions import Distribution

from collapse_bench.model import Energy, SequenceVAE
from collapse_bench.remedy import Remedy


class Narrow(Distribution):
    """The density of a normal, and draws of a narrower one."""

    family: ClassVar[str] = "flow"

    def __init__(self, q: Distribution) -> None:
        super().__init__(q.batch_shape, q.event_shape, validate_args=False)
        self.q = q

    def from_noise(self, noise: Tensor) -> Tensor:
        """z of noise's shape."""
        return self.q.mean + 0.5 * self.q.stddev * noise.to(self.q.mean)

    def log_prob(self, value: Tensor) -> Tensor:
        """Nats of the wider normal."""
        nats: Tensor = self.q.log_prob(value)
        return nats


class NarrowHead(nn.Module):
    """The normal of the wrapped head with `Narrow` draws."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, features: Tensor, energy: Energy) -> Distribution:
        """Features to q(z|x)."""
        return Narrow(self.head(features, energy))


@dataclass(frozen=True)
class NarrowDraws(Remedy):
    """Importance weights p/q are too large wherever draws fall."""

    def build(self, model: SequenceVAE) -> Mapping[str, nn.Module]:
        """Wrap the head."""
        return {"head": NarrowHead(model.head)}
