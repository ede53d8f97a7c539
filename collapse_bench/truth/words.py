"""Strings whose words are independent given z, with logits linear in z, and sums over points of z.

What the exact models of spherical and of discrete posteriors share: both take z at finitely many
points, the nodes of a quadrature or the codes themselves, and enumerate the strings.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.special import entr, xlogy

from collapse_bench.truth.strings import all_strings


@dataclass(frozen=True, eq=False)
class LinearWords:
    """Decoder p(x_t|z) = softmax(intercept_t + slope_t z) over strings of T words.

    Attributes:
        intercept: [T, V], float64.
        slope: [T, V, D], float64.
    """

    intercept: Tensor
    slope: Tensor

    @property
    def length(self) -> int:
        """T."""
        return self.intercept.shape[0]

    @property
    def vocabulary(self) -> int:
        """V."""
        return self.intercept.shape[1]

    def strings(self) -> Tensor:
        """All of them, [V^T, T]."""
        return all_strings(self.vocabulary, self.length)

    def rows(self, sentences: Tensor) -> Tensor:
        """The place of each among all strings, [B, T] to [B]."""
        places = torch.arange(self.length - 1, -1, -1, device=sentences.device)
        return (sentences * self.vocabulary**places).sum(1)

    def log_words(self, z: Tensor) -> Tensor:
        """log p(x_t|z) of all words, z [B, D] or [B, n, d] to [B, T, V], nats."""
        logits = self.intercept + torch.einsum("tvd,bd->btv", self.slope, z.flatten(1))
        return logits.log_softmax(-1)

    def log_likelihood(self, sentences: Tensor, z: Tensor) -> Tensor:
        """log p(x_t|z), [B, T] and z to [B, T], nats."""
        return self.log_words(z).gather(2, sentences[:, :, None])[:, :, 0]

    def log_likelihood_by_point(self, sentences: Tensor, z: Tensor) -> Tensor:
        """log p(x|z) of all pairs, [N, T] and C points to [N, C], nats."""
        log_words = self.log_words(z)
        nats = torch.zeros(len(sentences), len(z), dtype=torch.float64)
        for t, words in enumerate(sentences.T):
            nats += log_words[:, t, words].T
        return nats

    def draw(self, z: Tensor, generator: torch.Generator) -> Tensor:
        """A string for each z, [n, T]."""
        p = self.log_words(z).exp().flatten(0, 1)
        words = torch.multinomial(p, 1, generator=generator)
        return words.reshape(len(z), self.length)


def exact_on_points(
    log_likelihood: Tensor, log_prior: Tensor, posterior: Tensor
) -> dict[str, float]:
    """Population values under x of the model, in nats, by the names of the metrics.

    x is enumerated and z at C points: sum_c p(c) p(x|c) is p(x). A quadrature's weight is a factor
    of prior and posterior alike, of which nothing is left in their ratios.

    `mutual_information` is that of q; `mutual_information_model` that of the model's own joint;
    `shuffle_gap` compares with z of q(z|x'), x' an independent string.

    Args:
        log_likelihood: log p(x|c), [X, C].
        log_prior: log p(c), [C], whose probabilities sum to 1.
        posterior: q(c|x), [X, C], rows of which sum to 1.
    """
    joint = log_likelihood + log_prior
    log_p = joint.logsumexp(1)
    p = log_p.exp()
    distortion = -(p[:, None] * posterior * log_likelihood).sum()
    aggregate = p @ posterior
    negative_entropy = (p * xlogy(posterior, posterior).sum(1)).sum()
    information = negative_entropy - xlogy(aggregate, aggregate).sum()
    kl = negative_entropy - (aggregate * log_prior).sum()
    nll = entr(p).sum()
    shuffled = -(aggregate * (p @ log_likelihood)).sum()
    values = {
        "nll": nll,
        "distortion": distortion,
        "kl": kl,
        "negative_elbo": distortion + kl,
        "mutual_information": information,
        "marginal_kl": kl - information,
        "useful_rate": nll - distortion,
        "mutual_information_model": (joint.exp() * (log_likelihood - log_p[:, None])).sum(),
        "shuffle_gap": shuffled - distortion,
    }
    return {name: float(value) for name, value in values.items()}
