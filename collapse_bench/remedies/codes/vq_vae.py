"""VQ-VAE (van den Oord, Vinyals and Kavukcuoglu 2017, section 3 and appendix A.1)."""

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
    with_commitment,
)
from collapse_bench.model.sequence import along_the_sentence
from collapse_bench.remedy import Remedy
from collapse_bench.settings import AtLeast, Between


@dataclass(frozen=True)
class VqVae(Remedy):
    """The latent is `length` codes along the sentence, each the nearest of `codes` vectors.

    The posterior is certain of its codes, so the rate is what the prior asks for them, -log p(k),
    at most about `length` ln `codes`, and distortion + rate is a bound like any other. A code that
    tells nothing costs nothing once a prior has learned it, but nothing pulls the encoder there:
    gradients pass the codes straight through to it, and those of the rate stop at them. So it
    guarantees no information, and says little by its rate; whether the decoder listens is another
    question. The vectors are moving averages of what is given their code; the commitment holds the
    encoder near them, and is a mean over places, as the paper has it.

    A code is inferred from its token and those after it and shown to the decoder from there on, as
    in `delta_vae`; the places after a sentence's end all have the same code. The codebook
    learns in every pass of training, also in one that updates the decoder alone.

    Departures: the prior is trained beside the model and not after it; the vectors begin at those
    of the first batch, and one that is hardly used begins anew at a vector of the present batch
    (Dhariwal et al. 2020), since with a batch of text many never are. No setting is the plain VAE.

    Positive case (`suites/positive.yaml`): NLL 8.12, R 1.65, beyond 1.45.

    Attributes:
        codes: K, vectors of the codebook, which all places share; the paper's for images.
        length: codes of a sentence, each of `latent / length` dimensions. It and the stride are
            this project's, for a sentence of 20 tokens or more.
        stride: tokens from one code to the next.
        commitment: weight of the squared distance of the encoder from its codes.
        decay: of the moving averages, by update.
        restart: share of its fair part of all uses below which a code begins anew; 0 is never.
            This project's.
        prior: over the codes: `uniform`, `length` ln K nats whatever they are, as the paper has it
            while it trains the rest; `independent`, learned by place; `autoregressive`, an LSTM; or
            `self_attention` (Razavi et al. 2019).
    """

    by_construction: ClassVar[tuple[str, ...]] = (
        "kl",
        "active_units",
        "mutual_information",
        "mutual_information_upper",
        "information_given_length",
        "information_given_length_upper",
    )

    small: ClassVar[Mapping[str, Any]] = {"codes": 8, "length": 4, "stride": 3}
    # On `nothing` seeds disagree: one of five uses none of what single words it tells.
    signature: ClassVar[Mapping[str, str]] = {"hard": "use", "easy": "use"}

    codes: Annotated[int, AtLeast(2)] = 512
    length: Annotated[int, AtLeast(1)] = 4
    stride: Annotated[int, AtLeast(1)] = 5
    commitment: Annotated[float, AtLeast(0)] = 0.25
    decay: Annotated[float, Between(0, 1)] = 0.99
    restart: Annotated[float, Between(0, 1)] = 0.1
    prior: Literal["uniform", "independent", "autoregressive", "self_attention"] = "autoregressive"

    def build(self, model: SequenceVAE) -> Mapping[str, nn.Module]:
        """Another pool, head and prior, and wrappers around encoder and decoder."""
        sizes = model.dimensions
        check_codes("vq_vae", self.codes, sizes)
        width = parts_of_latent("vq_vae", "length", self.length, sizes)
        codebook = AveragedCodebook(1, self.codes, width, self.decay, self.restart)
        return {
            **along_the_sentence(model, self.length, self.stride),
            "head": CodesHead(sizes.hidden, 1, width, codebook),
            "prior": code_prior(self.prior, self.length, self.codes),
        }

    def objective(self, forward: Forward) -> Forward:
        """Add the commitment."""
        return with_commitment(forward, self.commitment)
