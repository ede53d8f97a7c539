"""Models that a metric must not be fooled by, and two that it must believe.

Every control is a real model over real sentences with the interface of `LatentModel`; in all but
the last four the decoder is a first-order Markov chain that never looks at z, so what it knows is
its chain and what it uses of z is nothing, by construction. Float64.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from scipy.optimize import brentq
from torch import Tensor
from torch.distributions import Distribution

from collapse_bench.model import diagonal_normal
from collapse_bench.model.distributions.autoregressive import AutoregressiveNormal, committed_rate
from collapse_bench.truth.linear import linear_vae

LATENT = 32
WORDS, TOKENS = 12, 8
LONGEST = 24
"""Words of the longest sentence where lengths differ."""

GAMMA = 0.7
"""Scale of the batch-normalised means, as in the settings of Zhu et al. 2020."""


@dataclass(frozen=True)
class Control:
    """A model whose verdict is known.

    Attributes:
        name: what it is.
        model: a `LatentModel`.
        sentences: what it is scored on, one row a sentence.
        lengths: tokens of each.
        verdict: a key of `metrics.VERDICTS`.
        fooled: the metrics among KL, MI and AU that alone would call it alive.
    """

    name: str
    model: Any
    sentences: Tensor
    lengths: Tensor
    verdict: str
    fooled: tuple[str, ...] = ()


@dataclass(frozen=True)
class MarkovDecoder:
    """log p(x_t | x_{t-1}) whatever z is.

    Attributes:
        first: [V] log-probabilities of the first word.
        next: [V, V] those of a word after another.
    """

    first: Tensor
    next: Tensor

    def __call__(self, sentences: Tensor, z: Tensor) -> Tensor:
        """Sentences [B, T] to nats by position [B, T]."""
        return torch.cat(
            [self.first[sentences[:, :1]], self.next[sentences[:, :-1], sentences[:, 1:]]], dim=1
        )

    def draw(self, n: int, generator: torch.Generator, length: int = TOKENS) -> Tensor:
        """n sentences of so many words."""
        words = [torch.multinomial(self.first.exp(), n, replacement=True, generator=generator)]
        for _ in range(length - 1):
            words.append(
                torch.multinomial(self.next[words[-1]].exp(), 1, generator=generator)[:, 0]
            )
        return torch.stack(words, dim=1)


@dataclass(frozen=True)
class TopicDecoder:
    """log softmax(chain + z W): every word depends on z and on its left neighbour."""

    chain: MarkovDecoder
    topics: Tensor

    def __call__(self, sentences: Tensor, z: Tensor) -> Tensor:
        """Sentences [B, T] and z [B, D] to nats by position [B, T]."""
        shift = z @ self.topics
        history = torch.cat(
            [self.chain.first.expand(len(z), 1, -1), self.chain.next[sentences[:, :-1]]], dim=1
        )
        nats = (history + shift[:, None]).log_softmax(-1)
        return nats.gather(2, sentences[:, :, None])[:, :, 0]

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """n sentences of `TOKENS` words, each with a z of its own from the prior."""
        z = torch.randn(n, len(self.topics), generator=generator, dtype=torch.float64)
        shift = z @ self.topics
        words: list[Tensor] = []
        for _ in range(TOKENS):
            history = self.chain.next[words[-1]] if words else self.chain.first.expand(n, -1)
            chance = (history + shift).softmax(-1)
            words.append(torch.multinomial(chance, 1, generator=generator)[:, 0])
        return torch.stack(words, dim=1)


@dataclass(frozen=True)
class LengthDecoder:
    """A Markov chain over the words, and a length that z tells: it is nearest to its own place.

    Attributes:
        chain: of the words, whatever z is.
        places: [L] where in z each length from 1 to L is.
        width: of a length around its place.
    """

    chain: MarkovDecoder
    places: Tensor
    width: float

    def encoder(self, sentences: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and scale of z, [B, 1]: the length's place, `width` around it."""
        mean = self.places[self.lengths(sentences) - 1][:, None]
        return mean, torch.full_like(mean, self.width)

    def lengths(self, sentences: Tensor) -> Tensor:
        """Words of each sentence, which are padded by -1, [B, L] to [B]."""
        return (sentences >= 0).sum(1)

    def __call__(self, sentences: Tensor, z: Tensor) -> Tensor:
        """Sentences [B, L] and z [B, 1] to nats by position [B, L]; the length's are at the end."""
        lengths = self.lengths(sentences)
        nats = torch.where(sentences >= 0, self.chain(sentences.clamp(min=0), z), 0.0)
        of_length = (-0.5 * ((z - self.places) / self.width) ** 2).log_softmax(1)
        at = torch.nn.functional.one_hot(lengths - 1, len(self.places))
        return nats + at[:, : nats.shape[1]] * of_length

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """n sentences of 1 to L words, every length as likely, [n, L]."""
        words = self.chain.draw(n, generator, len(self.places))
        ends = torch.randint(1, len(self.places) + 1, (n, 1), generator=generator)
        return torch.where(torch.arange(words.shape[1]) < ends, words, -1)


