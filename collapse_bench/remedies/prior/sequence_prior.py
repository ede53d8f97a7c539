"""A learned autoregressive prior along a latent sequence (Razavi et al. 2019, section 2.5)."""

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
    floor the whole of it. A draw from the prior takes `length` passes.

    Attributes:
        network: what reads the vectors before, 64 wide; of self-attention two blocks of four heads.
        length: n, vectors of z, that of `delta_vae`; of a sequence another number is as good a
            prior, of other parts.
    """

    # Such a prior fixes no scale of z, which active units are counted by.
    by_construction: ClassVar[tuple[str, ...]] = ("active_units",)

    network: Literal["lstm", "self_attention"] = "lstm"
    length: Annotated[int, AtLeast(2)] = 8

    def build(self, model: SequenceVAE) -> Mapping[str, nn.Module]:
        """Wrap the prior."""
        sizes = model.dimensions
        parts_of_latent("sequence_prior", "length", self.length, sizes)
        flow = SequenceFlow(sizes.latent, self.length, self.network)
        return {"prior": PushedPrior("sequence_prior", model.prior, flow)}
