"""Strings whose length is one bit, and which hold a global bit in every word: what is trivial?

A string is short or long, and all its words are of one of two kinds; which word of its kind is
local noise. Both bits are fair coins. z has a dimension for each: of the length a latent gains what
anybody can see without reading, of the kind what is in every word and in no length.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.special import ndtr

from collapse_bench.metrics.active_units import THRESHOLD
from collapse_bench.model import diagonal_normal
from collapse_bench.truth.line import aggregate_posterior, kl_from_standard_normal, standard_normal

PADDING = -1
"""Past the end of a string."""


@dataclass(frozen=True)
class BitChannel:
    """A bit in one dimension of z, whose sign is the bit.

    Attributes:
        mean: of the posterior where the bit is 1, and less that where it is 0; at 0 z tells
            nothing of it.
        scale: of the posterior, positive.
        error: probability that the decoder takes z's sign wrongly, between 0 and 1; at 1/2 it does
            not read it.

    Raises:
        ValueError: a number is not as described.
    """

    mean: float
    scale: float
    error: float

    def __post_init__(self) -> None:
        if not (0 < self.error < 1 and self.scale > 0):
            raise ValueError("error: must be between 0 and 1; scale: must be positive")

    def log_likelihood(self, bit: Tensor, z: Tensor) -> Tensor:
        """log p(bit|z), [B] and [B] to [B]."""
        return self._log_right_and_wrong[((bit == 1) != (z >= 0)).long()]

    def nll(self, times: int) -> float:
        """-log of the evidence of a fair bit that is told so many times, always the same."""
        return -float(torch.logaddexp(*(times * self._log_right_and_wrong)) - math.log(2))

    def distortion(self, wrongly: float | None = None) -> float:
        """-E log p(bit|z) where z has the other sign with this probability, or the posterior's."""
        share = self.other_sign if wrongly is None else wrongly
        return -(1 - share) * math.log(1 - self.error) - share * math.log(self.error)

    @property
    def other_sign(self) -> float:
        """Probability that a draw from the posterior has the sign of the other bit."""
        return float(ndtr(torch.tensor(-self.mean / self.scale, dtype=torch.float64)))

    @property
    def rate(self) -> float:
        """KL of the posterior from N(0, 1), the same for both bits."""
        numbers = torch.tensor([self.mean, self.scale], dtype=torch.float64)
        return float(kl_from_standard_normal(*numbers))

    @property
    def information(self) -> float:
        """I_q(bit; z) of a fair bit, by quadrature."""
        mean = torch.tensor([-self.mean, self.mean], dtype=torch.float64)
        half, scale = torch.full_like(mean, 0.5), torch.full_like(mean, self.scale)
        return aggregate_posterior(half, mean, scale).mutual_information

    @property
    def _log_right_and_wrong(self) -> Tensor:
        return torch.tensor([1 - self.error, self.error], dtype=torch.float64).log()


