"""Discrete latents: n codes out of K each, given by the vectors of a codebook (van den Oord 2017).

A posterior knows its codes for certain, so that all logarithms of it are 0 or -inf, or it draws
each place's by itself; the prior is a distribution over sequences of codes. Densities are
probabilities of code vectors. Where two codes of a place have the same vector, it counts as the
first of them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.distributions.kl import register_kl

Conditional = Callable[[Tensor], Tensor]
"""Codes [..., n] to log p(k_t | k_<t) of all K at every place, [..., n, K], nats."""


class Codebook:
    """The vectors that codes stand for, and the way back.

    Args:
        vectors: [n, K, d], for z [B, n, d]; or [K, d], for one code a sentence and z [B, d].
    """

    def __init__(self, vectors: Tensor) -> None:
        self.given = vectors
        self.single = vectors.dim() == 2
        self.vectors = vectors[None] if self.single else vectors

    @property
    def event_shape(self) -> torch.Size:
        """[n, d], or [d]."""
        n, _, d = self.vectors.shape
        return torch.Size([d] if self.single else [n, d])

    def vectors_of(self, codes: Tensor) -> Tensor:
        """Codes [..., n] to z, [..., n, d] or [..., d]."""
        z = self.vectors[torch.arange(len(self.vectors), device=codes.device), codes]
        return z[..., 0, :] if self.single else z

    def codes_of(self, z: Tensor) -> Tensor:
        """The nearest code at every place, z [..., n, d] or [..., d] to [..., n].

        Nearest and not equal, as a straight-through estimate moves vectors by rounding.
        """
        z = z[..., None, :] if self.single else z
        n, _, d = self.vectors.shape
        places = z.reshape(-1, n, d).transpose(0, 1).to(self.vectors)
        # Differences themselves, so that a vector is at exactly 0 from its own.
        apart = torch.cdist(places, self.vectors, compute_mode="donot_use_mm_for_euclid_dist")
        return apart.argmin(-1).T.reshape(z.shape[:-1])


class Codes(Distribution):
    """q(z|x) that is certain of n codes for each of B sentences.

    Args:
        codes: [B, n], int64, from 0 to K - 1.
        codebook: vectors [n, K, d], or [K, d] for one code and z [B, d].
        z: what a draw is, where it is not taken from the codebook: the same vectors up to
            rounding, with the gradient of a straight-through estimate.
        encoded: what was quantised, of the shape of z or one vector [B, 1, d] for several codes:
            an objective may hold it near its codes.
    """

    family = "codes"

    def __init__(
        self,
        codes: Tensor,
        codebook: Tensor,
        z: Tensor | None = None,
        encoded: Tensor | None = None,
    ) -> None:
        self.codebook = Codebook(codebook)
        self.codes = codes
        self.z = self.codebook.vectors_of(codes) if z is None else z
        self.encoded = encoded
        self._own: Tensor | None = None
        super().__init__(codes.shape[:1], self.codebook.event_shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        """The code vectors, [B, n, d] or [B, d]."""
        return self.z

    def from_noise(self, noise: Tensor) -> Tensor:
        """z of the shape of the noise, whatever the noise is."""
        return self.z.expand(noise.shape)

    def log_prob(self, z: Tensor) -> Tensor:
        """0 at the own codes and -inf elsewhere, z [..., n, d] or [..., d] against [B] to
        [..., B], nats."""
        if self._own is None:
            self._own = self.codebook.codes_of(self.z.detach())
        same = (self.codebook.codes_of(z) == self._own).all(-1)
        zeros = torch.zeros(same.shape, dtype=self.z.dtype, device=z.device)
        return zeros.masked_fill(~same, -torch.inf)


class DrawnCodes(Distribution):
    """q(z|x) that draws n codes for each of B sentences, every place by itself.

    Args:
        logits: of the codes, [B, n, K].
        codebook: vectors [n, K, d], no two of a place the same.
        relaxed: what a draw is in training, [B, n, d], where it is no vector of the codebook: the
            rate is that of the codes all the same.
    """

    family = "codes"

    def __init__(self, logits: Tensor, codebook: Tensor, relaxed: Tensor | None = None) -> None:
        self.codebook = Codebook(codebook)
        self.log_shares = logits.log_softmax(-1)
        self.relaxed = relaxed
        super().__init__(logits.shape[:1], self.codebook.event_shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        """The mean of the code vectors, [B, n, d]."""
        return torch.einsum("bnk,nkd->bnd", self.log_shares.exp(), self.codebook.vectors)

    def from_noise(self, noise: Tensor) -> Tensor:
        """z of the shape of the noise: each code is the quantile at Phi of the first coordinate of
        its place. No gradient passes to the probabilities, unless draws are relaxed."""
        if self.relaxed is not None:
            return self.relaxed.expand(noise.shape)
        return self.codebook.vectors_of(_quantile(self.log_shares, noise[..., 0]))

    def log_prob(self, z: Tensor) -> Tensor:
        """log q of the codes, z [..., n, d] against [B] to [..., B], nats."""
        codes = self.codebook.codes_of(z)  # [..., n], [M, 1, n] or [B, n]
        if self.log_shares.shape[-1] == 2 and codes.dim() > 2 and codes.shape[-2] == 1:
            return self._of_bits(codes[..., 0, :])
        shape = torch.broadcast_shapes(codes.shape[:-1], self.batch_shape)
        shares = self.log_shares.expand(*shape, *self.log_shares.shape[1:])
        return shares.gather(-1, codes.expand(*shape, -1)[..., None])[..., 0].sum(-1)

    def _of_bits(self, codes: Tensor) -> Tensor:
        """The same of two codes a place, all draws [..., n] against all of B, as one product: every
        token may have bits, and pairs of sentences are many."""
        no, yes = self.log_shares.double().unbind(-1)  # [B, n]
        return (no.sum(-1) + codes.double() @ (yes - no).T).to(self.log_shares.dtype)


class CodePrior(Distribution):
    """p(z) over sequences of codes, the same for each of B sentences.

    Args:
        conditional: log p(k_t | k_<t), see `uniform`, `independent` and `autoregressive`, or any
            callable, such as a network, whose row t depends on codes before t only.
        codebook: vectors [n, K, d], or [K, d] for one code and z [B, d].
        sentences: B.
    """

    family = "codes"

    def __init__(self, conditional: Conditional, codebook: Tensor, sentences: int) -> None:
        self.conditional = conditional
        self.codebook = Codebook(codebook)
        super().__init__(torch.Size([sentences]), self.codebook.event_shape, validate_args=False)

    def from_noise(self, noise: Tensor) -> Tensor:
        """z of the shape of the noise: each code is the quantile at Phi of the first coordinate of
        its place, given the codes before it. No gradient passes to the probabilities."""
        first = (noise[..., None, :] if self.codebook.single else noise)[..., 0]
        codes = torch.zeros(first.shape, dtype=torch.int64, device=noise.device)
        if isinstance(self.conditional, IndependentPlaces):
            return self.codebook.vectors_of(_quantile(self.conditional(codes), first))
        for t in range(codes.shape[-1]):
            codes[..., t] = _quantile(self.conditional(codes)[..., t, :], first[..., t])
        return self.codebook.vectors_of(codes)

    def log_prob(self, z: Tensor) -> Tensor:
        """log p of the codes, z [..., n, d] or [..., d] against [B] to [..., B], nats."""
        nats = self.by_place(self.codebook.codes_of(z)).sum(-1)
        return nats.expand(torch.broadcast_shapes(nats.shape, self.batch_shape))

    def by_place(self, codes: Tensor) -> Tensor:
        """log p(k_t | k_<t), [..., n] to [..., n], nats."""
        return self.conditional(codes).gather(-1, codes[..., None])[..., 0]


def _quantile(logits: Tensor, noise: Tensor) -> Tensor:
    """The code [...] at Phi of standard normal noise [...] under logits [..., K]."""
    # Up to 1 - 1e-12, lest a code of probability 0 at the end be drawn.
    at = torch.special.ndtr(noise.double()).clamp(max=1 - 1e-12)
    below = logits.detach().double().softmax(-1).cumsum(-1)
    reached: Tensor = (below / below[..., -1:]) <= at[..., None]
    return reached.sum(-1)


@dataclass(frozen=True, eq=False)
class IndependentPlaces:
    """A `Conditional` in which no place depends on another; logits [n, K]."""

    logits: Tensor

    def __call__(self, codes: Tensor) -> Tensor:
        """Codes [..., n] to [..., n, K], nats, the same whatever they are."""
        return self.logits.to(codes.device).log_softmax(-1).expand(*codes.shape, -1)


def uniform(codebook: Tensor) -> Conditional:
    """The prior under which any n codes cost n ln K; vectors [n, K, d], or [K, d] for one code."""
    return independent(torch.zeros_like(Codebook(codebook).vectors[..., 0]))


def independent(logits: Tensor) -> Conditional:
    """Places that do not depend on each other; logits [n, K], which may be learnt."""
    return IndependentPlaces(logits)


def autoregressive(logits: Tensor) -> Conditional:
    """Any distribution over n codes as a table, for few of them.

    Args:
        logits: of p(k_1, ..., k_n), [K, ..., K] with n axes, finite, of any normalisation.
    """
    n = logits.dim()

    def conditional(codes: Tensor) -> Tensor:
        joint = logits.to(codes.device)
        rows = []
        for t in range(n):
            before = tuple(codes[..., i] for i in range(t))
            rest = joint.flatten(t + 1).logsumexp(-1) if t + 1 < n else joint
            row = rest[before] if t else rest.expand(*codes.shape[:-1], -1)
            rows.append(row.log_softmax(-1))
        return torch.stack(rows, dim=-2)

    return conditional


@register_kl(Codes, CodePrior)  # type: ignore[untyped-decorator]
def _rate_of_codes(q: Codes, p: CodePrior) -> Tensor:
    """-log p(k_t | k_<t) of the own codes by place, [B, n] nats: a certain posterior has entropy 0,
    so this is what it costs to tell the codes."""
    return -p.by_place(q.codes)


@register_kl(DrawnCodes, CodePrior)  # type: ignore[untyped-decorator]
def _rate_of_drawn_codes(q: DrawnCodes, p: CodePrior) -> Tensor:
    """sum_k q_tk log q_tk / p_tk by place, [B, n] nats.

    Raises:
        NotImplementedError: the prior's places depend on each other: the rate is a mean over draws.
    """
    if not isinstance(p.conditional, IndependentPlaces):
        raise NotImplementedError
    log_p = p.conditional(torch.zeros_like(q.log_shares[..., 0], dtype=torch.int64))
    shares = q.log_shares.exp()
    # Where a probability has underflowed, 0 log 0 is 0.
    return (shares * (q.log_shares - log_p).masked_fill(shares == 0, 0.0)).sum(-1)
