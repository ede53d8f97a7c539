"""What every encoder and decoder begins with: tokens as vectors, and z at every token."""

import torch
from torch import Tensor, nn

from collapse_bench.corpus import Batch
from collapse_bench.errors import UserError
from collapse_bench.model.vae import Dimensions


class WordEmbedding(nn.Embedding):
    """A table [V, E], uniform in +-0.1 as in the published LSTM settings (He et al. 2019)."""

    def __init__(self, dimensions: Dimensions) -> None:
        super().__init__(dimensions.vocabulary, dimensions.embedding)

    def reset_parameters(self) -> None:
        """Draw the weights."""
        nn.init.uniform_(self.weight, -0.1, 0.1)


class ValueEmbedding(nn.Linear):
    """A step's values [..., Y] to a vector [..., E], its weights drawn as those of words are."""

    def __init__(self, dimensions: Dimensions) -> None:
        super().__init__(dimensions.channels, dimensions.embedding)

    def reset_parameters(self) -> None:
        """Draw the weights."""
        nn.init.uniform_(self.weight, -0.1, 0.1)
        nn.init.zeros_(self.bias)


def token_embedding(dimensions: Dimensions) -> WordEmbedding | ValueEmbedding:
    """What turns the targets or inputs of a batch into vectors [B, T, E]."""
    return (ValueEmbedding if dimensions.channels else WordEmbedding)(dimensions)


def every_token(z: Tensor, batch: Batch) -> Tensor:
    """z [B, D] repeated for every token, [B, T, D]; a z that has tokens already stays as it is."""
    return z if z.dim() == 3 else z[:, None].expand(-1, batch.inputs.shape[1], -1)


def beside(states: Tensor, z: Tensor, batch: Batch, latent: int) -> Tensor:
    """States [B, T, H] and z at every token as one vector, [B, T, H + D].

    Args:
        z: as a decoder is given it, [B, D] or [B, T, D], or a latent sequence [B, n, d] with
            n d = D, which is one vector here.
        latent: D.

    Raises:
        UserError: z is another sequence.
    """
    whole = z.flatten(1)
    shown = every_token(whole if whole.shape[1] == latent else z, batch)
    if shown.shape[:2] != states.shape[:2]:
        raise UserError(
            f"z of {z.shape[1]} vectors of {z.shape[2]} dimensions cannot be shown beside the"
            f" decoder's states where the latent has {latent}; put the remedy that shows z there"
            f" before the one that makes it so"
        )
    return torch.cat([states, shown], -1)
