"""Recent posteriors of the training, of sentences of all lengths, and what they tell of q(z).

Nearly every batch holds sentences of one length, so that its posteriors are a sample of the
aggregate posterior q(z) = (1/N) sum_n q(z|x_n) given that length. Those of the last batches are a
sample of the whole, with two flaws. M posteriors in batches of B are of M / B lengths at most, and
B of M are of z's own: where z tells the length, information is too small, 2.6 of 3.7 nats with
M = 512 and B = 32 on the lengths of the Penn Treebank, 3.3 with 2,048, 3.6 with 8,192. And they are
out of date: while an encoder drifts, as in the first hundred updates, old posteriors are where none
is any more, and information looks larger than it is. What an objective of the memory pulls at is
then the past: on newswire DG-VAE's rate went to 8.5 nats at an information of 0.02 before it fell.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from collapse_bench.model.distributions import as_normal
from collapse_bench.model.vae import Forward

HALF_LOG_2_PI = 0.5 * math.log(2 * math.pi)
NEVER = -1e30
"""The log of next to nothing. Where nobody else is there, the gradient of a sum of -inf is NaN."""


class Recent(nn.Module):
    """The last posteriors of training, diagonal normals with z flattened to [D].

    Args:
        size: M, how many are kept; at most one for each sentence.
        sentences: N, of the training split.
        latent: D.
    """

    mean: Tensor
    """[M, D]."""
    stddev: Tensor
    """[M, D]."""
    sentence: Tensor
    """Whose they are, by place in the training split, [M]; -1 where there is none yet."""
    place: Tensor
    """Where the next one goes, []."""

    def __init__(self, size: int, sentences: int, latent: int) -> None:
        super().__init__()
        size = min(size, sentences)
        self.sentences = sentences
        self.register_buffer("mean", torch.zeros(size, latent))
        self.register_buffer("stddev", torch.ones(size, latent))
        self.register_buffer("sentence", torch.full((size,), -1))
        self.register_buffer("place", torch.tensor(0))

    @torch.no_grad()
    def write(self, forward: Forward) -> None:
        """Put the posteriors of a training batch in the place of the oldest.

        An objective may be asked several times about one batch, as by a head that refines: what is
        written of it last stays, and nothing is written twice. In evaluation nothing is.
        """
        if not self.training:
            return
        q, size = as_normal(forward.q), len(self.sentence)
        mean, stddev, sentence = (
            each[-size:] for each in (q.mean.flatten(1), q.stddev.flatten(1), forward.batch.index)
        )
        steps = torch.arange(len(sentence), device=sentence.device)
        before = self.place - len(sentence)
        again = (self.sentence[(before + steps) % size] == sentence).all()
        rows = (torch.where(again, before, self.place) + steps) % size
        # In place: a captured training knows a buffer by its memory.
        self.mean[rows], self.stddev[rows], self.sentence[rows] = mean, stddev, sentence
        self.place.copy_((rows[-1] + 1) % size)

    def others(self, forward: Forward) -> Tensor:
        """Which of them are of other sentences, for each of a batch, [B, M]."""
        return (self.sentence >= 0) & (self.sentence != forward.batch.index[:, None])

    def normals(self) -> Normal:
        """All of them, [M, D]; copies, as more may be written before a pass is differentiated."""
        return Normal(self.mean.clone(), self.stddev.clone(), validate_args=False)

    def variance(self, batch: int) -> Tensor:
        """Of the posterior means within and between batches, [D], without what they have drifted.

        Half the mean square of the differences from one batch to the next (von Neumann 1941). In
        its first updates an encoder's means drift by more than they scatter.

        Args:
            batch: how many were written at once; the memory should hold two of them.
        """
        size = len(self.sentence)
        lag = max(1, min(batch, size // 2))
        age = (self.place + torch.arange(size, device=self.place.device)) % size
        mean, there = self.mean[age], self.sentence[age] >= 0  # from the oldest to the newest
        pairs = (there[lag:] & there[:-lag]).to(mean)[:, None]
        squares = (mean[lag:] - mean[:-lag]).square() / 2
        return (pairs * squares).sum(0) / pairs.sum().clamp(min=1)


def recent_of(forward: Forward, name: str) -> Recent:
    """The memory that is a remedy's further part, in training with the batch's own posteriors."""
    recent = forward.model.further[name]
    assert isinstance(recent, Recent)
    recent.write(forward)
    return recent


@dataclass(frozen=True)
class Densities:
    """Log-densities of draws z_i under q(z|x_i) and under other posteriors, by dimension, in nats.

    With them the aggregate posterior at z_i is

        q(z_i) = (1/N) q(z_i|x_i) + (1 - 1/N) mean_j q(z_i|x_j),  j over the M others at hand.

    The own posterior has its share of the N sentences, whatever M, as in stratified sampling of
    batches (Chen, Li, Grosse and Duvenaud 2018, appendix C). So this is unbiased where the others
    are a sample of all sentences, and exact where they are all of them; batches of one length are
    no such sample. Its logarithm is a little too low, information a little too high, until log N
    caps it: 3.1 in place of 3 nats and 5.4 in place of 5 for normals with M = 512, N = 42,068 and
    D = 32. With one share in M + 1 like all others the own would cap it at log(M + 1), here 6.2:
    2.9 and 4.4.

    Attributes:
        z: [..., B, D].
        posteriors: of the B sentences, [B, D].
        others: [M, D].
        there: which of the others count for which sentence, [B, M].
        sentences: N.
    """

    z: Tensor
    posteriors: Normal
    others: Normal
    there: Tensor
    sentences: int

    @classmethod
    def of_recent(cls, forward: Forward, z: Tensor, recent: Recent) -> Self:
        """Of draws of a batch's posteriors, [..., B, D] or [..., B, n, d], among recent ones.

        Gradients pass through the draws alone: that of the parameters inside log q(z|x) and
        log q(z) is 0 in expectation (Roeder, Wu and Duvenaud 2017). So posteriors that are kept
        without a graph will do.
        """
        q = _flat(forward)
        posteriors = Normal(q.mean.detach(), q.stddev.detach(), validate_args=False)
        there = recent.others(forward)
        return cls(_flat_draws(z, forward), posteriors, recent.normals(), there, recent.sentences)

    @classmethod
    def of_batch(cls, forward: Forward, z: Tensor, sentences: int) -> Self:
        """The same among the batch alone, as published, with all gradients.

        Args:
            forward: of B sentences.
            z: draws of their posteriors.
            sentences: N of the aggregate; with B it is the mixture of the batch.
        """
        q, count = _flat(forward), len(forward.batch.lengths)
        there = ~torch.eye(count, dtype=torch.bool, device=q.mean.device)
        return cls(_flat_draws(z, forward), q, q, there, sentences)

    def information(self, first: int | None = None) -> Tensor:
        """log q(z|x) / q(z), of all of z or of its first dimensions, [..., B]; the mean is I."""
        own, others = self._own[..., :first].sum(-1), self._others[..., :first].sum(-1)
        return own - self._mixture(own, (others + self._log_share).logsumexp(-1))

    def log_marginals(self) -> Tensor:
        """log q(z_j) of each dimension, [..., B, D]."""
        others = (self._others + self._log_share[..., None]).logsumexp(-2)
        return self._mixture(self._own, others)

    def information_by_dimension(self) -> Tensor:
        """log q(z_j|x) / q(z_j), [..., B, D]; the means are the I_j."""
        return self._own - self.log_marginals()

    @cached_property
    def _own(self) -> Tensor:
        """log q(z_ij|x_i), [..., B, D]."""
        return log_normal(self.z, self.posteriors)

    @cached_property
    def _others(self) -> Tensor:
        """log q(z_ij|x_m), [..., B, M, D]."""
        return log_normal(self.z[..., None, :], self.others)

    @cached_property
    def _log_share(self) -> Tensor:
        """Log of what each of the others counts in q(z_i), [B, M]; `NEVER` where it does not."""
        count = self.there.sum(1, keepdim=True).clamp(min=1).to(self.z)
        rest = math.log1p(-1 / self.sentences) if self.sentences > 1 else NEVER
        return torch.where(self.there, rest - count.log(), NEVER)

    def _mixture(self, own: Tensor, others: Tensor) -> Tensor:
        return torch.logaddexp(own - math.log(self.sentences), others)


def log_normal(z: Tensor, normal: Normal) -> Tensor:
    """Log-density of each dimension of z, in nats; the two are broadcast."""
    # `Normal.log_prob` in two passes over what may be [B, M, D].
    off = torch.addcmul(-normal.mean / normal.stddev, z, 1 / normal.stddev)
    return torch.addcmul(-normal.stddev.log() - HALF_LOG_2_PI, off, off, value=-0.5)


def _flat(forward: Forward) -> Normal:
    q = as_normal(forward.q)
    return Normal(q.mean.flatten(1), q.stddev.flatten(1), validate_args=False)


def _flat_draws(z: Tensor, forward: Forward) -> Tensor:
    """z [..., B, D], whether it is a vector or a sequence."""
    return z.flatten(-len(forward.q.event_shape))
