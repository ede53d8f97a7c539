"""A linear VAE that an objective is minimised on, and its optimum in closed form.

Each dimension of x is told by one of z: x_j = w_j z_j + e_j, e_j ~ N(0, NOISE), and q(z_j|x) =
N(a_j x_j, v_j), with x_j^2 the same for all sentences and the eigenvalue l_j of the data. So every
term is exact, and a sentence's rate is that of the mean: the floors of all forms of free bits are
met at once. Where the rate of dimension j costs b_j nats a nat, there is one other optimum than
collapse (Lucas et al. 2019, section 4, with b_j = 1), by setting the gradients to zero: with the
level t_j = b_j NOISE, if l_j is above it,

    w_j^2 = l_j - t_j,  v_j = t_j / l_j,  a_j^2 l_j = 1 - v_j,  R_j = ln(l_j / t_j) / 2,

and otherwise all of them are as of the prior, w_j = R_j = 0. An objective that is no weighted sum
has the optimum of one, of its multipliers: a floor is a level as low as it takes. Were a dimension
of x open to several of z, floors might lead elsewhere: a nat that is free in each of two dimensions
can tell more of one strong direction, twice, than of a strong and a weak one.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import torch
from scipy.optimize import brentq
from torch import Tensor, nn

from collapse_bench.corpus import Batch
from collapse_bench.model import Forward, Objective, diagonal_normal
from collapse_bench.model.distributions import rate

ALIKE = torch.ones(1, dtype=torch.float64)
EIGENVALUES = torch.tensor([4.0, 2.5, 1.6, 0.25], dtype=torch.float64)
NOISE = 1.0

STEPS = 250
FIRST_RATE, LAST_RATE = 0.1, 3e-3
BEFORE_THE_END = 0.999
"""Progress in the second half of the steps: a schedule is over by then, and its next is not on."""


class Optimum(NamedTuple):
    """Weights and rates of the dimensions, [D] each: w_j^2, v_j, a_j^2 l_j and R_j in nats."""

    loading: Tensor
    variance: Tensor
    signal: Tensor
    rate: Tensor


class LinearVAE(nn.Module):
    """The model; `further` is empty, since no remedy that only has an objective brings a part."""

    def __init__(self, magnitudes: Tensor) -> None:
        super().__init__()
        signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=len(EIGENVALUES))))
        points = signs.double() * EIGENVALUES.sqrt()
        self.x = (magnitudes[:, None, None] * points).flatten(0, 1)  # [B, D]
        one = torch.ones(len(EIGENVALUES), dtype=torch.float64)
        # Both in units of the roots of the eigenvalues, so that one rate of learning fits all.
        self.loading, self.gain, self.log_variance = map(nn.Parameter, (one / 2, one / 2, -one))
        self.further = nn.ModuleDict()

    def forward(self, step: int, progress: float) -> Forward:
        """A pass whose terms are expectations, not draws."""
        scale = EIGENVALUES.sqrt()
        mean, variance = self.gain / scale * self.x, self.log_variance.exp()
        q = diagonal_normal(mean, variance.sqrt().expand_as(mean))
        p = diagonal_normal(torch.zeros_like(mean), torch.ones_like(mean))
        loading = self.loading * scale
        squares = (self.x - loading * mean).square() + loading.square() * variance
        distortion = (squares / (2 * NOISE)).sum(1)
        return Forward(
            self, step, progress, batch_of(len(mean)), mean[:, None], mean, q, mean, p,
            mean[:, None], distortion, rate(q, p, mean),
        )  # fmt: skip

    def optimum(self) -> Optimum:
        """Where it is now."""
        forward = self(0, 0.0)
        loading = self.loading.square() * EIGENVALUES
        found = (loading, self.log_variance.exp(), self.gain.square(), forward.kl.mean(0))
        return Optimum(*(each.detach() for each in found))


def batch_of(sentences: int) -> Batch:
    """Sentences of one token, of which nothing is read."""
    one = torch.ones(sentences, 1, dtype=torch.long)
    return Batch(one, one, one.bool(), one[:, 0], torch.arange(sentences), -one[:, 0])


def minimised(objective: Objective, magnitudes: Tensor = ALIKE) -> Optimum:
    """Where an objective leads, its schedule run from beginning to end.

    Args:
        objective: of a remedy, or one that was written by hand.
        magnitudes: of x, in units of the eigenvalues' roots; one for each kind of sentence.
    """
    model = LinearVAE(magnitudes)
    # Gradients jump where a floor begins, so that a method of second order would not arrive.
    adam = torch.optim.Adam(model.parameters(), FIRST_RATE, betas=(0.9, 0.95))
    decay = (LAST_RATE / FIRST_RATE) ** (1 / STEPS)
    schedule = torch.optim.lr_scheduler.ExponentialLR(adam, decay)
    for step in range(STEPS):
        adam.zero_grad()
        objective(model(step, min(2 * step / STEPS, BEFORE_THE_END))).loss().backward()
        adam.step()
        schedule.step()
    return model.optimum()


Levels = Callable[[], Tensor]
"""The levels t_j of the optimum, [D]."""


def closed_form(levels: Tensor) -> Optimum:
    """The optimum of these levels."""
    variance = (levels / EIGENVALUES).clamp(max=1)
    loading = (EIGENVALUES - levels).clamp(min=0)
    return Optimum(loading, variance, 1 - variance, -0.5 * variance.log())


def weighted(weight: float) -> Levels:
    """Of a constant weight of the rate."""
    return lambda: torch.full_like(EIGENVALUES, weight * NOISE)


def least_rate_each(target: float) -> Levels:
    """Of max(target / D, R_j): a dimension whose rate at weight 1 is less gets that much."""
    floor = torch.tensor(2 * target / len(EIGENVALUES)).double()
    return lambda: (EIGENVALUES * (-floor).exp()).clamp(max=NOISE)


def least_rate(target: float) -> Levels:
    """Of max(target, R): one level for all, so low that the rates add up to the target.

    This is reverse water-filling (Cover and Thomas 2006, section 10.3.3).
    """

    def levels() -> Tensor:
        def missing(log_level: float) -> float:
            log_ratios = EIGENVALUES.log() - log_level
            return float(0.5 * log_ratios.clamp(min=0).sum()) - target

        log_level = brentq(missing, -50, float(EIGENVALUES.max().log()))
        return torch.full_like(EIGENVALUES, log_level).exp().clamp(max=NOISE)

    return levels
