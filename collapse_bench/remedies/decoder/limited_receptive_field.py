"""Limited receptive field (Chen et al. 2017, "Variational lossy autoencoder", section 3.1).

For text a causal convolution, as in the decoders of Yang, Hu, Salakhutdinov and Berg-Kirkpatrick
(2017), here with a single one so that the window is exact.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from collapse_bench.corpus import Batch
from collapse_bench.model import Dimensions, SequenceVAE
from collapse_bench.model.dropout import Dropout
from collapse_bench.model.embedding import every_token, token_embedding
from collapse_bench.remedy import Remedy
from collapse_bench.settings import AtLeast


class WindowDecoder(nn.Module):
    """Predicts each token from z and the last `window` tokens: a convolution, then two layers."""

    def __init__(self, dimensions: Dimensions, window: int) -> None:
        super().__init__()
        hidden = dimensions.hidden
        self.window = window
        self.embedding = token_embedding(dimensions)
        self.dropout = Dropout(dimensions.dropout)
        self.convolution = nn.Conv1d(dimensions.embedding, hidden, window)
        self.latent = nn.Linear(dimensions.latent, hidden, bias=False)
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(hidden),
                nn.Linear(hidden, 4 * hidden),
                nn.GELU(),
                nn.Linear(4 * hidden, hidden),
            )
            for _ in range(2)
        )
        self.norm = nn.LayerNorm(hidden)

    def forward(self, batch: Batch, z: Tensor) -> Tensor:
        """States [B, T, H] for z [B, D] or [B, T, D]."""
        inputs = self.dropout(self.embedding(batch.inputs)).transpose(1, 2)
        seen = self.convolution(F.pad(inputs, (self.window - 1, 0))).transpose(1, 2)
        x = seen + self.latent(every_token(z, batch))
        for layer in self.layers:
            x = x + layer(x)
        states: Tensor = self.dropout(self.norm(x))
        return states


@dataclass(frozen=True)
class LimitedReceptiveField(Remedy):
    """The decoder sees z and the last few tokens only; what reaches further has to be in z.

    The same decoder in every architecture.

    Positive case (`suites/positive.yaml`): NLL 14.23, R 1.59, beyond 1.34.

    Attributes:
        window: tokens of history, <bos> included.
    """

    # A decoder that knows less of the past gains more from z.
    by_construction: ClassVar[tuple[str, ...]] = (
        "useful_beyond",
        "useful_information",
        "useful_rate",
        "shuffle_gap",
        "shuffle_gap_any",
        "shuffle_gap_later",
    )

    small: ClassVar[Mapping[str, Any]] = {"window": 2}
    # On `hard` its window of two words holds the colour before, which it copies.
    signature: ClassVar[Mapping[str, str]] = {
        "nothing": "collapsed",
        "hard": "collapsed",
        "easy": "use",
    }

    window: Annotated[int, AtLeast(1)] = 4

    def build(self, model: SequenceVAE) -> Mapping[str, nn.Module]:
        """Replace the decoder."""
        return {"decoder": WindowDecoder(model.dimensions, self.window)}
