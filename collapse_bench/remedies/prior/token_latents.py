"""A normal latent at every token (Bayer and Osendorfer 2014; Goyal et al. 2017, "Z-forcing").

The prior is that of Chung et al. (2015, VRNN, equation 5) without the words.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from collapse_bench.model import Energy, GaussianHead, SequenceVAE, diagonal_normal
from collapse_bench.model.anticausal import AntiCausalEncoder
from collapse_bench.model.distributions import as_normal
from collapse_bench.model.innovations import Innovations
from collapse_bench.model.sequence import StridedStates, TokenDecoder, exists
from collapse_bench.remedy import Remedy
from collapse_bench.settings import AtLeast


class TokenHead(nn.Module):
    """Head: a normal for every token, N(0, I) as the prior where the sentence is over.

    Args:
        hidden: H.
        tokens: n.
        channels: d.
    """

    def __init__(self, hidden: int, tokens: int, channels: int) -> None:
        super().__init__()
        self.head, self.latent = GaussianHead(hidden, channels), tokens * channels

    def forward(self, features: Tensor, energy: Energy) -> Distribution:
        """Features [B, n, H] to q(z|x) over z [B, n, d]."""
        q, there = as_normal(self.head(features, energy)), exists(features)
        mean = torch.where(there, q.mean, 0.0)
        return diagonal_normal(mean, torch.where(there, q.stddev, 1.0))


@dataclass(frozen=True)
class TokenLatents(Remedy):
    """Every token has a latent of its own, inferred from it and what comes after it, and shown to
    the decoder from there on.

    p(z) = prod_t N(z_t; m_t, s_t^2), m_t and s_t by an LSTM from z_<t. What the bench calls z are
    the innovations e_t = (z_t - m_t) / s_t, whose prior is N(0, I), and the decoder begins with
    z_t = m_t + s_t e_t. It is the same model, and its posterior of z_t given z_<t, of mean
    m_t + s_t mean_t and scale s_t scale_t, is told relative to the prior: the rate is in closed
    form, and exactly 0 past a sentence's end, where nobody sees z. The priors of the papers look at
    the words before, too, and so does the decoder here; their auxiliary costs are left out, as is
    the posterior's view of the decoder's state: an encoder that reads from the end says what the
    past cannot tell.

    It guarantees nothing, and it can be used for single words alone, one at a time. The rate is a
    sum over tokens. z has `longest sentence` times `channels` dimensions, of which a metric by
    dimension counts each: on the Penn Treebank 332, and evaluation of them takes ten times as long
    as that of 32. For the remedies after it in a chain the latent has that size.

    Positive case (`suites/positive.yaml`): alone it ends collapsed at R 0.00; with an annealing NLL
    8.00, R 1.87, beyond 1.30, where that alone has 0.51; with 2 nats of free bits a sentence NLL
    8.04, R 1.96, beyond 1.40.

    Attributes:
        channels: numbers a token. They are mapped to as many as the suite's latent has, which is
            what the decoder is shown. It is this project's, the papers' 200 and more are for
            speech.
        prior: `lstm`, or `standard`, where m_t is 0 and s_t is 1 (Bayer and Osendorfer).
    """

    # With more dimensions the sums in two densities round by more than other remedies' do.
    small: ClassVar[Mapping[str, Any]] = {"channels": 2}
    # On `easy` too: a decoder that has to remember z can as well remember the first word, and does.
    signature: ClassVar[Mapping[str, str]] = {
        "nothing": "collapsed",
        "hard": "collapsed",
        "easy": "collapsed",
    }

    channels: Annotated[int, AtLeast(1)] = 4
    prior: Literal["lstm", "standard"] = "lstm"

    def build(self, model: SequenceVAE) -> Mapping[str, nn.Module]:
        """Another pool and head, and wrappers around encoder and decoder."""
        sizes = model.dimensions
        shown: nn.Module = nn.Linear(self.channels, sizes.latent, bias=False)
        if self.prior == "lstm":
            shown = nn.Sequential(Innovations(self.channels), shown)
        return {
            "encoder": AntiCausalEncoder(model.encoder),
            "pool": StridedStates(sizes.longest, 1),
            "head": TokenHead(sizes.hidden, sizes.longest, self.channels),
            "decoder": TokenDecoder(model.decoder, self.channels, shown),
        }
