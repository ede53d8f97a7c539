"""Words from states and features of the past (Dieng, Kim, Rush and Blei 2019, section 3)."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from collapse_bench.corpus import Batch
from collapse_bench.model import SequenceVAE
from collapse_bench.remedy import Remedy


class BiasedReadout(nn.Module):
    """Two layers with a bias in place of a matrix."""

    def __init__(self, hidden: int, vocabulary: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, vocabulary)
        )

    def forward(self, states: Tensor, batch: Batch) -> Tensor:
        """Log-likelihood in nats, [B]."""
        return self.by_position(states, batch).sum(1)

    def by_position(self, states: Tensor, batch: Batch) -> Tensor:
        """Nats of each token [B, T], 0 at padding."""
        nats = self.layers(states).log_softmax(-1).gather(2, batch.targets[:, :, None])[:, :, 0]
        return nats.masked_fill(~batch.mask, 0.0)


@dataclass(frozen=True)
class OwnReadout(Remedy):
    """The readout is replaced."""

    def build(self, model: SequenceVAE) -> Mapping[str, nn.Module]:
        """Replace the readout."""
        size = model.dimensions
        return {"readout": BiasedReadout(size.hidden, size.vocabulary)}
