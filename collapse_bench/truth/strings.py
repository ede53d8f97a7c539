"""Models of enumerable strings with a latent of one dimension, whose every number is a finite sum.

z ~ N(0, 1) chooses the transition table of a Markov chain of T words: one of K tables by the
interval of the line that it falls into (`Steps`), or logits that are linear in it (`Smooth`, which
has gradients). In both the line is cut into cells within which the decoder may be taken as
constant: intervals, or the nodes of a trapezoid rule, whose error vanishes exponentially for what
is analytic. The only other integral is over the aggregate posterior, a mixture of normals.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.special import entr, ndtr, ndtri

from collapse_bench.metrics.active_units import THRESHOLD
from collapse_bench.model import diagonal_normal
from collapse_bench.truth.line import (
    REACH,
    aggregate_posterior,
    kl_from_standard_normal,
    log_normal,
    nodes,
    standard_normal,
)

MOST_STRINGS = 10_000
"""V^T beyond which nothing is enumerated."""

NODE = 0.02
"""Distance of a smooth decoder's cells; a posterior may not be narrower."""


class Cells(NamedTuple):
    """The line of z cut into C cells.

    Attributes:
        log_words: log p(x_t | x_{t-1}, cell), [C, V + 1, V]; the last row begins a string.
        log_mass: log prior probability of each, [C].
        first: prior mean of z within each, [C].
        second: prior mean of z^2 within each, [C].
    """

    log_words: Tensor
    log_mass: Tensor
    first: Tensor
    second: Tensor


@dataclass(frozen=True, eq=False)
class Steps:
    """Decoder with K tables: in the k-th interval of z, of prior probability weights[k], the k-th.

    Attributes:
        weights: [K], positive, sum to 1.
        words: p(x_t | x_{t-1}, k), [K, V + 1, V], positive; the last row begins a string.

    Raises:
        ValueError: these are no probabilities, or one is zero: then a posterior, whose tails reach
            everywhere, has an infinite distortion.
    """

    weights: Tensor
    words: Tensor

    def __post_init__(self) -> None:
        k, rows, words = self.words.shape
        if self.weights.shape != (k,) or rows != words + 1:
            raise ValueError("weights [K] and words [K, V + 1, V] do not fit together")
        check_probabilities("weights", self.weights, positive=True)
        check_probabilities("words", self.words, positive=True)

    @property
    def vocabulary(self) -> int:
        """V."""
        return self.words.shape[-1]

    @property
    def edges(self) -> Tensor:
        """Where one interval ends and the next begins, [K - 1]."""
        edges: Tensor = ndtri(self.weights.cumsum(0)[:-1])
        return edges

    def component(self, z: Tensor) -> Tensor:
        """k of each z, [B] to [B]."""
        return (z[:, None] >= self.edges).sum(1)

    def log_words(self, z: Tensor) -> Tensor:
        """log p(x_t | x_{t-1}, z), [B] to [B, V + 1, V]; flat in z but for its steps."""
        return self.words.log()[self.component(z)]

    def cells(self) -> Cells:
        """The K intervals, with the moments of the normal truncated to each."""
        outer = torch.tensor([torch.inf], dtype=torch.float64)
        edges = torch.cat([-outer, self.edges, outer])
        density = torch.exp(-0.5 * edges**2) / math.sqrt(2 * math.pi)
        by_edge = torch.where(edges.isinf(), 0.0, edges) * density
        return Cells(
            self.words.log(),
            self.weights.log(),
            -density.diff() / self.weights,
            1 - by_edge.diff() / self.weights,
        )

    def masses(self, mean: Tensor, scale: Tensor) -> Tensor:
        """Probability of each interval under normals, [N] and [N] to [N, K]."""
        below = ndtr((self.edges - mean[:, None]) / scale[:, None])
        ends = torch.zeros_like(mean)[:, None]
        return torch.cat([ends, below, ends + 1], 1).diff(dim=1)


