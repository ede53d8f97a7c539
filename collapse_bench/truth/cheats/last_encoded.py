"""A decoder that gets the sentence past z: what the encoder saw last."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from collapse_bench.corpus import Batch
from collapse_bench.model import SequenceVAE
from collapse_bench.remedy import Remedy


class Leak(nn.Module):
    """Keeps the features and adds them to the states, where there are as many sentences."""

    def __init__(self, part: nn.Module, kept: list[Tensor]) -> None:
        super().__init__()
        self.part, self.kept = part, kept

    def forward(self, *given: Batch | Tensor) -> Tensor:
        """Features [B, H] as pool of states and mask, states [B, T, H] as decoder."""
        found: Tensor = self.part(*given)
        if found.dim() == 2:
            self.kept[:] = [found]
        elif self.kept and len(self.kept[0]) == len(found):
            found = found + self.kept[0][:, None]
        return found


@dataclass(frozen=True)
class LastEncoded(Remedy):
    """The decoder knows the sentence while the rate says that nothing was told."""

    def build(self, model: SequenceVAE) -> Mapping[str, nn.Module]:
        """Wrap pool and decoder around one memory."""
        kept: list[Tensor] = []
        return {"pool": Leak(model.pool, kept), "decoder": Leak(model.decoder, kept)}
