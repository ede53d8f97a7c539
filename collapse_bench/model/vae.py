"""A text VAE as six slots, and everything that one pass through it computes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from collapse_bench.corpus import Batch
from collapse_bench.model.contract import (
    check_features,
    check_posterior,
    check_prior,
    check_tensor,
)
from collapse_bench.model.distributions import Noise, draw, rate, shape_of

INFERENCE = ("encoder", "pool", "head")
GENERATIVE = ("prior", "decoder", "readout")
SLOTS = (*INFERENCE, *GENERATIVE)


@dataclass(frozen=True)
class Dimensions:
    """What a remedy has to know to build a part that fits the model.

    Attributes:
        vocabulary: V, types with the special ones; 0 where there are values in place of words.
        embedding: E, width of a word's vector.
        hidden: H, width of encoder's and decoder's states.
        latent: D, dimensions of z, of a latent sequence all of them.
        layers, heads: of Transformers only.
        dropout: share of the decoder's inputs and outputs that is dropped in training.
        sentences: in the training split.
        longest: tokens of the longest sentence of the corpus, EOS counted.
        channels: Y, values of a step; 0 of words.
    """

    vocabulary: int
    embedding: int
    hidden: int
    latent: int
    layers: int
    heads: int
    dropout: float
    sentences: int
    longest: int
    channels: int = 0


@dataclass(frozen=True)
class Forward:
    """One pass of a batch through the model. Terms are nats per sentence.

    Attributes:
        model: the model that made it, with its further parts.
        step: training steps done before this one, inner updates of a remedy not counted.
        progress: share of the training budget that is spent, 0 to 1, counted from `run.begin()`
            to `run.end()`.
        batch: the B sentences.
        states: what the encoder said of every token, [B, T, H].
        features: what the head saw, [B, H] or [B, n, H].
        q: posterior, p: prior, z: the draw from q that was decoded.
        decoded: what the decoder said of every token, [B, T, H].
        distortion: -log p(x|z), [B].
        kl: the rate, unreduced, [B, K].
        extra: further terms of a remedy's objective by name, each [B].
    """

    model: "SequenceVAE"
    step: int
    progress: float
    batch: Batch
    states: Tensor
    features: Tensor
    q: Distribution
    z: Tensor
    p: Distribution
    decoded: Tensor
    distortion: Tensor
    kl: Tensor
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    def per_sentence(self) -> Tensor:
        """The objective of each sentence, [B]: distortion, rate and extra terms added up."""
        total = self.distortion + self.kl.sum(1)
        for term in self.extra.values():
            total = total + term
        return total

    def loss(self) -> Tensor:
        """The mean over sentences of per-sentence sums.

        A mean over tokens would rescale the weight of the rate by the sentence length.
        """
        return self.per_sentence().mean()


Objective = Callable[[Forward], Forward]


def plain(forward: Forward) -> Forward:
    """The negative ELBO: every term counts as it is."""
    return forward


def distortion_alone(forward: Forward) -> Forward:
    """The same with a rate of 0 and no further terms: what an autoencoder is trained on."""
    return replace(forward, kl=torch.zeros_like(forward.kl), extra={})


class SequenceVAE(nn.Module):
    """Six slots, and further parts that remedies bring along.

    - `encoder(batch, causal=False) -> states [B, T, H]`; with `causal`, state t has seen tokens
      0 to t only.
    - `pool(states, mask) -> features`, [B, H], or [B, n, H] for a latent sequence.
    - `head(features, energy) -> q`, a distribution over z, [B, D] or [B, n, D] with the same n
      for every sentence; `distributions` tells what a distribution has to offer.
    - `prior(q, batch) -> p`, a distribution over the same z.
    - `decoder(batch, z) -> states [B, T, H]`, z being [B, D], or [B, T, D] with one for each token.
    - `readout(states, batch) -> log p(x|z) [B]`, and `by_position`, [B, T].
    - `further[name]`: a part of the remedy of that name that fills no slot. If it decodes, then by
      its `decoder`, which is paid for as the slot's is.

    Attributes:
        owners: the remedy that installed what is in a slot; the others are the architecture's.
    """

    encoder: nn.Module
    pool: nn.Module
    head: nn.Module
    prior: nn.Module
    decoder: nn.Module
    readout: Any  # a module with a further method, by_position

    def __init__(
        self,
        dimensions: Dimensions,
        slots: Mapping[str, nn.Module],
        further: Mapping[str, nn.Module] | None = None,
        owners: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.dimensions = dimensions
        for slot in SLOTS:
            self.add_module(slot, slots[slot])
        self.further = nn.ModuleDict(dict(further or {}))
        self.owners = dict(owners or {})

    def with_parts(self, parts: Mapping[str, nn.Module], owner: str) -> "SequenceVAE":
        """A model that has these parts of a remedy and shares all the others.

        Args:
            parts: by slot, or under the remedy's own name, as `contract.check_parts` allows.
            owner: the remedy's name.
        """
        slots = {slot: parts.get(slot, getattr(self, slot)) for slot in SLOTS}
        further = dict(self.further) | {n: part for n, part in parts.items() if n == owner}
        owners = self.owners | {slot: owner for slot in SLOTS if slot in parts}
        # A head whose z is of another size says so, to the remedies after it.
        told = getattr(parts.get("head"), "latent", None)
        latent = told if isinstance(told, int) else self.dimensions.latent
        return SequenceVAE(replace(self.dimensions, latent=latent), slots, further, owners)

    def parameters_of(self, slots: tuple[str, ...]) -> list[nn.Parameter]:
        """The parameters of these slots, or of `further`.

        A weight that several share belongs to the first that holds it.
        """
        owner: dict[nn.Parameter, str] = {}
        for slot in (*SLOTS, "further"):
            for parameter in getattr(self, slot).parameters():
                owner.setdefault(parameter, slot)
        return [parameter for parameter, slot in owner.items() if slot in slots]

    @property
    def decoders(self) -> list[nn.Module]:
        """All that decodes: the decoder, and those of further parts."""
        further = (getattr(part, "decoder", None) for part in self.further.values())
        return [self.decoder, *(part for part in further if isinstance(part, nn.Module))]

    def log_likelihood(self, batch: Batch, z: Tensor) -> Tensor:
        """log p(x|z) in nats, [B]."""
        return self._read_out(self._states(batch, z), batch)

    def log_likelihood_by_position(self, batch: Batch, z: Tensor) -> Tensor:
        """log p(x_t | x_<t, z) in nats, [B, T], zero at padding."""
        nats = self.readout.by_position(self._states(batch, z), batch)
        return check_tensor(
            self._owner("readout"), "readout.by_position", nats, tuple(batch.mask.shape)
        )

    def _states(self, batch: Batch, z: Tensor) -> Tensor:
        states = self.decoder(batch, z)
        return check_tensor(self._owner("decoder"), "decoder", states, (*batch.mask.shape, "H"))

    def _read_out(self, decoded: Tensor, batch: Batch) -> Tensor:
        nats = self.readout(decoded, batch)
        return check_tensor(self._owner("readout"), "readout", nats, (len(batch.lengths),))

    def posterior(self, batch: Batch, noise: Noise) -> Distribution:
        """q(z|x) under the plain objective; `noise` serves a head that refines by sampling."""
        return self._infer(batch, noise, 0, 0.0, plain)[2]

    def forward(
        self,
        batch: Batch,
        noise: Noise,
        *,
        step: int = 0,
        progress: float = 0.0,
        objective: Objective = plain,
    ) -> Forward:
        """Encode, draw one z a sentence, decode, and apply the objective."""
        inferred = self._infer(batch, noise, step, progress, objective)
        return objective(self._decode(batch, *inferred, noise, step, progress))

    def _infer(
        self, batch: Batch, noise: Noise, step: int, progress: float, objective: Objective
    ) -> tuple[Tensor, Tensor, Distribution]:
        sentences, tokens = batch.mask.shape
        states = check_tensor(
            self._owner("encoder"), "encoder", self.encoder(batch), (sentences, tokens, "H")
        )
        features = check_features(self._owner("pool"), self.pool(states, batch.mask), sentences)

        def energy(q: Distribution) -> Tensor:
            pass_ = self._decode(batch, states, features, q, noise, step, progress)
            return objective(pass_).per_sentence()

        q = check_posterior(self._owner("head"), self.head(features, energy), sentences)
        return states, features, q

    def _decode(
        self,
        batch: Batch,
        states: Tensor,
        features: Tensor,
        q: Distribution,
        noise: Noise,
        step: int,
        progress: float,
    ) -> Forward:
        z = draw(q, noise(shape_of(q)))
        p = check_prior(self._owner("prior"), self.prior(q, batch), q)
        decoded = self._states(batch, z)
        distortion = -self._read_out(decoded, batch)
        kl = rate(q, p, z)
        return Forward(
            self, step, progress, batch, states, features, q, z, p, decoded, distortion, kl
        )

    def _owner(self, slot: str) -> str:
        return self.owners.get(slot, "the architecture")