@dataclass(frozen=True, eq=False)
class Smooth:
    """Decoder with logits intercept + slope * z, differentiable in z.

    Attributes:
        intercept: [V + 1, V] by the word before; the last row begins a string.
        slope: [V + 1, V].
    """

    intercept: Tensor
    slope: Tensor

    @property
    def vocabulary(self) -> int:
        """V."""
        return self.intercept.shape[-1]

    def log_words(self, z: Tensor) -> Tensor:
        """log p(x_t | x_{t-1}, z), [B] to [B, V + 1, V]."""
        return (self.intercept + self.slope * z[:, None, None]).log_softmax(-1)

    def cells(self) -> Cells:
        """The nodes of a trapezoid rule from -REACH to REACH."""
        z = nodes(-REACH, REACH, NODE)
        return Cells(self.log_words(z), log_normal(z, 0.0, 1.0) + z.diff()[0].log(), z, z**2)

    def masses(self, mean: Tensor, scale: Tensor) -> Tensor:
        """Weights of the nodes in an average over normals, [N] and [N] to [N, C].

        Raises:
            ValueError: a normal reaches beyond the nodes or between them.
        """
        z = nodes(-REACH, REACH, NODE)
        mass = log_normal(z, mean[:, None], scale[:, None]).exp() * z.diff()[0]
        if not torch.allclose(mass.sum(1), torch.ones_like(mean), rtol=0, atol=1e-7):
            raise ValueError(f"a posterior is narrower than {NODE}, or reaches beyond {REACH}")
        return mass


