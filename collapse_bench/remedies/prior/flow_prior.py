"""An autoregressive flow as the prior (Chen et al. 2017, "Variational lossy autoencoder", 3.2)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from torch import nn

from collapse_bench.model import SequenceVAE
from collapse_bench.model.autoregressive_flow import AutoregressiveFlow, PushedPrior
from collapse_bench.model.latent import StandardNormal
from collapse_bench.remedy import Remedy
from collapse_bench.settings import AtLeast


@dataclass(frozen=True)
class FlowPrior(Remedy):
    """z = f(e), e ~ N(0, I): log p(z) = log N(e; 0, I) + log |det de/dz|, learned with the model.

    f is `depth` affine autoregressive maps, each from the other end of z, so that e is one pass of
    masked networks for each and its determinant triangular. As a function of e the posterior is an
    inverse autoregressive flow's, at the same cost of training, and the generator deeper by f. It
    guarantees nothing: their remedy is the decoder's limited view, beside which this makes the
    code cheap. Log-scales of a map stay within +-3, and f begins near the identity. The rate has no
    closed form: in training it is log q/p of the draw, K = 1, so that free bits floor the whole of
    it. To draw from the prior takes D passes a map.

    Positive case (`suites/positive.yaml`): beside a decoder that sees one word, and an annealing,
    NLL 14.21, R 1.60, beyond 1.37; that decoder alone, without the annealing, has 14.23, 1.59 and
    1.34: no harm, and no gain. Without the annealing the two collapse. Alone it ends collapsed at R
    0.00; with an annealing R 0.30, beyond 0.27, where that alone has 0.51.

    Attributes:
        depth: maps.
        hidden: width of their networks' two hidden layers; fewer than D - 1 leave some coordinates
            unseen by those after them. It and the depth are this project's, as the paper's are for
            images.
    """

    # Such a prior fixes no scale of z, which active units are counted by.
    by_construction: ClassVar[tuple[str, ...]] = ("active_units",)

    small: ClassVar[Mapping[str, Any]] = {"hidden": 24}
    signature: ClassVar[Mapping[str, str]] = {"nothing": "collapsed", "hard": "collapsed"}

    depth: Annotated[int, AtLeast(1)] = 2
    hidden: Annotated[int, AtLeast(1)] = 256

    def build(self, model: SequenceVAE) -> Mapping[str, nn.Module]:
        """Replace the prior."""
        flow = AutoregressiveFlow(model.dimensions.latent, self.depth, self.hidden)
        return {"prior": PushedPrior("flow_prior", StandardNormal(), flow)}
