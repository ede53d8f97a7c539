"""A latent sequence: where its vectors are read off a sentence, and when a decoder sees them."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from collapse_bench.corpus import Batch
from collapse_bench.model.anticausal import AntiCausalEncoder
from collapse_bench.model.vae import SequenceVAE


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
    """Shows the decoder z_1 to z_k from token k * stride on; what is not yet shown is zero.

    Args:
        decoder: of states for z [B, T, n d].
        stride: tokens from one vector to the next.
        whole: vectors before these that are shown from the beginning.
    """

    def __init__(self, decoder: nn.Module, stride: int, whole: int = 0) -> None:
        super().__init__()
        self.decoder, self.stride, self.whole = decoder, stride, whole

    def forward(self, batch: Batch, z: Tensor) -> Tensor:
        """States [B, T, H] for z [B, n, d]."""
        token = torch.arange(batch.inputs.shape[1], device=z.device)[:, None]
        place = torch.arange(z.shape[1], device=z.device) - self.whole
        shown = self.stride * place <= token  # [T, n]
        gradual = z[:, None] * shown[None, :, :, None]  # [B, T, n, d]
        states: Tensor = self.decoder(batch, gradual.flatten(2))
        return states


def exists(features: Tensor) -> Tensor:
    """Which vectors of `StridedStates` [B, n, H] there are, [B, n, 1]; the others are zero, as no
    state is."""
    return (features != 0).any(-1, keepdim=True)


class TokenDecoder(nn.Module):
    """Shows the decoder at every token what is made of the token's own part of z.

    A sentence has as many parts as the longest has tokens. Those past the end of a batch are cut
    off: what is past a sentence's own end nothing is predicted from.

    Args:
        decoder: of states for z [B, T, D].
        width: d, numbers of a part.
        shown: parts [B, T, d] to [B, T, D], of which none depends on a later part.
    """

    def __init__(self, decoder: nn.Module, width: int, shown: nn.Module) -> None:
        super().__init__()
        self.decoder, self.width, self.shown = decoder, width, shown

    def forward(self, batch: Batch, z: Tensor) -> Tensor:
        """States [B, T, H] for z [B, n, d], or [B, n d, 1]."""
        parts = z.reshape(len(z), -1, self.width)
        missing = batch.inputs.shape[1] - parts.shape[1]  # mostly below 0
        states: Tensor = self.decoder(batch, self.shown(F.pad(parts, (0, 0, 0, missing))))
        return states


def along_the_sentence(
    model: SequenceVAE, length: int, stride: int, whole: int = 0
) -> dict[str, nn.Module]:
    """Encoder, pool and decoder of `length` vectors, each inferred from its token and those after
    it, and shown to the decoder from there on (Razavi et al. 2019).

    Args:
        model: whose parts are wrapped.
        length: n.
        stride: tokens from one vector to the next.
        whole: vectors before these that are shown from the beginning.
    """
    return {
        "encoder": AntiCausalEncoder(model.encoder),
        "pool": StridedStates(length, stride),
        "decoder": GradualDecoder(model.decoder, stride, whole),
    }