@dataclass(frozen=True, eq=False)
class Strings:
    """A `LatentModel` over the V^T strings of T words, with a normal posterior set for each.

    Sentences are words [B, T], int64; the latent is [B, 1]. `matched` makes one, and
    `dataclasses.replace(model, mean=..., scale=...)` sets its posterior otherwise.

    Attributes:
        decoder: what p(x|z) is.
        length: T, at least 1.
        mean: of q(z|x), [V^T], in the order of `all_strings`.
        scale: standard deviation of q(z|x), [V^T], positive.
    """

    decoder: Steps | Smooth
    length: int
    mean: Tensor
    scale: Tensor

    @property
    def vocabulary(self) -> int:
        """V."""
        return self.decoder.vocabulary

    def posterior(self, sentences: Tensor) -> Distribution:
        """q(z|x), [B, 1]."""
        places = torch.arange(self.length - 1, -1, -1, device=sentences.device)
        row = (sentences * self.vocabulary**places).sum(1)
        return diagonal_normal(self.mean[row, None], self.scale[row, None])

    def prior(self, sentences: Tensor) -> Distribution:
        """N(0, 1) for each of B sentences, [B, 1]."""
        return standard_normal(len(sentences), 1)

    def log_likelihood(self, sentences: Tensor, z: Tensor) -> Tensor:
        """log p(x_t | x_{t-1}, z), [B, T] and [B, 1] to [B, T]."""
        table = self.decoder.log_words(z[:, 0])
        row = torch.arange(len(sentences))[:, None]
        return table[row, _words_before(sentences, table.shape[-1]), sentences]

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Sentences of the model, [n, T]."""
        z = torch.randn(n, generator=generator, dtype=torch.float64)
        table = self.decoder.log_words(z).exp()
        row = torch.arange(n)
        words = [torch.full((n,), table.shape[-1])]
        for _ in range(self.length):
            words.append(torch.multinomial(table[row, words[-1]], 1, generator=generator)[:, 0])
        return torch.stack(words[1:], 1)

    def log_likelihood_by_cell(self, sentences: Tensor) -> Tensor:
        """log p(x | cell), [N, T] to [N, C]."""
        log_words = self.decoder.cells().log_words
        before = _words_before(sentences, log_words.shape[-1])
        nats = torch.zeros(len(log_words), len(sentences), dtype=torch.float64)
        for last, word in zip(before.T, sentences.T, strict=True):
            nats += log_words[:, last, word]
        return nats.T

    def exact_nll(self, sentences: Tensor) -> Tensor:
        """-log p(x), [N, T] to [N]."""
        joint = self.log_likelihood_by_cell(sentences) + self.decoder.cells().log_mass
        return -joint.logsumexp(1)

    def exact_distortion(self, sentences: Tensor) -> Tensor:
        """-E_q log p(x|z), [N, T] to [N]."""
        q = self.posterior(sentences)
        masses = self.decoder.masses(q.mean[:, 0], q.stddev[:, 0])
        return -(masses * self.log_likelihood_by_cell(sentences)).sum(1)

    def exact(self) -> dict[str, float]:
        """Population values under x of the model, in nats, by enumeration of all strings.

        `mutual_information` is that of q, I_q(x; z); `mutual_information_model` that of the model's
        own joint, sum_x sum_c p(x, c) log p(x|c) / p(x), which is I(x; z) as x depends on z by its
        cell only. `shuffle_gap` compares with z of q(z|x'), x' an independent string.
        """
        x = all_strings(self.vocabulary, self.length)
        table, log_mass = self.log_likelihood_by_cell(x), self.decoder.cells().log_mass
        joint = table + log_mass  # [X, C]
        log_p = joint.logsumexp(1)
        p = log_p.exp()
        by_cell = self.decoder.masses(self.mean, self.scale)
        distortion = -(p[:, None] * by_cell * table).sum()
        shuffled = -((p @ by_cell) * (p @ table)).sum()
        kl = (p * kl_from_standard_normal(self.mean, self.scale)).sum()
        aggregate = aggregate_posterior(p, self.mean, self.scale)
        nll = entr(p).sum()
        variance = (p * (self.mean - (p * self.mean).sum()) ** 2).sum()
        return {
            "nll": float(nll),
            "distortion": float(distortion),
            "kl": float(kl),
            "negative_elbo": float(distortion + kl),
            "mutual_information": aggregate.mutual_information,
            "marginal_kl": aggregate.marginal_kl,
            "total_correlation": 0.0,
            "dimension_kl": aggregate.marginal_kl,
            "useful_rate": float(nll - distortion),
            "mutual_information_model": float((joint.exp() * (table - log_p[:, None])).sum()),
            "shuffle_gap": float(shuffled - distortion),
            "active_units": float(variance > THRESHOLD),
        }


def matched(decoder: Steps | Smooth, length: int) -> Strings:
    """The strings of a decoder with the mean and the variance of the true posterior of each.

    This is the normal of least KL(p(z|x) || q), not of least KL(q || p(z|x)): the bound stays below
    the evidence, and replacing a scale may raise it.

    Args:
        decoder: of V words.
        length: T, at least 1; V^T at most `MOST_STRINGS`.

    Raises:
        ValueError: there are too many strings.
    """
    cells = decoder.cells()
    x = all_strings(decoder.vocabulary, length)
    nothing = torch.empty(0, dtype=torch.float64)
    table = Strings(decoder, length, nothing, nothing).log_likelihood_by_cell(x)
    cell_of = (table + cells.log_mass).softmax(1)  # p(c|x), [X, C]
    mean = cell_of @ cells.first
    return Strings(decoder, length, mean, (cell_of @ cells.second - mean**2).sqrt())


def all_strings(vocabulary: int, length: int) -> Tensor:
    """Every string of T words in lexicographic order, [V^T, T].

    Raises:
        ValueError: there are more than `MOST_STRINGS`, or none.
    """
    if vocabulary < 1 or length < 1 or vocabulary**length > MOST_STRINGS:
        raise ValueError(f"{vocabulary}^{length} strings: from 1 to {MOST_STRINGS} are enumerated")
    words = torch.arange(vocabulary)
    return torch.cartesian_prod(*[words] * length).reshape(-1, length)


def check_probabilities(name: str, p: Tensor, positive: bool) -> None:
    """Hold the last axis against what a distribution is.

    Raises:
        ValueError: it does not sum to 1, is not float64, or has an entry below 0, or at 0 where
            all have to be positive.
    """
    least = bool((p > 0 if positive else p >= 0).all())
    total = p.sum(-1)
    if p.dtype != torch.float64 or not least or not torch.allclose(total, torch.ones_like(total)):
        kind = "positive" if positive else "non-negative"
        raise ValueError(f"{name}: must be {kind} float64 and sum to 1 along the last axis")


def _words_before(sentences: Tensor, vocabulary: int) -> Tensor:
    """The word before each, V at the start, [N, T]."""
    start = torch.full_like(sentences[:, :1], vocabulary)
    return torch.cat([start, sentences[:, :-1]], 1)
