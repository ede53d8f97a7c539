"""My remedy (new)."""
# The first line names the method and where it is from: authors, year and equation, or (new).

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from torch import Tensor, nn
from torch.distributions import Distribution

from collapse_bench.model import Energy, SequenceVAE, diagonal_normal
from collapse_bench.model.distributions import as_normal
from collapse_bench.remedy import Remedy
from collapse_bench.settings import Above


class MyRemedyHead(nn.Module):
    """A head around another one, which says `scale` times its standard deviations."""

    # What has to last between updates is in buffers. Weights of its own need reset_parameters().
    def __init__(self, head: nn.Module, scale: float) -> None:
        super().__init__()
        self.head = head
        self.scale = scale

    def forward(self, features: Tensor, energy: Energy) -> Distribution:
        """Features [B, H], or [B, n, H] of a latent sequence, to q(z|x)."""
        q = as_normal(self.head(features, energy))  # an error in words if it is no normal
        return diagonal_normal(q.mean, self.scale * q.stddev)


@dataclass(frozen=True)
class MyRemedy(Remedy):
    """What it does, in a sentence.

    What it guarantees, and what it does not.

    Attributes:
        scale: of the posterior's standard deviations; 1 is the plain VAE.
    """

    # Metrics that it sets or moves whatever the model learns; `list metrics` names all.
    by_construction: ClassVar[tuple[str, ...]] = ()
    # Settings with which it is the plain VAE to the bit; without any, remove these lines.
    neutral: ClassVar[Mapping[str, Any] | None] = {"scale": 1.0}

    # A setting has an annotation, which is its rule (AtLeast, Above, Between, Literal["a", "b"]),
    # and a literal as its default, the paper's.
    scale: Annotated[float, Above(0)] = 0.5

    def build(self, model: SequenceVAE) -> Mapping[str, nn.Module]:
        """Wrap the head."""
        # Slots are encoder, pool, head, prior, decoder and readout; what is not named stays. Wrap
        # what is there, since it may be another remedy's. Sizes are in model.dimensions: hidden,
        # latent, vocabulary and others.
        return {"head": MyRemedyHead(model.head, self.scale)}
