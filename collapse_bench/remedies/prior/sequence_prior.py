"""A learned autoregressive prior along a latent sequence (Chen et al. 2017; Razavi et al. 2019)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from torch import nn

from collapse_bench.model import SequenceVAE
from collapse_bench.model.autoregressive_flow import PushedPrior, SequenceFlow
from collapse_bench.model.codes import parts_of_latent
from collapse_bench.remedy import Remedy
from collapse_bench.settings import AtLeast


@dataclass(frozen=True)
class SequencePrior(Remedy):
    """p(z) = prod_t N(z_t; m_t, s_t^2) with m_t and s_t by a network that has read z_<t.

    It is learned with the model. z is read as `length` vectors: those of a latent sequence, as of
    `delta_vae` before it in the chain, or equal parts of a single vector. The network is an LSTM,
    or causal self-attention, which is to a sentence what a PixelCNN is to an image. It stands upon
    the prior that is there, z_t = m_t + s_t y_t with y of that prior, and begins near it; upon the
    plain one it is as above, upon an autoregressive one still normal given z_<t. It guarantees
    nothing, and beside `delta_vae` it takes away the floor, which is that of a fixed prior: for a
    prior that leaves the training alone, the paper's, see `fitted_prior` with its `network`.

    The rate has no closed form: in training it is log q/p of the draw, K = 1, so that free bits
    floor the whole of it. A draw from the prior takes `length` passes. After `token_latents`, which
    has such a prior of its own, what is past a sentence's end would have to be paid for.

    Positive case (`suites/positive.yaml`): beside a decoder that sees one word, and an annealing,
    NLL 14.12, R 1.55, beyond 1.38, where that decoder alone has 14.23, 1.59 and 1.34. With 2 nats
    of free bits NLL 8.07, R 1.38, beyond 1.01. Alone it ends collapsed at R 0.00, with an annealing
    at 0.04, and after delta-VAE, whose rate alone is 1.86, at 0.02.

    Attributes:
        network: what reads the vectors before, 64 wide; of self-attention two blocks of four heads.
        length: n, vectors of z, that of `delta_vae`; of a sequence another number is as good a
            prior, of other parts.
    """

    # Such a prior fixes no scale of z, which active units are counted by.
    by_construction: ClassVar[tuple[str, ...]] = ("active_units",)

    # On `easy` seeds disagree: two of five collapse.
    signature: ClassVar[Mapping[str, str]] = {"nothing": "collapsed", "hard": "collapsed"}

    network: Literal["lstm", "self_attention"] = "lstm"
    length: Annotated[int, AtLeast(2)] = 8

    def build(self, model: SequenceVAE) -> Mapping[str, nn.Module]:
        """Wrap the prior."""
        sizes = model.dimensions
        parts_of_latent("sequence_prior", "length", self.length, sizes)
        flow = SequenceFlow(sizes.latent, self.length, self.network)
        return {"prior": PushedPrior("sequence_prior", model.prior, flow)}
