"""Fraternal dropout (Zolna, Arpit, Suhubdy and Bengio 2018; for text VAEs Petit and Corro 2021).

The form is that of the first authors' code; the second paper is known here by its abstract.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

from collapse_bench.model import Forward
from collapse_bench.remedy import Remedy
from collapse_bench.settings import AtLeast


@dataclass(frozen=True)
class FraternalDropout(Remedy):
    """z is decoded twice with different dropout, and what comes of it shall be the same.

    With h_t and h'_t the decoder's states in the two passes, distortion is the mean of the two, and

        weight sum_t mean over the H entries of (h_t - h'_t)^2

    is added. Zolna et al. compare logits, which no part of the contract hands out: here it is the
    states that they are a linear map of. Dropout is the model's; after `word_dropout` in a chain
    words are dropped differently, too. A decoder that leans less on single inputs has more use for
    z; it guarantees nothing. Both passes are paid for. First in a chain that weighs the distortion.

    Positive case (`suites/positive.yaml`): after a word dropout of 0.2 and with a weight of 10 NLL
    8.05, R 1.15, beyond 1.07, where that dropout alone has 0.27. That suite has no other dropout,
    so that alone it ends collapsed.

    Attributes:
        weight: kappa, as theirs is for logits, from which states differ less: 10 is no extreme. 0,
            with one pass, is the plain VAE.
    """

    neutral: ClassVar[Mapping[str, Any] | None] = {"weight": 0.0}
    signature: ClassVar[Mapping[str, str]] = {
        "nothing": "collapsed",
        "hard": "collapsed",
        "easy": "use",
    }

    weight: Annotated[float, AtLeast(0)] = 0.15

    def objective(self, forward: Forward) -> Forward:
        """Decode again, average the distortions and add the term."""
        if self.weight == 0:
            return forward
        model, batch = forward.model, forward.batch
        again = model.decoder(batch, forward.z)
        distortion = (forward.distortion - model.readout(again, batch)) / 2
        apart = (forward.decoded - again).float().square().mean(2)  # [B, T]
        term = self.weight * apart.masked_fill(~batch.mask, 0).sum(1)
        extra = {**forward.extra, "fraternal_dropout": term}
        return replace(forward, distortion=distortion, extra=extra)
