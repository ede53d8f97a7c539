"""delta-VAE (Razavi, van den Oord, Poole and Vinyals 2019, sections 2.2 to 2.4)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from scipy.optimize import brentq
from torch import nn

from collapse_bench.errors import UserError
from collapse_bench.model import GaussianHead, SequenceVAE
from collapse_bench.model.distributions.autoregressive import AutoregressivePrior, committed_rate
from collapse_bench.model.sequence import along_the_sentence
from collapse_bench.remedy import Remedy
from collapse_bench.settings import Above, AtLeast

MOST_CORRELATED = 1 - 1e-6


@dataclass(frozen=True)
class DeltaVae(Remedy):
    """A factorised posterior and an AR(1) prior that it cannot match: the rate has a floor.

    The latent becomes a sequence of `length` vectors with `latent / length` channels each, so that
    its size stays that of the suite. A vector is inferred from its first token and those after it
    (anti-causal encoder) and shown to the decoder from there on: it can only add what the past
    cannot tell. A remedy after it that puts z elsewhere, as `skip_vae` or `inverse_lipschitz`,
    shows all of it at once: put those first. The floor is kept by construction and says nothing of
    whether z is used.

    Positive case (`suites/positive.yaml`): NLL 8.02, R 1.86, beyond 0.75.

    Attributes:
        delta: the committed rate, nats per sentence. The default is 0.15 for each of 32 latent
            dimensions, as in public text settings; the paper's text figures are per token.
        length: vectors in the latent sequence.
        stride: tokens from one vector to the next. What comes after a sentence's end is paid for
            and never seen: `length` times `stride` should not be more than a sentence has.
    """

    by_construction: ClassVar[tuple[str, ...]] = ("kl", "marginal_kl", "moment_kl", "dimension_kl")

    small: ClassVar[Mapping[str, Any]] = {"length": 4, "stride": 3, "delta": 1.5}
    # On `hard` seeds disagree: two of five keep the rate and use none of it.
    signature: ClassVar[Mapping[str, str]] = {"nothing": "rate without use", "easy": "use"}

    delta: Annotated[float, Above(0)] = 4.8
    length: Annotated[int, AtLeast(2)] = 8
    stride: Annotated[int, AtLeast(1)] = 4

    def build(self, model: SequenceVAE) -> Mapping[str, nn.Module]:
        """Another pool, head and prior, and wrappers around encoder and decoder."""
        channels, rest = divmod(model.dimensions.latent, self.length)
        if rest or not channels:
            raise UserError(
                f"delta_vae: length must divide the latent size, got length = {self.length} and "
                f"latent = {model.dimensions.latent}; change one of them"
            )
        most = channels * committed_rate(MOST_CORRELATED, self.length)
        if self.delta >= most:
            raise UserError(
                f"delta_vae: delta must be below {most:.1f} for {self.length} vectors of "
                f"{channels} channels, got {self.delta}; lower it, or raise length or latent"
            )
        a = brentq(
            lambda a: channels * committed_rate(a, self.length) - self.delta, 0, MOST_CORRELATED
        )
        return {
            **along_the_sentence(model, self.length, self.stride),
            "head": GaussianHead(model.dimensions.hidden, channels),
            "prior": AutoregressivePrior(a),
        }
