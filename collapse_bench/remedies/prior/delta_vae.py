"""delta-VAE (Razavi, van den Oord, Poole and Vinyals 2019, sections 2.2 to 2.4)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from scipy.optimize import brentq
from torch import Tensor, nn

from collapse_bench.corpus import Batch
from collapse_bench.errors import UserError
from collapse_bench.model import GaussianHead, SequenceVAE
from collapse_bench.model.anticausal import AntiCausalEncoder
from collapse_bench.model.distributions.autoregressive import AutoregressivePrior, committed_rate
from collapse_bench.remedy import Remedy
from collapse_bench.settings import Above, AtLeast

MOST_CORRELATED = 1 - 1e-6


class StridedStates(nn.Module):
    """Pool: the states at every `stride`-th token; zero where the sentence is over."""

    def __init__(self, length: int, stride: int) -> None:
        super().__init__()
        self.length, self.stride = length, stride

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """States [B, T, H] and mask [B, T] to features [B, n, H]."""
        first = self.stride * torch.arange(self.length, device=mask.device)
        exists = first < mask.sum(1, keepdim=True)  # [B, n]
        return states[:, first.clamp(max=mask.shape[1] - 1)] * exists[:, :, None]


class GradualDecoder(nn.Module):
    """Shows the decoder z_1 to z_k from token k * stride on; what is not yet shown is zero."""

    def __init__(self, decoder: nn.Module, stride: int) -> None:
        super().__init__()
        self.decoder, self.stride = decoder, stride

    def forward(self, batch: Batch, z: Tensor) -> Tensor:
        """States [B, T, H] for z [B, n, d]."""
        token = torch.arange(batch.inputs.shape[1], device=z.device)[:, None]
        shown = self.stride * torch.arange(z.shape[1], device=z.device) <= token  # [T, n]
        gradual = z[:, None] * shown[None, :, :, None]  # [B, T, n, d]
        states: Tensor = self.decoder(batch, gradual.flatten(2))
        return states


@dataclass(frozen=True)
class DeltaVae(Remedy):
    """A factorised posterior and an AR(1) prior that it cannot match: the rate has a floor.

    The latent becomes a sequence of `length` vectors with `latent / length` channels each, so that
    its size stays that of the suite. A vector is inferred from the tokens after its first one
    (anti-causal encoder) and shown to the decoder from there on: it can only add what the past
    cannot tell. The floor is kept by construction and says nothing of whether z is used.

    Attributes:
        delta: the committed rate, nats per sentence. The default is 0.15 for each of 32 latent
            dimensions, as in public text settings; the paper's text figures are per token.
        length: vectors in the latent sequence.
        stride: tokens from one vector to the next.
    """

    by_construction: ClassVar[tuple[str, ...]] = ("kl", "marginal_kl", "moment_kl", "dimension_kl")

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
            "encoder": AntiCausalEncoder(model.encoder),
            "pool": StridedStates(self.length, self.stride),
            "head": GaussianHead(model.dimensions.hidden, channels),
            "prior": AutoregressivePrior(a),
            "decoder": GradualDecoder(model.decoder, self.stride),
        }
