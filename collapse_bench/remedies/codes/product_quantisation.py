"""Product quantisation of z (Jégou et al. 2011); with shared atoms DB-VAE (Zhao et al. 2020).

Of DB-VAE, "Discretized bottleneck in VAE", only the abstract is known here: each input learns to
choose a combination of shared latent atoms.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from torch import nn

from collapse_bench.model import Forward, SequenceVAE
from collapse_bench.model.code_priors import code_prior
from collapse_bench.model.codes import (
    AveragedCodebook,
    CodesHead,
    check_codes,
    parts_of_latent,
    shown_whole,
    with_commitment,
)
from collapse_bench.remedy import Remedy
from collapse_bench.settings import AtLeast, Between


@dataclass(frozen=True)
class ProductQuantisation(Remedy):
    """z is cut into `places` parts, and each is the nearest of `codes` vectors.

    K^n vectors by n K of them: VQ-VAE whose codes are read side by side off the sentence's features
    and not along it, and all shown to the decoder from the beginning. `shared` takes the vectors of
    all parts from one codebook, as DB-VAE has its atoms; that it is trained like VQ-VAE, by moving
    averages and a commitment, is this project's. What is said of `vq_vae` holds: the rate is what
    the prior asks for the codes, it gives the encoder no gradient, and codes that are hardly used
    begin anew, so that they differ between sentences whatever the decoder does. No setting is the
    plain VAE.

    Positive case (`suites/positive.yaml`): NLL 8.04, R 1.41, beyond 1.39; with shared vectors 7.97,
    1.39 and 1.37.

    Attributes:
        codes: K, vectors of each codebook. It and `places` are this project's.
        places: n, parts of z, of `latent / places` dimensions each.
        shared: whether all parts have one codebook.
        commitment, decay, restart, prior: as for `vq_vae`.
    """

    by_construction: ClassVar[tuple[str, ...]] = (
        "kl",
        "active_units",
        "mutual_information",
        "mutual_information_upper",
        "information_given_length",
        "information_given_length_upper",
    )

    small: ClassVar[Mapping[str, Any]] = {"codes": 4, "places": 2}
    signature: ClassVar[Mapping[str, str]] = {
        "nothing": "rate without use",
        "hard": "use",
        "easy": "use",
    }

    codes: Annotated[int, AtLeast(2)] = 64
    places: Annotated[int, AtLeast(1)] = 4
    shared: bool = False
    commitment: Annotated[float, AtLeast(0)] = 0.25
    decay: Annotated[float, Between(0, 1)] = 0.99
    restart: Annotated[float, Between(0, 1)] = 0.1
    prior: Literal["uniform", "independent", "autoregressive", "self_attention"] = "autoregressive"

    def build(self, model: SequenceVAE) -> Mapping[str, nn.Module]:
        """Another head and prior, and a wrapper around the decoder."""
        sizes = model.dimensions
        check_codes("product_quantisation", self.codes, sizes)
        width = parts_of_latent("product_quantisation", "places", self.places, sizes)
        books = 1 if self.shared else self.places
        codebooks = AveragedCodebook(books, self.codes, width, self.decay, self.restart)
        head = CodesHead(sizes.hidden, self.places, width, codebooks)
        prior = code_prior(self.prior, self.places, self.codes)
        return shown_whole(model, head, prior)

    def objective(self, forward: Forward) -> Forward:
        """Add the commitment."""
        return with_commitment(forward, self.commitment)
