"""The linear VAE at its optimum: probabilistic principal components (Tipping & Bishop 1999).

Of data of covariance S = U diag(l) U', l descending, the likeliest decoder with D latents is
W = U_D (diag(l_1..l_D) - s^2 I)^(1/2) O, s^2 the mean of the other l and O any orthogonal matrix
(their equations 7 and 8); the ELBO has no other local maxima (Lucas et al. 2019). With
M = W'W + s^2 I the posterior is N(M^-1 W'(x - m), s^2 M^-1). The closed forms, in nats:

    E log p(x)        -(X ln 2 pi + sum_{i<=D} ln l_i + (X - D) ln s^2 + X) / 2
    I(x; z)           sum_{i<=D} ln(l_i / s^2) / 2

With O = I the columns of W are orthogonal, M is diagonal, and a diagonal q is exact: R = I = U,
the aggregate posterior is the prior, and the mean of dimension i has variance 1 - s^2 / l_i.
With another O all of this is as before but for the best diagonal q, which is short of the true
posterior by (sum_j ln M_jj - ln |M|) / 2: that much approximation gap, no amortisation gap.
"""

import torch
from torch import Tensor

from collapse_bench.truth.gaussian import LinearGaussian, linear_gaussian


def linear_vae(eigenvalues: Tensor, latent: int, rotation: Tensor | None = None) -> LinearGaussian:
    """The optimum for data of covariance diag(eigenvalues), with its best diagonal posterior.

    Args:
        eigenvalues: of the data covariance, descending, positive, [X].
        latent: D, fewer than X.
        rotation: O, orthogonal, [D, D]; None is I, for which the posterior is exact.

    Raises:
        ValueError: the eigenvalues are not as said, or D is not, or one of the first D is not above
            the mean of the rest.
    """
    if (eigenvalues.diff() > 0).any() or not (eigenvalues > 0).all():
        raise ValueError("eigenvalues: must be positive and descending")
    if not 0 < latent < len(eigenvalues):
        raise ValueError(f"latent: must be from 1 to {len(eigenvalues) - 1}, not {latent}")
    noise = eigenvalues[latent:].mean()
    if not (eigenvalues[:latent] > noise).all():
        raise ValueError("eigenvalues: the first D must be above the mean of the others")
    turn = torch.eye(latent, dtype=torch.float64) if rotation is None else rotation
    loading = torch.zeros(len(eigenvalues), latent, dtype=torch.float64)
    loading[:latent] = (eigenvalues[:latent] - noise).sqrt()[:, None] * turn
    return linear_gaussian(loading, noise * torch.eye(len(eigenvalues), dtype=torch.float64))


def fitted_linear_vae(
    covariance: Tensor, latent: int, mean: Tensor | None = None
) -> LinearGaussian:
    """The optimum for data of any covariance, with the exact posterior.

    Args:
        covariance: S, [X, X].
        latent: D, fewer than X.
        mean: m of the data, [X]; None is 0.

    Raises:
        ValueError: see `linear_vae`.
    """
    eigenvalues, axes = torch.linalg.eigh(covariance)
    aligned = linear_vae(eigenvalues.flip(0), latent)
    return linear_gaussian(axes.flip(1) @ aligned.loading, aligned.noise, mean=mean)
