"""From features to codes, and from codes to the decoder: what remedies with discrete latents share.

A head encodes features as n vectors, a quantiser says which codes they are, and the decoder gets
the codes' vectors. Gradients pass as if nothing had been quantised (straight-through, Bengio et al.
2013).
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn import functional as F

from collapse_bench.corpus import Batch
from collapse_bench.errors import UserError
from collapse_bench.model.distributions import base
from collapse_bench.model.distributions.codes import Codebook, Codes
from collapse_bench.model.latent import Energy
from collapse_bench.model.vae import Dimensions, Forward, SequenceVAE

EPSILON = 1e-5
"""Laplace smoothing of the codes' counts (van den Oord et al. 2017, public code)."""


class CodesHead(nn.Module):
    """Head: features as n vectors, and these as codes.

    Args:
        hidden: H.
        places: n; 1 for each feature of a sequence.
        width: d.
        quantiser: vectors [B, n, d] to q(z|x).
    """

    def __init__(self, hidden: int, places: int, width: int, quantiser: nn.Module) -> None:
        super().__init__()
        self.width = width
        self.encode = nn.Linear(hidden, places * width)
        self.quantiser = quantiser

    def forward(self, features: Tensor, energy: Energy) -> Distribution:
        """Features [B, H], or [B, n, H] of a sequence, to q(z|x); it ignores the energy."""
        # In full precision also where the products of the training are not: it is small.
        with torch.autocast(features.device.type, enabled=False):
            encoded = self.encode(features.to(self.encode.weight.dtype))
            q: Distribution = self.quantiser(encoded.view(len(features), -1, self.width))
        return q


def straight_through(codes: Tensor, vectors: Tensor, encoded: Tensor, training: bool) -> Codes:
    """q(z|x) of codes [B, n] with vectors [n, K, d] whose gradient goes on to `encoded` [B, n, d].

    In evaluation a draw is the vector itself, without the rounding of the detour.
    """
    z = Codebook(vectors).vectors_of(codes)
    passed = encoded + (z - encoded).detach() if training else z
    return Codes(codes, vectors, passed, encoded)


def codes_of(forward: Forward) -> Codes:
    """The posterior of a pass whose head quantises."""
    q: Codes = base(forward.q)  # type: ignore[assignment]
    return q


def with_commitment(forward: Forward, weight: float, aims: Tensor | None = None) -> Forward:
    """The pass with a further term, where the weight is not 0: the squared distance of what was
    encoded from its codes, mean over places, whose gradient is that of the encoder alone (van den
    Oord et al. 2017, equation 3, third term).

    Args:
        forward: of a head that quantises.
        weight: of the term.
        aims: what it is to be near, [B, n, d], where that is not the vector of each place.
    """
    if not weight:
        return forward
    q = codes_of(forward)
    assert q.encoded is not None
    off = (q.encoded - (q.z.detach() if aims is None else aims)).square().sum(-1).mean(-1)
    return replace(forward, extra={**forward.extra, "commitment": weight * off})


