"""Strings of global bits repeated amid local noise: does a decoder need the latent for the repeats?

A string is M times G bits followed by noise: the bits are fair coins, the same in every repeat, and
the noise is a Markov chain that begins anew each time. A decoder that sees fewer words than lie
between two repeats pays G log 2 nats for every repeat, or once for the bits in z; one that sees
more copies them and needs no z (information preference, Chen et al. 2017).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.special import entr, ndtr

from collapse_bench.metrics.active_units import THRESHOLD
from collapse_bench.model import diagonal_normal
from collapse_bench.truth.line import aggregate_posterior, kl_from_standard_normal, standard_normal
from collapse_bench.truth.strings import check_probabilities


@dataclass(frozen=True, eq=False)
class CopyStrings:
    """A `LatentModel` of these strings; z has a dimension a bit, and its sign is the bit.

    Sentences are words [B, T], int64, T = M (G + gap): 0 and 1 are bits, 2 and above noise. They
    are those of `draw`, in which the bits of all repeats agree. The posterior of a bit is
    N(+-mean, scale^2), its sign that of the bit.

    Attributes:
        bits: G, at least 1.
        repeats: M, at least 1.
        gap: words of noise after the bits, at least 1.
        noise: p(next noise word | noise word), [W, W]; the first of a gap is any of the W.
        window: words that the decoder sees, at least 1.
        reads: whether the decoder looks at z for a bit that it does not see; else 0 and 1 are equal
            to it.
        error: probability that it takes a bit of z wrongly, between 0 and 1, neither of them: a
            normal posterior has a tail beyond 0.
        mean: of the posterior of a bit that is 1.
        scale: of the posterior, positive.

    Raises:
        ValueError: a number is not as described.
    """

    bits: int
    repeats: int
    gap: int
    noise: Tensor
    window: int
    reads: bool
    error: float
    mean: float
    scale: float

    def __post_init__(self) -> None:
        if min(self.bits, self.repeats, self.gap, self.window) < 1:
            raise ValueError("bits, repeats, gap and window: must be at least 1")
        if not (0 < self.error < 1 and self.scale > 0):
            raise ValueError("error: must be between 0 and 1; scale: must be positive")
        if self.noise.dim() != 2 or self.noise.shape[0] != self.noise.shape[1]:
            raise ValueError("noise: must be [W, W]")
        check_probabilities("noise", self.noise, positive=False)

    @property
    def distance(self) -> int:
        """From a bit to its next repeat, in words."""
        return self.bits + self.gap

    @property
    def copies(self) -> bool:
        """Whether the decoder sees the repeat before."""
        return self.window >= self.distance

    @property
    def bits_without_latent(self) -> float:
        """Nats that the bits of a string cost a decoder without z: M G log 2, or G log 2."""
        return self._unseen * self.bits * math.log(2)

    @property
    def needed_rate(self) -> float:
        """Rate at the least D + R of a decoder of this window, in nats: G log 2, or 0.

        D + R >= H(x), which holds G log 2 for the bits; D without z is above it by
        `bits_without_latent` - G log 2. Where that is 0 any rate up to G log 2 gives the same
        D + R, and so the least that is needed is 0.
        """
        return self.bits * math.log(2) if self._unseen > 1 else 0.0

    @property
    def _unseen(self) -> int:
        """Repeats whose bits the decoder cannot copy."""
        return 1 if self.copies else self.repeats

    def posterior(self, sentences: Tensor) -> Distribution:
        """q(z|x) by the bits of the first repeat, [B, G]."""
        mean = self.mean * (2.0 * sentences[:, : self.bits].double() - 1)
        return diagonal_normal(mean, torch.full_like(mean, self.scale))

    def prior(self, sentences: Tensor) -> Distribution:
        """N(0, I), [B, G]."""
        return standard_normal(len(sentences), self.bits)

    def log_likelihood(self, sentences: Tensor, z: Tensor) -> Tensor:
        """log p(x_t | the window, z), [B, T] and [B, G] to [B, T]; -inf where a copied bit is not
        the one before."""
        bits, noise = self._parts(sentences)
        if self.reads:
            right, wrong = self._log_right_and_wrong
            of_bits = torch.where((bits == 1) == (z >= 0)[:, None], right, wrong)
        else:
            of_bits = torch.full(bits.shape, -math.log(2), dtype=torch.float64)
        if self.copies:
            of_bits[:, 1:] = (bits[:, 1:] == bits[:, :-1]).double().log()
        return torch.cat([of_bits, self._of_noise(noise)], 2).flatten(1)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Strings in which the bits of all repeats agree, [n, T]."""
        bits = torch.randint(2, (n, 1, self.bits), generator=generator)
        words = len(self.noise)
        noise = [torch.randint(words, (n * self.repeats,), generator=generator)]
        for _ in range(1, self.gap):
            noise.append(torch.multinomial(self.noise[noise[-1]], 1, generator=generator)[:, 0])
        gaps = 2 + torch.stack(noise, 1).reshape(n, self.repeats, self.gap)
        return torch.cat([bits.expand(-1, self.repeats, -1), gaps], 2).flatten(1)

    def exact_nll(self, sentences: Tensor) -> Tensor:
        """-log p(x) of strings of `draw`, [N, T] to [N].

        A bit that is read m times, always the same, has the evidence (1 - e)^m / 2 + e^m / 2: of
        one reading 1/2, just as without z.
        """
        return self._noise_nll(sentences) + self._nats_of_bits()

    def exact_distortion(self, sentences: Tensor) -> Tensor:
        """-E_q log p(x|z) of strings of `draw`, [N, T] to [N]."""
        return self._noise_nll(sentences) + self._distortion_of_bits(self._taken_wrongly())

    def exact(self) -> dict[str, float]:
        """Population values under x of `draw`, in nats; I by quadrature over one dimension.

        `entropy` is that of the strings, which no NLL is below. Bits are independent and so are the
        dimensions of q(z): I and the marginal KL are G times those of one.
        """
        noise = self._noise_entropy()
        nll = noise + self._nats_of_bits()
        distortion = noise + self._distortion_of_bits(self._taken_wrongly())
        shuffled = noise + self._distortion_of_bits(0.5)
        mean = torch.tensor([-self.mean, self.mean], dtype=torch.float64)
        scale = torch.full_like(mean, self.scale)
        kl = self.bits * float(kl_from_standard_normal(mean, scale)[0])
        half = torch.full_like(mean, 0.5)
        one = aggregate_posterior(half, mean, scale)
        return {
            "nll": nll,
            "distortion": distortion,
            "kl": kl,
            "negative_elbo": distortion + kl,
            "mutual_information": self.bits * one.mutual_information,
            "marginal_kl": self.bits * one.marginal_kl,
            "total_correlation": 0.0,
            "dimension_kl": self.bits * one.marginal_kl,
            "useful_rate": nll - distortion,
            "entropy": noise + self.bits * math.log(2),
            "shuffle_gap": shuffled - distortion,
            "active_units": float(self.bits if self.mean**2 > THRESHOLD else 0),
        }

    def _parts(self, sentences: Tensor) -> tuple[Tensor, Tensor]:
        """Bits [N, M, G], and noise words from 0 on [N, M, gap]."""
        repeats = sentences.reshape(len(sentences), self.repeats, self.distance)
        return repeats[:, :, : self.bits], repeats[:, :, self.bits :] - 2

    def _of_noise(self, noise: Tensor) -> Tensor:
        """log p of each noise word, [N, M, gap]."""
        first = torch.full(noise[:, :, :1].shape, -math.log(len(self.noise)), dtype=torch.float64)
        return torch.cat([first, self.noise.log()[noise[:, :, :-1], noise[:, :, 1:]]], 2)

    def _noise_nll(self, sentences: Tensor) -> Tensor:
        return -self._of_noise(self._parts(sentences)[1]).sum((1, 2))

    def _noise_entropy(self) -> float:
        p = torch.full((len(self.noise),), 1 / len(self.noise), dtype=torch.float64)
        total = math.log(len(self.noise))
        for _ in range(1, self.gap):
            total += float(p @ entr(self.noise).sum(1))
            p = p @ self.noise
        return self.repeats * total

    @property
    def _log_right_and_wrong(self) -> Tensor:
        """log p of a bit that is read from a z of its sign, and of the other."""
        return torch.tensor([1 - self.error, self.error], dtype=torch.float64).log()

    def _nats_of_bits(self) -> float:
        """-log of the evidence of G bits."""
        if not self.reads:
            return self.bits_without_latent
        log_evidence = (self._unseen * self._log_right_and_wrong).logsumexp(0) - math.log(2)
        return -self.bits * float(log_evidence)

    def _taken_wrongly(self) -> float:
        """Probability that a draw of the posterior has the other sign."""
        return float(ndtr(torch.tensor(-self.mean / self.scale, dtype=torch.float64)))

    def _distortion_of_bits(self, wrongly: float) -> float:
        """Nats of G bits where z has the other sign with this probability."""
        if not self.reads:
            return self.bits_without_latent
        right, wrong = self._log_right_and_wrong.tolist()
        return -self._unseen * self.bits * float((1 - wrongly) * right + wrongly * wrong)
