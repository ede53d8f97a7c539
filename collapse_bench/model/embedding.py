"""What every encoder and decoder begins with: words as vectors, and z at every token."""

from torch import Tensor, nn

from collapse_bench.corpus import Batch
from collapse_bench.model.vae import Dimensions


def embedding(dimensions: Dimensions) -> nn.Embedding:
    """A table [V, E], uniform in +-0.1 as in the published LSTM settings (He et al. 2019)."""
    table = nn.Embedding(dimensions.vocabulary, dimensions.embedding)
    nn.init.uniform_(table.weight, -0.1, 0.1)
    return table


def every_token(z: Tensor, batch: Batch) -> Tensor:
    """z [B, D] repeated for every token, [B, T, D]; a z that has tokens already stays as it is."""
    return z if z.dim() == 3 else z[:, None].expand(-1, batch.inputs.shape[1], -1)
