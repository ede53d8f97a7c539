"""Strings with a discrete latent: n codes out of K, whose every number is a finite sum.

The posterior is certain of its codes, so that the rate is what the prior asks for them and the
information is their entropy: a discrete latent without a bound on it is of no more use for that.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.special import entr

from collapse_bench.metrics.active_units import THRESHOLD
from collapse_bench.model.distributions.codes import Codebook, CodePrior, Codes, Conditional
from collapse_bench.truth.strings import all_strings
from collapse_bench.truth.words import LinearWords, exact_on_points


@dataclass(frozen=True, eq=False)
class CodedStrings:
    """A `LatentModel` over the V^T strings, with n codes set for each.

    Sentences are words [B, T], int64; the latent is [B, n, d], or [B, d] of a codebook [K, d].
    `coded` makes one, and `dataclasses.replace(model, codes=...)` sets its posterior otherwise.

    Attributes:
        decoder: p(x|z), logits linear in z.
        codebook: [n, K, d], or [K, d] for one code; float64.
        conditional: log p(k_t | k_<t), as of `CodePrior`.
        codes: of q(z|x), [V^T, n], in the order of `all_strings`.
    """

    decoder: LinearWords
    codebook: Tensor
    conditional: Conditional
    codes: Tensor

    def posterior(self, sentences: Tensor) -> Distribution:
        """q(z|x), certain of its codes."""
        return Codes(self.codes[self.decoder.rows(sentences)], self.codebook)

    def prior(self, sentences: Tensor) -> Distribution:
        """p(z) for each of B sentences."""
        return CodePrior(self.conditional, self.codebook, len(sentences))

    def log_likelihood(self, sentences: Tensor, z: Tensor) -> Tensor:
        """log p(x_t|z), [B, T] and z to [B, T]."""
        return self.decoder.log_likelihood(sentences, z)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Sentences of the model, [n, T]."""
        row = torch.multinomial(self.log_prior().exp(), n, replacement=True, generator=generator)
        return self.decoder.draw(
            Codebook(self.codebook).vectors_of(self.sequences()[row]), generator
        )

    def sequences(self) -> Tensor:
        """All sequences of codes, [K^n, n]."""
        n = 1 if self.codebook.dim() == 2 else len(self.codebook)
        return all_strings(self.codebook.shape[-2], n)

    def log_prior(self) -> Tensor:
        """log p of all sequences, [K^n], nats."""
        sequences = self.sequences()
        return CodePrior(self.conditional, self.codebook, 1).by_place(sequences).sum(1)

    def exact(self) -> dict[str, float]:
        """Population values under x of the model, by enumeration of strings and codes.

        Besides those of `exact_on_points` the total correlation of the codes, the sum of their
        entropies less their joint one; what else the marginal KL holds, which is the KL of every
        code to the prior where this has independent places; and the active units of the vectors.
        """
        strings, sequences = self.decoder.strings(), self.sequences()
        vectors = Codebook(self.codebook)
        table = self.decoder.log_likelihood_by_point(strings, vectors.vectors_of(sequences))
        same = (self.codes[:, None] == sequences).all(2).double()  # [X, K^n]
        values = exact_on_points(table, self.log_prior(), same)
        p = (table + self.log_prior()).logsumexp(1).exp()
        alone = 0.0
        for codes in self.codes.T:
            nothing = torch.zeros(self.codebook.shape[-2], dtype=torch.float64)
            alone += float(entr(nothing.index_add(0, codes, p)).sum())
        z = vectors.vectors_of(self.codes).flatten(1)
        variance = p @ (z - p @ z) ** 2
        correlation = alone - values["mutual_information"]
        return values | {
            "total_correlation": correlation,
            "dimension_kl": values["marginal_kl"] - correlation,
            "active_units": float((variance > THRESHOLD).sum()),
        }


def coded(decoder: LinearWords, codebook: Tensor, conditional: Conditional) -> CodedStrings:
    """Strings with the likeliest codes of the true posterior for each, which are the best.

    Args:
        decoder: of vectors of n d dimensions.
        codebook: [n, K, d], or [K, d] for one code.
        conditional: log p(k_t | k_<t), as of `CodePrior`.
    """
    nothing = torch.empty(0, dtype=torch.int64)
    model = CodedStrings(decoder, codebook, conditional, nothing)
    sequences = model.sequences()
    z = Codebook(codebook).vectors_of(sequences)
    joint = decoder.log_likelihood_by_point(decoder.strings(), z) + model.log_prior()
    return CodedStrings(decoder, codebook, conditional, sequences[joint.argmax(1)])