@dataclass(frozen=True, eq=False)
class LengthStrings:
    """A `LatentModel` of these strings, with z = (of the length, of the kind).

    Sentences are words [B, long], int64, `PADDING` past the end; a word is kind * noise + its
    number among those of its kind. They are those of `draw`, in which all words are of one kind.
    The decoder sees no word of the past; the last position of a string also holds log p(length|z).

    Attributes:
        short: words of a short string, at least 1.
        long: words of a long one, more than that.
        noise: W, words of a kind, at least 1.
        length: the channel of the length, 1 being long.
        kind: the channel of the kind.

    Raises:
        ValueError: a number is not as described.
    """

    short: int
    long: int
    noise: int
    length: BitChannel
    kind: BitChannel

    def __post_init__(self) -> None:
        if not (1 <= self.short < self.long and self.noise >= 1):
            raise ValueError("short: must be from 1 to below long; noise: must be at least 1")

    def lengths(self, sentences: Tensor) -> Tensor:
        """Words of each string, [B, long] to [B]."""
        return (sentences != PADDING).sum(1)

    def posterior(self, sentences: Tensor) -> Distribution:
        """q(z|x), [B, 2]."""
        signs = 2.0 * torch.stack([self._is_long(sentences), self._kind(sentences)], 1).double() - 1
        means, scales = (
            torch.tensor([getattr(c, name) for c in (self.length, self.kind)], dtype=torch.float64)
            for name in ("mean", "scale")
        )
        return diagonal_normal(means * signs, scales.expand(signs.shape))

    def prior(self, sentences: Tensor) -> Distribution:
        """N(0, I), [B, 2]."""
        return standard_normal(len(sentences), 2)

    def log_likelihood(self, sentences: Tensor, z: Tensor) -> Tensor:
        """log p(x_t|z), [B, long] and [B, 2] to [B, long]; zero past the end."""
        words, lengths = sentences != PADDING, self.lengths(sentences)
        of_word = self.kind.log_likelihood(self._kind(sentences), z[:, 1]) - math.log(self.noise)
        nats = torch.where(words, of_word[:, None], 0.0)
        nats[torch.arange(len(nats)), lengths - 1] += self.length.log_likelihood(
            self._is_long(sentences), z[:, 0]
        )
        return nats

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Strings whose words are all of one kind, [n, long]."""
        is_long, kind = torch.randint(2, (2, n, 1), generator=generator)
        words = kind * self.noise + torch.randint(self.noise, (n, self.long), generator=generator)
        ends = torch.where(is_long == 1, self.long, self.short)
        return torch.where(torch.arange(self.long) < ends, words, PADDING)

    def exact_nll(self, sentences: Tensor) -> Tensor:
        """-log p(x) of strings of `draw`, [N, long] to [N]."""
        by_length = {words: self._nll(words) for words in (self.short, self.long)}
        nats = [by_length[words] for words in self.lengths(sentences).tolist()]
        return torch.tensor(nats, dtype=torch.float64)

    def exact_distortion(self, sentences: Tensor) -> Tensor:
        """-E_q log p(x|z) of strings of `draw`, [N, long] to [N]."""
        return self.length.distortion() + self.lengths(sentences).double() * (
            math.log(self.noise) + self.kind.distortion()
        )

    def exact(self) -> dict[str, float]:
        """Population values under x of `draw`, in nats; I by quadrature over one dimension.

        The two bits are independent, and so are the dimensions of q(z): I is the sum of both, and
        given the length it is that of the kind. Another sentence of the same length has the same z
        for the length and any for the kind; one of any length any for both.
        """
        words = (self.short + self.long) / 2
        nll = (self._nll(self.short) + self._nll(self.long)) / 2
        distortion = self.length.distortion() + words * (
            math.log(self.noise) + self.kind.distortion()
        )
        kl = self.length.rate + self.kind.rate
        trivial, beyond = self.length.information, self.kind.information
        gap = words * (self.kind.distortion(0.5) - self.kind.distortion())
        channels = (self.length, self.kind)
        return {
            "nll": nll,
            "distortion": distortion,
            "kl": kl,
            "negative_elbo": distortion + kl,
            "mutual_information": trivial + beyond,
            "marginal_kl": kl - trivial - beyond,
            "total_correlation": 0.0,
            "dimension_kl": kl - trivial - beyond,
            "useful_rate": nll - distortion,
            "length_entropy": math.log(2),
            "information_given_length": beyond,
            "information_beyond": beyond,
            "trivial_information": trivial,
            "useful_beyond": min(nll - distortion, gap, beyond),
            "shuffle_gap": gap,
            "shuffle_gap_any": gap + self.length.distortion(0.5) - self.length.distortion(),
            "active_units": float(sum(channel.mean**2 > THRESHOLD for channel in channels)),
        }

    def _nll(self, words: int) -> float:
        return self.length.nll(1) + words * math.log(self.noise) + self.kind.nll(words)

    def _is_long(self, sentences: Tensor) -> Tensor:
        return (sentences[:, -1] != PADDING).long()

    def _kind(self, sentences: Tensor) -> Tensor:
        return sentences[:, 0] // self.noise
