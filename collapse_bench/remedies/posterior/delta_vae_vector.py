"""delta-VAE of a single vector (Razavi, van den Oord, Poole and Vinyals 2019, equation 4).

As in the code of Zhu et al. (2020), the form that tables of text VAEs call delta-VAE.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from scipy.special import lambertw
from torch import Tensor, nn
from torch.distributions import Distribution

from collapse_bench.errors import UserError
from collapse_bench.model import Energy, SequenceVAE, diagonal_normal
from collapse_bench.model.distributions import as_normal
from collapse_bench.remedy import Remedy
from collapse_bench.settings import Above

EPSILON = 1e-6
"""Added to the square of a mean, since a root has no derivative at 0."""

MOST = 40.0
"""Nats a dimension, beyond which the smallest deviation is next to nothing in float32."""


def variances_at(delta: float) -> tuple[float, float]:
    """The two variances whose normal of mean 0 is `delta` nats from N(0, 1)."""

    at = -math.exp(-1 - 2 * delta)  # v - log v = 1 + 2 delta
    return float(-lambertw(at, 0).real), float(-lambertw(at, -1).real)


class CommittedHead(nn.Module):
    """A head around another one, no dimension of whose posterior is nearer to N(0, 1) than delta.

    Args:
        head: to a diagonal normal, whose means and log-variances are taken for raw numbers.
        delta: nats a dimension.
    """

    def __init__(self, head: nn.Module, delta: float) -> None:
        super().__init__()
        self.head = head
        self.delta = delta
        self.least, self.most = map(math.sqrt, variances_at(delta))

    def forward(self, features: Tensor, energy: Energy) -> Distribution:
        """Features [B, H] or [B, n, H] to q(z|x)."""
        raw = as_normal(self.head(features, energy))
        stddev = self.least + (self.most - self.least) * (2 * raw.stddev.log()).sigmoid()
        # At either end it is 0, and rounding may be below.
        needed = (2 * self.delta + 1 + 2 * stddev.log() - stddev.square()).clamp(min=0)
        return diagonal_normal((needed + raw.mean.clamp(min=0) + EPSILON).sqrt(), stddev)


@dataclass(frozen=True)
class DeltaVaeVector(Remedy):
    """Each dimension's rate is at least its share of delta, whatever the encoder says.

    Of raw outputs u and v, and s_l < s_u the deviations at which a mean of 0 is delta nats away,

        s = s_l + (s_u - s_l) sigmoid(v),   mean = sqrt(2 delta + 1 + log s^2 - s^2 + max(0, u)),

    so that the rate is delta + max(0, u) / 2, to a standard normal prior: a learned one can take
    the floor away. It says nothing of whether z is used: a constant posterior meets it. Means have
    lost their sign: none is negative, so the aggregate posterior cannot be the prior. In the code
    of Zhu et al. the sigmoid ends at 1/50. It is not `delta_vae`, whose prior is autoregressive and
    whose means are free.

    Positive case (`suites/positive.yaml`): NLL 8.04, R 1.50, beyond 0.39.

    Attributes:
        delta: the committed rate, nats a sentence. The default is 0.15 for each of 32 dimensions,
            that of Zhu et al.
    """

    by_construction: ClassVar[tuple[str, ...]] = ("kl", "marginal_kl", "moment_kl", "dimension_kl")
    signature: ClassVar[Mapping[str, str]] = {"nothing": "rate without use"}

    delta: Annotated[float, Above(0)] = 4.8

    def build(self, model: SequenceVAE) -> Mapping[str, nn.Module]:
        """Wrap the head."""
        latent = model.dimensions.latent
        if self.delta > MOST * latent:
            raise UserError(
                f"delta_vae_vector: delta must be {MOST * latent:g} at most for {latent} latent"
                f" dimensions, got {self.delta}; lower it, or raise latent"
            )
        return {"head": CommittedHead(model.head, self.delta / latent)}
