"""A text VAE as five slots, and everything that one pass through it computes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.distributions import Distribution

from collapse_bench.corpus import Batch
from collapse_bench.model.distributions import Noise, draw, rate, shape_of
from collapse_bench.model.readout import Readout

INFERENCE = ("encoder", "pool", "head")
GENERATIVE = ("prior", "decoder")
SLOTS = (*INFERENCE, *GENERATIVE)


@dataclass(frozen=True)
class Dimensions:
    """What a remedy has to know to build a part that fits the model.

    `layers` and `heads` matter to Transformers only; `dropout` acts on the decoder's inputs and
    outputs, in training.
    """

    vocabulary: int
    embedding: int
    hidden: int
    latent: int
    layers: int
    heads: int
    dropout: float


@dataclass(frozen=True)
class Forward:
    """One pass of a batch through the model. Terms are nats per sentence.

    Attributes:
        step: training steps done before this one, inner updates of a remedy not counted.
        progress: share of the training budget that is spent, 0 to 1.
        batch: the B sentences.
        features: what the head saw, [B, H] or [B, n, H].
        q: posterior, p: prior, z: the draw from q that was decoded.
        distortion: -log p(x|z), [B].
        kl: the rate, unreduced, [B, K].
        extra: further terms of a remedy's objective by name, each [B].
    """

    step: int
    progress: float
    batch: Batch
    features: Tensor
    q: Distribution
    z: Tensor
    p: Distribution
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


class SequenceVAE(nn.Module):
    """Five slots and a readout.

    - `encoder(batch, causal=False) -> states [B, T, H]`; with `causal`, state t has seen tokens
      0 to t only.
    - `pool(states, mask) -> features`, [B, H], or [B, n, H] for a latent sequence.
    - `head(features, energy) -> q`, a distribution over z, [B, D] or [B, n, D] with the same n
      for every sentence; `latent.draw` tells which distributions can be drawn from.
    - `prior(q, batch) -> p`, a distribution over the same z.
    - `decoder(batch, z) -> states [B, T, H]`, z being [B, D], or [B, T, D] with one for each token.
    - `readout(states, batch) -> log p(x|z) [B]`, and `by_position`, [B, T].
    """

    def __init__(
        self,
        dimensions: Dimensions,
        *,
        encoder: nn.Module,
        pool: nn.Module,
        head: nn.Module,
        prior: nn.Module,
        decoder: nn.Module,
        readout: Readout,
    ) -> None:
        super().__init__()
        self.dimensions = dimensions
        self.encoder = encoder
        self.pool = pool
        self.head = head
        self.prior = prior
        self.decoder = decoder
        self.readout = readout

    def with_parts(self, parts: Mapping[str, nn.Module]) -> "SequenceVAE":
        """A model that has these parts in the slots named and shares all the others."""
        slots = {slot: parts.get(slot, getattr(self, slot)) for slot in SLOTS}
        return SequenceVAE(self.dimensions, **slots, readout=self.readout)

    def modules_of(self, slots: tuple[str, ...]) -> list[nn.Module]:
        """What fills these slots; the readout belongs to the decoder."""
        modules = [getattr(self, slot) for slot in slots]
        return [*modules, self.readout] if "decoder" in slots else modules

    def parameters_of(self, slots: tuple[str, ...]) -> list[nn.Parameter]:
        """The parameters of these slots."""
        return [p for module in self.modules_of(slots) for p in module.parameters()]

    def log_likelihood(self, batch: Batch, z: Tensor) -> Tensor:
        """log p(x|z) in nats, [B]."""
        log_likelihood: Tensor = self.readout(self.decoder(batch, z), batch)
        return log_likelihood

    def log_likelihood_by_position(self, batch: Batch, z: Tensor) -> Tensor:
        """log p(x_t | x_<t, z) in nats, [B, T], zero at padding."""
        nats: Tensor = self.readout.by_position(self.decoder(batch, z), batch)
        return nats

    def posterior(self, batch: Batch, noise: Noise) -> Distribution:
        """q(z|x) under the plain objective; `noise` serves a head that refines by sampling."""
        return self._infer(batch, noise, 0, 0.0, plain)[1]

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
        features, q = self._infer(batch, noise, step, progress, objective)
        return objective(self._decode(batch, features, q, noise, step, progress))

    def _infer(
        self, batch: Batch, noise: Noise, step: int, progress: float, objective: Objective
    ) -> tuple[Tensor, Distribution]:
        features = self.pool(self.encoder(batch), batch.mask)

        def energy(q: Distribution) -> Tensor:
            return objective(self._decode(batch, features, q, noise, step, progress)).per_sentence()

        return features, self.head(features, energy)

    def _decode(
        self,
        batch: Batch,
        features: Tensor,
        q: Distribution,
        noise: Noise,
        step: int,
        progress: float,
    ) -> Forward:
        z = draw(q, noise(shape_of(q)))
        p = self.prior(q, batch)
        distortion = -self.log_likelihood(batch, z)
        return Forward(step, progress, batch, features, q, z, p, distortion, rate(q, p, z))
