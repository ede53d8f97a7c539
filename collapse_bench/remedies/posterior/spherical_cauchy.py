"""Spherical Cauchy posterior (Kato and McCullagh 2020; in a VAE, Sablica and Hornik 2025)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from torch import Tensor, nn
from torch.distributions import Distribution

from collapse_bench.model import SequenceVAE
from collapse_bench.model.distributions.spherical_cauchy import SphericalCauchy as Posterior
from collapse_bench.model.distributions.spherical_cauchy import from_curvature
from collapse_bench.model.spherical import SphericalHead, UniformPrior
from collapse_bench.remedy import Remedy
from collapse_bench.settings import Above


def of_curvature(direction: Tensor, concentration: float | Tensor) -> Distribution:
    """A posterior by a number r, or by the curvatures [B] of its log-density."""
    if isinstance(concentration, Tensor):
        concentration = from_curvature(concentration, direction.shape[-1])
    return Posterior(direction, concentration)


@dataclass(frozen=True)
class SphericalCauchy(Remedy):
    """z is on the sphere, around a direction that the encoder tells; the prior is uniform on it.

        q(z|x) ~ ((1 - r^2) / |z - r mu(x)|^2)^(D - 1),  |z| = |mu| = 1,  0 < r < 1.

    A draw is a uniform one that a Moebius map concentrates, the rate a polynomial of r^2, or for an
    odd D a series. Densities fall off as a power and not exponentially: no z is ruled out. With a
    learned concentration it guarantees nothing; with one for all sentences the rate is a constant,
    which a constant mu has, too.

    What map makes r of an encoder's output in Sablica and Hornik is not known here. Here it is the
    r whose log-density is as curved at mu as that of a von Mises-Fisher with
    k = 1 + softplus(features), 2 (D - 1) r / (1 - r)^2 = k, so that it begins as `vmf` does.

    Positive case (`suites/positive.yaml`): with a concentration of 0.4 NLL 8.02, R 2.03, beyond
    1.14. Learned it collapses, R 0.05, beyond 0.02, also with an annealing.

    Attributes:
        concentration: r, one for all sentences, below 1 by as much as float32 needs (0.917 at most
            for 32 dimensions); or `learned`, one for each. 0.3 is 5.4 nats for 32 dimensions.
    """

    # Of a learned concentration the rate is free, but what is marked does not hang on settings.
    by_construction: ClassVar[tuple[str, ...]] = ("kl", "active_units")
    signature: ClassVar[Mapping[str, str]] = {"nothing": "collapsed", "hard": "collapsed"}

    concentration: Annotated[float, Above(0)] | Literal["learned"] = "learned"

    def build(self, model: SequenceVAE) -> Mapping[str, nn.Module]:
        """Replace head and prior."""
        sizes = model.dimensions
        head = SphericalHead(sizes.hidden, sizes.latent, of_curvature, self.concentration)
        return {"head": head, "prior": UniformPrior()}
