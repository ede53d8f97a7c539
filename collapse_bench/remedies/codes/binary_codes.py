"""Binary latents, lookup-free quantisation (Yu et al. 2023, "MAGVIT-v2", section 3.1)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn import functional as F

from collapse_bench.model import Forward, SequenceVAE
from collapse_bench.model.code_priors import code_prior
from collapse_bench.model.codes import (
    CodesHead,
    codes_of,
    shown_whole,
    straight_through,
    with_commitment,
)
from collapse_bench.remedy import Remedy
from collapse_bench.settings import Above, AtLeast


class Signs(nn.Module):
    """Quantiser: every number to -1 or 1."""

    vectors: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.tensor([[-1.0], [1.0]]), persistent=False)

    def forward(self, encoded: Tensor) -> Distribution:
        """Numbers [B, n, 1] to q(z|x)."""
        vectors = self.vectors.expand(encoded.shape[1], -1, -1)
        return straight_through((encoded[..., 0] > 0).long(), vectors, encoded, self.training)


@dataclass(frozen=True)
class BinaryCodes(Remedy):
    """Each dimension of z is the sign of a number: `latent` bits, and no codebook.

    As for VQ-VAE, of which this is the case of a fixed codebook, the rate is what the prior asks
    for the bits. It is at most about `latent` ln 2 and gives the encoder no gradient. What pulls at
    the encoder beside the distortion is the entropy term,

        entropy (mean over the batch of H(bit | x) - H(bit)),   summed over bits,

    with P(bit = 1 | x) = sigmoid(4 y / temperature), y the number before its sign, by its distances
    from both signs: a bit shall be sure and as often the one as the other. So bits differ between
    sentences whatever the decoder does. A batch is of one length: what is spread over sentences is
    not what z tells of the length.

    The paper has the entropies of the codes of all bits at once; of independent bits both are the
    sum over bits. A prior over the bits takes the place of its masked Transformer. No setting is
    the plain VAE.

    Positive case (`suites/positive.yaml`): NLL 7.97, R 1.39, beyond 1.36.

    Attributes:
        entropy: weight of the entropy term, nats for nats; public code has 0.1.
        temperature: of that term; this project's. Public code has 0.01, where only numbers within
            0.01 of the threshold have a gradient.
        commitment: weight of the squared distance of numbers from their signs, mean over bits;
            public code has VQ-VAE's.
        prior: over the bits, as for `vq_vae`.
    """

    by_construction: ClassVar[tuple[str, ...]] = (
        "kl",
        "active_units",
        "mutual_information",
        "mutual_information_upper",
        "information_given_length",
        "information_given_length_upper",
    )

    # On `nothing` seeds disagree: one of five tells single words.
    signature: ClassVar[Mapping[str, str]] = {"hard": "use", "easy": "use"}

    entropy: Annotated[float, AtLeast(0)] = 0.1
    temperature: Annotated[float, Above(0)] = 1.0
    commitment: Annotated[float, AtLeast(0)] = 0.25
    prior: Literal["uniform", "independent", "autoregressive", "self_attention"] = "autoregressive"

    def build(self, model: SequenceVAE) -> Mapping[str, nn.Module]:
        """Another head and prior, and a wrapper around the decoder."""
        sizes = model.dimensions
        head = CodesHead(sizes.hidden, sizes.latent, 1, Signs())
        prior = code_prior(self.prior, sizes.latent, 2)
        return shown_whole(model, head, prior)

    def objective(self, forward: Forward) -> Forward:
        """Add commitment and entropies."""
        forward = with_commitment(forward, self.commitment)
        if not self.entropy:
            return forward
        encoded = codes_of(forward).encoded
        assert encoded is not None
        logit = 4 * encoded[..., 0] / self.temperature  # [B, n]
        one = logit.sigmoid()
        unsure = F.binary_cross_entropy_with_logits(logit, one, reduction="none").sum(1)
        share = one.mean(0)
        spread = torch.special.entr(share) + torch.special.entr(1 - share)
        term = self.entropy * (unsure - spread.sum())
        return replace(forward, extra={**forward.extra, "entropy": term})
