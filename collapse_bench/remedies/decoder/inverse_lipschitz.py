"""Latent-identifiable VAE (Wang, Blei and Cunningham 2021, section 3), inverse-Lipschitz.

The constant is that of Kinoshita, Oono, Fukumizu, Yoshida and Maeda (2023).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from collapse_bench.corpus import Batch
from collapse_bench.model import SequenceVAE, readout_for
from collapse_bench.model.embedding import beside
from collapse_bench.remedy import Remedy
from collapse_bench.settings import AtLeast


class BrenierMap(nn.Module):
    """The gradient of a convex function f of x, in closed form.

    f(x) = w . softplus(U softplus(A x + a) + B x + b) + c / 2 |x|^2, U and w positive since they
    are the softplus of what is learned: an input-convex network (Amos, Xu and Kolter 2017). Its
    Hessian is at least c, so that |g(x) - g(y)| >= c |x - y| for the gradient g.
    """

    def __init__(self, size: int, width: int, constant: float) -> None:
        super().__init__()
        self.constant = constant
        self.first = nn.Linear(size, width)
        self.second = nn.Linear(size, width)
        self.between = nn.Parameter(torch.empty(width, width))
        self.last = nn.Parameter(torch.empty(width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw those weights that are made positive: a row of U adds up to about 1, w is near 1."""
        for weight, size in ((self.between, len(self.last)), (self.last, 1)):
            middle = math.log(math.expm1(1 / size))
            nn.init.uniform_(weight, middle - 1, middle + 1)

    def forward(self, x: Tensor) -> Tensor:
        """The gradient [..., K] at x [..., K]."""
        between, last = F.softplus(self.between), F.softplus(self.last)
        first = self.first(x)
        second = self.second(x) + F.linear(F.softplus(first), between)
        by_second = last * second.sigmoid()
        by_first = (by_second @ between) * first.sigmoid()
        gradient: Tensor = by_second @ self.second.weight + by_first @ self.first.weight
        return gradient + self.constant * x


class IdentifiableDecoder(nn.Module):
    """A decoder that tells the history alone, joined with z by a Brenier map."""

    def __init__(self, decoder: nn.Module, brenier: BrenierMap, latent: int) -> None:
        super().__init__()
        self.decoder = decoder
        self.brenier = brenier
        self.latent = latent

    def forward(self, batch: Batch, z: Tensor) -> Tensor:
        """States [B, T, H + D] for z as the wrapped decoder's."""
        history = self.decoder(batch, torch.ones_like(z))
        states: Tensor = self.brenier(beside(history, z, batch, self.latent))
        return states


@dataclass(frozen=True)
class InverseLipschitz(Remedy):
    """Two z never give one state: states are at least `constant` times as far apart as the z are.

    The paper's sequential model, p(x_t | x_<t, z) of logits g2(beta g1([h(x_<t), z])) with Brenier
    maps g1 and g2: z enters only after the network of the history, whose place for z is given ones,
    as in the authors' code. A map before that network would say nothing, since it need not use what
    comes out. Here beta is the readout, and g2, a network over the whole vocabulary that costs
    several readouts, is left out. So the states are held apart, and the logits as far as the
    readout is of full rank: it has more rows than columns, but may come close to a lower rank. No
    rate is guaranteed.

    In the authors' code (text) U is clamped at 0.01 and drawn below that, where it gets no gradient
    at all, beta is no parameter and so is never trained, and the LeakyReLU makes g1 jump. Here both
    are softplus, and what is learned is trained.

    Positive case (`suites/positive.yaml`): none there. Alone it ends collapsed at R 0.06; with an
    annealing R 0.40, beyond 0.38, where that alone has 0.51. On newswire it is among the best
    without any: `leaderboard/remedies.md`.

    Attributes:
        constant: L of Kinoshita et al. (2023), who choose it for each data set; 1 keeps the
            distances of z. 0 is the model of Wang et al.: without a bound, and injective
            where latent is no larger than hidden.
    """

    signature: ClassVar[Mapping[str, str]] = {"nothing": "collapsed", "hard": "use", "easy": "use"}

    constant: Annotated[float, AtLeast(0)] = 1.0

    def build(self, model: SequenceVAE) -> Mapping[str, nn.Module]:
        """Wrap the decoder and widen the readout."""
        sizes = model.dimensions
        both = sizes.hidden + sizes.latent
        brenier = BrenierMap(both, sizes.hidden, self.constant)
        return {
            "decoder": IdentifiableDecoder(model.decoder, brenier, sizes.latent),
            "readout": readout_for(sizes, both),
        }