@dataclass(frozen=True)
class Composed:
    """A model of an encoder's tables and any decoder.

    Attributes:
        decoder: sentences and z to nats.
        encoder: sentences to mean and scale, each of z's shape.
        correlation: of the AR(1) prior over a latent sequence; 0 is N(0, I).
    """

    decoder: Any
    encoder: Any
    correlation: float = 0.0

    def posterior(self, sentences: Tensor) -> Distribution:
        """q(z|x)."""
        return diagonal_normal(*self.encoder(sentences))

    def prior(self, sentences: Tensor) -> Distribution:
        """p(z)."""
        mean, _ = self.encoder(sentences)
        if self.correlation:
            return AutoregressiveNormal(mean.shape, self.correlation)
        return diagonal_normal(torch.zeros_like(mean), torch.ones_like(mean))

    def log_likelihood(self, sentences: Tensor, z: Tensor) -> Tensor:
        """log p(x|z) by position, nats."""
        nats: Tensor = self.decoder(sentences, z)
        return nats


def constant(mean: Tensor, scale: Tensor) -> Any:
    """An encoder that says the same of every sentence."""

    def encoder(sentences: Tensor) -> tuple[Tensor, Tensor]:
        shape = (len(sentences), *mean.shape)
        return mean.expand(shape), scale.expand(shape)

    return encoder


def hash_encoder(sentences: Tensor) -> Any:
    """Arbitrary means that differ from sentence to sentence, normalised over these sentences.

    Each word at each place has a random vector; a random nonlinear map of their sum is as good as
    a hash. Batch normalisation with its scale frozen at `GAMMA` (Zhu et al. 2020).
    """
    generator = torch.Generator().manual_seed(5)
    vectors = torch.randn(TOKENS, WORDS, 64, generator=generator, dtype=torch.float64)
    mix = torch.randn(64, LATENT, generator=generator, dtype=torch.float64)

    def raw(rows: Tensor) -> Tensor:
        return (3 * vectors[torch.arange(TOKENS), rows].sum(1)).sin() @ mix

    everything = raw(sentences)
    mean, scale = everything.mean(0), everything.std(0)

    def encoder(rows: Tensor) -> tuple[Tensor, Tensor]:
        means = GAMMA * (raw(rows) - mean) / scale
        return means, torch.ones_like(means)

    return encoder


def controls(n: int, seed: int = 0) -> list[Control]:
    """All controls, each on n sentences.

    Args:
        n: N; some hundreds at least, since mutual information cannot exceed log N.
        seed: of the sentences.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    chain = MarkovDecoder(normal(WORDS).log_softmax(0), (1.5 * normal(WORDS, WORDS)).log_softmax(1))
    text = chain.draw(n, generator)
    lengths = torch.full((n,), TOKENS)
    zero, one = (torch.full((LATENT,), value, dtype=torch.float64) for value in (0.0, 1.0))

    delta, steps = 4.8, 8
    channels = LATENT // steps
    a = brentq(lambda a: channels * committed_rate(a, steps) - delta, 0, 1 - 1e-6)
    floor = torch.full((steps, channels), (1 - a * a) / (1 + a * a), dtype=torch.float64)
    floor[0] = floor[-1] = 1 - a * a

    topic = TopicDecoder(chain, 1.5 * normal(2, WORDS))
    topical = topic.draw(n, generator)
    at_prior = constant(zero[:2], one[:2])

    quantiles = (torch.arange(LONGEST, dtype=torch.float64) + 0.5) / LONGEST
    counting = LengthDecoder(chain, torch.special.ndtri(quantiles), width=0.1)
    counted = counting.draw(n, torch.Generator().manual_seed(seed))

    optimum = linear_vae(torch.tensor([9.0, 6.0, 4.0, 1.0, 1.0, 1.0], dtype=torch.float64), 3)
    drawn = optimum.draw(n, generator)
    ones = torch.ones(n, dtype=torch.int64)
    # Without a price on the rate nothing keeps codes near the prior or makes them wide.
    autoencoder = optimum.autoencoder(spread=20.0, width=0.05)

    blind = {
        "collapsed VAE": (constant(zero, one), 0.0, "collapsed", ()),
        "constant-shift posterior": (
            constant(one * math.sqrt(0.5), one), 0.0, "rate without use", ("KL",),
        ),
        "delta-VAE at its floor": (
            constant(0 * floor, floor.sqrt()), a, "rate without use", ("KL",),
        ),
        "hash encoder under batch normalisation": (
            hash_encoder(text), 0.0, "rate without use", ("KL", "MI", "AU"),
        ),
    }  # fmt: skip
    return [
        *(
            Control(name, Composed(chain, encoder, correlation), text, lengths, verdict, fooled)
            for name, (encoder, correlation, verdict, fooled) in blind.items()
        ),
        Control(
            "encoder at the prior, decoder uses z",
            Composed(topic, at_prior),
            topical,
            lengths,
            "inference collapse",
        ),
        Control(
            "z is the length",
            Composed(counting, counting.encoder),
            counted,
            counting.lengths(counted),
            "trivial use",
        ),
        Control("autoencoder, beta = 0", autoencoder, drawn, ones, "prior holes"),
        Control("linear VAE at its optimum", optimum, drawn, ones, "healthy"),
    ]
