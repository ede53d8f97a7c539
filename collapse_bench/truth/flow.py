"""An exactly known model with its latent pushed through an invertible map.

z = f(y) with y the latent of a linear-Gaussian model, prior and posterior pushed alike. Both
densities lose the same log |det J|, so that no ratio of them changes, nor does what the decoder
says of f^-1(z): rate, distortion, evidence, information and what is useful of them are those of
the linear model, though q(z|x) is no normal.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution, Transform

from collapse_bench.model.distributions.flow import AutoregressiveAffine, Flow
from collapse_bench.truth.gaussian import LinearGaussian

OF_THE_NORMAL = ("total_correlation", "dimension_kl", "active_units")
"""Exact values that are of y and not of z."""


@dataclass(frozen=True, eq=False)
class Pushed:
    """A `LatentModel` over vectors x [B, X] with z [B, D].

    Attributes:
        source: the model whose latent is pushed.
        transform: f, over single coordinates or over vectors of D.
    """

    source: LinearGaussian
    transform: Transform

    def posterior(self, sentences: Tensor) -> Distribution:
        """f of the normal posterior, [B, D]."""
        return Flow(self.source.posterior(sentences), self.transform)

    def prior(self, sentences: Tensor) -> Distribution:
        """f of the normal prior, [B, D]."""
        return Flow(self.source.prior(sentences), self.transform)

    def log_likelihood(self, sentences: Tensor, z: Tensor) -> Tensor:
        """log p(x_t | x_<t, f^-1(z)), x [B, X] and z [B, D] to [B, T]."""
        return self.source.log_likelihood(sentences, self.transform.inv(z))

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Sentences of the model, [n, X]."""
        return self.source.draw(n, generator)

    def exact(self) -> dict[str, float]:
        """Population values in nats: those of the source that no map of z changes."""
        known = self.source.exact()
        return {name: value for name, value in known.items() if name not in OF_THE_NORMAL}


def bent(weights: Tensor) -> Transform:
    """An autoregressive map, m_i = w_i'y_<i and s_i = 2 + sin(w_i'y_<i).

    Args:
        weights: w, [D, D], of which what is below the diagonal counts.
    """
    lower = weights.tril(-1)

    def conditioner(y: Tensor) -> tuple[Tensor, Tensor]:
        shift = y @ lower.T
        return shift, 2 + torch.sin(shift)

    return AutoregressiveAffine(conditioner)
