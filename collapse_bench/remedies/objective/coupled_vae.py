"""Coupled-VAE (Wu, Wang and Wang 2020, as in their code)."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from collapse_bench.errors import UserError
from collapse_bench.model import Forward, SequenceVAE
from collapse_bench.model.distributions import draw, shape_of
from collapse_bench.remedy import Remedy
from collapse_bench.settings import AtLeast

SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class Twin(nn.Module):
    """A deterministic autoencoder of the model's encoder and of copies of its other parts."""

    def __init__(self, model: SequenceVAE) -> None:
        super().__init__()
        self.pool, self.head, self.decoder, self.readout = (
            copy.deepcopy(part) for part in (model.pool, model.head, model.decoder, model.readout)
        )

    def forward(self, forward: Forward) -> tuple[Tensor, Tensor]:
        """Its distortion of the sentences of a pass, [B], and its decoder's states, [B, T, H]."""
        batch = forward.batch

        def decode(q: Distribution) -> tuple[Tensor, Tensor]:
            # The draw without noise, which is a normal's mean.
            code = draw(q, torch.zeros(shape_of(q), device=batch.mask.device))
            decoded = self.decoder(batch, code)
            return -self.readout(decoded, batch), decoded

        features = self.pool(forward.states, batch.mask)
        return decode(self.head(features, lambda q: decode(q)[0]))


@dataclass(frozen=True)
class CoupledVae(Remedy):
    """A deterministic twin trains the encoder along, and the decoder's first state follows its own.

    The twin shares the encoder and has a pool, head, decoder and readout of its own, which begin as
    copies; its code is the mean that its head makes. Added are

        reconstruction (-log p_twin(x|code))  +  coupling d(s, s_twin),

    with no gradient to s_twin, and s the decoder's state at the first token, which knows z and no
    word. The authors' s is the vector that a network makes of z to start the decoder with; theirs
    has no dropout, and the two decoders share their word embeddings. It guarantees nothing. The
    twin's decoding is paid for: of the budget the VAE sees half. What remedies later in a chain
    change, the twin has not.

    Positive case (`suites/positive.yaml`): alone it ends collapsed at R 0.01; with free
    bits NLL 8.05, R 1.99, beyond 0.94, where those alone have 0.85: of one seed.

    Attributes:
        reconstruction: weight of the twin's distortion.
        coupling: weight of the distance; with both 0 it is the plain VAE.
        distance: `kernel`, minus the sum over seven scales c of C / (C + |s - s_twin|^2) with
            C = 2 D c, or `euclidean`, |s - s_twin|^2, which the authors have for Yahoo.
    """

    neutral: ClassVar[Mapping[str, Any] | None] = {"reconstruction": 0.0, "coupling": 0.0}
    signature: ClassVar[Mapping[str, str]] = {"nothing": "collapsed", "easy": "use"}

    reconstruction: Annotated[float, AtLeast(0)] = 1.0
    coupling: Annotated[float, AtLeast(0)] = 0.1
    distance: Literal["kernel", "euclidean"] = "kernel"

    def build(self, model: SequenceVAE) -> Mapping[str, nn.Module]:
        """The twin."""
        return {"coupled_vae": Twin(model)} if self.reconstruction or self.coupling else {}

    def objective(self, forward: Forward) -> Forward:
        """Add the twin's distortion and the distance."""
        if not (self.reconstruction or self.coupling):
            return forward
        distortion, decoded = forward.model.further["coupled_vae"](forward)
        if decoded.shape != forward.decoded.shape:
            raise UserError(
                f"coupled_vae: the twin's states must be as wide as the decoder's, got"
                f" {decoded.shape[2]} and {forward.decoded.shape[2]}; put coupled_vae after the"
                f" remedy that changes the decoder"
            )
        squared = (forward.decoded[:, 0] - decoded[:, 0].detach()).float().square().sum(1)
        if self.distance == "kernel":
            scales = 2 * forward.model.dimensions.latent * squared.new_tensor(SCALES)
            apart = -(scales / (scales + squared[:, None])).sum(1)
        else:
            apart = squared
        twin, coupling = self.reconstruction * distortion, self.coupling * apart
        extra = {**forward.extra, "twin": twin, "coupling": coupling}
        return replace(forward, extra=extra)
