"""Inverse autoregressive flow posterior (Kingma et al. 2016, equations 10 to 14)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar

from torch import Tensor, nn
from torch.distributions import Distribution, Transform

from collapse_bench.model import Energy, SequenceVAE, diagonal_normal
from collapse_bench.model.autoregressive_flow import MaskedNetwork
from collapse_bench.model.distributions import as_normal
from collapse_bench.model.distributions.flow import AutoregressiveAffine, Flow, MaskedAffine
from collapse_bench.remedy import Remedy
from collapse_bench.settings import AtLeast

OPEN = 2.0
"""What is added to a gate before its sigmoid: maps begin near the identity, for which the paper
names 1 and 2."""


class FlowHead(nn.Module):
    """A head around another one: its normal posterior through maps that see the features.

    Args:
        head: to a diagonal normal.
        networks: of the maps, with the features as context; without log-scales they only shift.
    """

    def __init__(self, head: nn.Module, networks: list[MaskedNetwork]) -> None:
        super().__init__()
        self.head = head
        self.networks = nn.ModuleList(networks)

    def forward(self, features: Tensor, energy: Energy) -> Distribution:
        """Features [B, H], or [B, n, H] of a latent sequence, to q(z|x)."""
        normal = as_normal(self.head(features, energy))
        context = features if features.dim() == 2 else features.mean(1)
        axes = normal.mean.dim() - 1

        def gated(network: nn.Module, y: Tensor) -> tuple[Tensor, Tensor]:
            shift, gate = network(y, context)
            return shift, OPEN + gate

        maps: list[Transform] = []
        for turn, network in enumerate(self.networks):
            ends = axes, turn % 2 == 1
            if network.scales:
                maps.append(AutoregressiveAffine(partial(gated, network), *ends))
            else:  # y less what it says of itself: a masked map, the other way round
                maps.append(MaskedAffine(partial(network, context=context), *ends).inv)
        return Flow(diagonal_normal(normal.mean, normal.stddev), *maps)


@dataclass(frozen=True)
class Iaf(Remedy):
    """The posterior is no longer a diagonal normal, but one pushed through autoregressive maps.

    From y of the head's normal, each map makes z_i = g_i y_i + (1 - g_i) m_i with m and g by masked
    networks of y_<i and of the encoder's features, g_i a sigmoid; or, volume preserving, without
    the gate, z_i = y_i - m_i. Maps begin at either end of z in turn, so a draw and its density are
    one pass for each, and any other density D. It guarantees nothing: the posterior can come nearer
    to the true one, whose collapse is the same. The rate has no closed form: in training it is log
    q/p of the draw, K = 1, so that free bits floor the whole of it.

    Other than in the paper the features themselves are the context, and of a latent sequence their
    mean; gates before their sigmoid stay within 2 +- 3, so that densities of other sentences'
    draws, which need the inverse, do not overflow; a map contracts by 0.27 at most.

    Positive case (`suites/positive.yaml`): with free bits NLL 8.05, R 1.61, beyond 1.37, where free
    bits alone have 0.85. Alone it ends collapsed at R 0.00; with an annealing beyond 0.39.

    Attributes:
        depth: maps. It and the width are this project's; the paper's are for images.
        hidden: width of their networks' two hidden layers; fewer than D - 1 leave some coordinates
            unseen by those after them.
        gated: whether maps have gates; without, they preserve volume, which Tomczak and Welling
            (2016) have of flows that are linear.
    """

    small: ClassVar[Mapping[str, Any]] = {"hidden": 24}
    signature: ClassVar[Mapping[str, str]] = {"nothing": "collapsed", "hard": "collapsed"}

    depth: Annotated[int, AtLeast(1)] = 2
    hidden: Annotated[int, AtLeast(1)] = 256
    gated: bool = True

    def build(self, model: SequenceVAE) -> Mapping[str, nn.Module]:
        """Wrap the head."""
        sizes = model.dimensions
        networks = [
            MaskedNetwork(sizes.latent, self.hidden, sizes.hidden, scales=self.gated)
            for _ in range(self.depth)
        ]
        return {"head": FlowHead(model.head, networks)}