class AveragedCodebook(nn.Module):
    """Quantiser whose vectors are the means of what has been given their code, by moving averages
    (van den Oord et al. 2017, appendix A.1); a code that is not used is put where vectors are.

    Counts are smoothed, and begin at 1 with the first vectors. With the first batch all codes
    begin anew at vectors of it, as far as there are; then a code that is used less than the share
    `restart` of its fair part (Dhariwal et al. 2020, section 3.1: below a threshold).

    Args:
        books: 1 for all places, or one for each of n.
        codes: K.
        width: d.
        decay: of the averages.
        restart: share of its fair part of all uses below which a code begins anew; 0 is never.
    """

    vectors: Tensor
    """[books, K, d]."""
    uses: Tensor
    """Average number of vectors in a batch that are given a code, [books, K]."""
    sums: Tensor
    """Average of their sum, [books, K, d]."""
    begun: Tensor
    """Whether there has been a batch, 0 or 1."""

    def __init__(self, books: int, codes: int, width: int, decay: float, restart: float) -> None:
        super().__init__()
        self.decay, self.restart = decay, restart
        for name, shape in (
            ("vectors", (books, codes, width)),
            ("uses", (books, codes)),
            ("sums", (books, codes, width)),
            ("begun", ()),
        ):
            self.register_buffer(name, torch.empty(shape))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the vectors, uniform in +-1/K, and forget all uses."""
        bound = 1 / self.vectors.shape[1]
        nn.init.uniform_(self.vectors, -bound, bound)
        nn.init.ones_(self.uses)
        self.sums.copy_(self.vectors)
        nn.init.zeros_(self.begun)

    def forward(self, encoded: Tensor) -> Distribution:
        """Vectors [B, n, d] to the codes whose vectors are nearest; training learns from them."""
        # A copy: the prior and the density belong to what was drawn, not to what is learned of it.
        vectors = self.vectors.clone().expand(encoded.shape[1], -1, -1)
        codes = Codebook(vectors).codes_of(encoded)
        if self.training:
            self.learn(encoded, codes)
        return straight_through(codes, vectors, encoded, self.training)

    @torch.no_grad()
    def learn(self, encoded: Tensor, codes: Tensor) -> None:
        """Take vectors [B, n, d] with codes [B, n] into the averages, in place: a captured pass
        knows them by their memory."""
        books, count, _ = self.vectors.shape
        given = encoded.transpose(0, 1).reshape(books, -1, encoded.shape[-1])  # [books, M, d]
        chosen = F.one_hot(codes.T.reshape(books, -1), count).to(given)  # [books, M, K]
        self.uses.lerp_(chosen.sum(1), 1 - self.decay)
        self.sums.lerp_(chosen.transpose(1, 2) @ given, 1 - self.decay)
        if self.restart:
            self._begin_anew(given)
        total = self.uses.sum(1, keepdim=True)
        smoothed = (self.uses + EPSILON) / (total + count * EPSILON) * total
        self.vectors.copy_(self.sums / smoothed[..., None])

    def _begin_anew(self, given: Tensor) -> None:
        """Put codes that are hardly used at different ones of the vectors [books, M, d]."""
        fair = self.uses.mean(1, keepdim=True)
        unused = (self.uses < self.restart * fair) | (self.begun == 0)
        turn = unused.cumsum(1) - 1
        unused = unused & (turn < given.shape[1])
        order = torch.rand(given.shape[:2], device=given.device).argsort(1)
        taken = order.gather(1, turn.clamp(0, given.shape[1] - 1))  # [books, K]
        at = given.gather(1, taken[..., None].expand_as(self.vectors))
        self.uses.copy_(torch.where(unused, fair, self.uses))
        self.sums.copy_(torch.where(unused[..., None], fair[..., None] * at, self.sums))
        self.begun.fill_(1)


class MappedDecoder(nn.Module):
    """A decoder that is shown one vector [B, D] made of z [B, n, d]."""

    def __init__(self, decoder: nn.Module, of: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.decoder, self.of = decoder, of

    def forward(self, batch: Batch, z: Tensor) -> Tensor:
        """States [B, T, H] for z [B, n, d]."""
        states: Tensor = self.decoder(batch, self.of(z))
        return states


def side_by_side(z: Tensor) -> Tensor:
    """Vectors [B, n, d] as one, [B, n d]."""
    return z.flatten(1)


def shown_whole(
    model: SequenceVAE,
    head: nn.Module,
    prior: nn.Module,
    of: Callable[[Tensor], Tensor] = side_by_side,
) -> dict[str, nn.Module]:
    """The parts of a latent of codes that are all read off the sentence's features, and all shown
    to the decoder from the beginning.

    Args:
        model: whose decoder is wrapped.
        head: features [B, H] to q(z|x) over z [B, n, d].
        prior: over the codes.
        of: z to the one vector [B, D] that the decoder is shown.
    """
    return {"head": head, "prior": prior, "decoder": MappedDecoder(model.decoder, of)}


def parts_of_latent(owner: str, name: str, places: int, dimensions: Dimensions) -> int:
    """Dimensions of z for each of n places.

    Raises:
        UserError: they cannot be shared out.
    """
    width, rest = divmod(dimensions.latent, places)
    if rest or not width:
        raise UserError(
            f"{owner}: {name} must divide the latent size, got {name} = {places} and latent ="
            f" {dimensions.latent}; change one of them"
        )
    return width


def check_codes(owner: str, codes: int, dimensions: Dimensions) -> None:
    """Hold the size of a codebook against the training split.

    Raises:
        UserError: there are more codes than sentences, so that some could only ever be one's own.
    """
    if codes > dimensions.sentences:
        raise UserError(
            f"{owner}: codes must be at most the number of training sentences, got {codes} for"
            f" {dimensions.sentences}: what a code stands for is learned from the sentences that"
            f" have it; lower codes"
        )
