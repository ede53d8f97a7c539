"""What every encoder and decoder begins with: words as vectors, and z at every token."""

from torch import Tensor, nn

from collapse_bench.corpus import Batch
from collapse_bench.model.vae import Dimensions


class WordEmbedding(nn.Embedding):
    """A table [V, E], uniform in +-0.1 as in the published LSTM settings (He et al. 2019)."""

    def __init__(self, dimensions: Dimensions) -> None:
        super().__init__(dimensions.vocabulary, dimensions.embedding)

    def reset_parameters(self) -> None:
        """Draw the weights."""
        nn.init.uniform_(self.weight, -0.1, 0.1)


def every_token(z: Tensor, batch: Batch) -> Tensor:
    """z [B, D] repeated for every token, [B, T, D]; a z that has tokens already stays as it is."""
    return z if z.dim() == 3 else z[:, None].expand(-1, batch.inputs.shape[1], -1)
