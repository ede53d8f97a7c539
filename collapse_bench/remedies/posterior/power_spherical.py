"""Power spherical posterior (De Cao and Aziz 2020, "The power spherical distribution")."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from torch import nn

from collapse_bench.model import SequenceVAE
from collapse_bench.model.distributions.power_spherical import PowerSpherical as Posterior
from collapse_bench.model.spherical import SphericalHead, UniformPrior
from collapse_bench.remedy import Remedy
from collapse_bench.settings import Above


@dataclass(frozen=True)
class PowerSpherical(Remedy):
    """z is on the sphere, around a direction that the encoder tells; the prior is uniform on it.

        q(z|x) = C(k) (1 + mu(x)'z)^k,  |z| = |mu| = 1.

    Normaliser, entropy and rate are in closed form. At mu the log-density is half as curved as that
    of a von Mises-Fisher with the same k: see `vmf`. With a learned concentration it guarantees
    nothing; with one for all sentences the rate is a constant, which a constant mu has, too.

    The paper draws mu'z from a Beta; here the angle is the quantile of its distribution, which is
    the same distribution, and a function of noise whose gradients pass to k.

    Positive case (`suites/positive.yaml`): with a concentration of 10 NLL 8.00, R 1.65, beyond
    1.14. Learned it collapses to k = 1, R 0.07, beyond 0.00, as a learned `vmf`; so it does on the
    tasks of `signature` in all of five seeds.

    Attributes:
        concentration: k, one for all sentences; or `learned`, 1 + softplus of the features for each
            sentence, as in the code of Davidson et al. (2018), whose experiments the paper repeats.
    """

    # Of a learned concentration the rate is free, but what is marked does not hang on settings.
    by_construction: ClassVar[tuple[str, ...]] = ("kl", "active_units")
    signature: ClassVar[Mapping[str, str]] = {
        "nothing": "collapsed",
        "hard": "collapsed",
        "easy": "collapsed",
    }

    concentration: Annotated[float, Above(0)] | Literal["learned"] = "learned"

    def build(self, model: SequenceVAE) -> Mapping[str, nn.Module]:
        """Replace head and prior."""
        sizes = model.dimensions
        head = SphericalHead(sizes.hidden, sizes.latent, Posterior, self.concentration)
        return {"head": head, "prior": UniformPrior()}
