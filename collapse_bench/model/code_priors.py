"""Priors over the n codes of a sentence that are trained beside the model.

A code is a number, which no gradient passes: the prior learns what the encoder says and the encoder
does not learn what the prior expects. van den Oord et al. (2017) and Razavi et al. (2019) train it
when the codes are done; beside them it comes to the same, and the rate is known at any time.
"""

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from collapse_bench.corpus import Batch
from collapse_bench.errors import UserError
from collapse_bench.model.distributions import base, family_of
from collapse_bench.model.distributions.codes import CodePrior, Conditional, independent
from collapse_bench.model.lstm import LSTM
from collapse_bench.model.transformer import Block

WIDTH, HEADS, BLOCKS = 64, 4, 2
"""Of the networks. Papers' are for a thousand codes an image; a sentence has a few."""


class IndependentPrior(nn.Module):
    """Prior: every place by itself; uniform where it is not learnt.

    Args:
        places: n.
        codes: K.
        learnt: whether the logits are.
    """

    def __init__(self, places: int, codes: int, learnt: bool) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.empty(places, codes), requires_grad=learnt)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """All codes are as likely."""
        nn.init.zeros_(self.logits)

    def forward(self, q: Distribution, batch: Batch) -> Distribution:
        """A prior over the posterior's codes for each of the B sentences."""
        return _prior(independent(self.logits), q, batch)


class NetworkPrior(nn.Module):
    """Prior: p(k_t | k_<t) by a network that reads the codes before it, and which place it is.

    Args:
        places: n, at least 2.
        codes: K, of every place.
        reader: vectors [M, n, W] to the same, of which no row sees a later one.
    """

    def __init__(self, places: int, codes: int, reader: nn.Module) -> None:
        super().__init__()
        self.code, self.reader = nn.Embedding(codes, WIDTH), reader
        self.place, self.out = nn.Parameter(torch.empty(places, WIDTH)), nn.Linear(WIDTH, codes)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights that are not a layer's own."""
        nn.init.normal_(self.place)

    def conditional(self, codes: Tensor) -> Tensor:
        """Codes [..., n] to log p of all K at every place, [..., n, K], nats."""
        rows = codes.reshape(-1, codes.shape[-1])
        # In full precision also where the products of the training are not: it is a density.
        with torch.autocast(codes.device.type, enabled=False):
            before = self.code(rows[:, :-1])
            read = torch.cat([torch.zeros_like(before[:, :1]), before], 1) + self.place
            nats: Tensor = self.out(self.reader(read)).log_softmax(-1)
        return nats.view(*codes.shape, -1)

    def forward(self, q: Distribution, batch: Batch) -> Distribution:
        """A prior over the posterior's codes for each of the B sentences."""
        return _prior(self.conditional, q, batch)


class Attention(nn.Module):
    """Blocks of causal self-attention over vectors [M, n, W]."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(WIDTH, HEADS) for _ in range(BLOCKS))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """The same shape; row t has seen rows 0 to t."""
        allowed = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()[None]
        for block in self.blocks:
            x = block(x, allowed)
        seen: Tensor = self.norm(x)
        return seen


def reader(network: str) -> nn.Module:
    """Vectors [M, n, W] to the same, of which no row sees a later one: `lstm` or
    `self_attention`."""
    return LSTM(WIDTH, WIDTH) if network == "lstm" else Attention()


def code_prior(kind: str, places: int, codes: int) -> nn.Module:
    """The prior slot of a remedy whose z are codes.

    Args:
        kind: `uniform`; `independent`, learned place by place; `autoregressive`, by an LSTM; or
            `self_attention`. Of one code all learned ones are the same.
        places: n.
        codes: K.
    """
    if kind in ("uniform", "independent") or places == 1:
        return IndependentPrior(places, codes, learnt=kind != "uniform")
    network = "lstm" if kind == "autoregressive" else kind
    return NetworkPrior(places, codes, reader(network))


def _prior(conditional: Conditional, q: Distribution, batch: Batch) -> Distribution:
    """The prior with the vectors that the posterior's codes stand for.

    Raises:
        UserError: the posterior is of another family.
    """
    if family_of(q) != "codes":
        raise UserError(
            f"a prior over codes needs codes, got a {type(base(q)).__name__}: leave one of the two"
            f" remedies out"
        )
    codebook = base(q).codebook  # type: ignore[attr-defined]
    return CodePrior(conditional, codebook.given, len(batch.lengths))
