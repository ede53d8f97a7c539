"""Linear-Gaussian models, whose every number is a difference of Gaussian cross-entropies.

x = W z + m + e with z ~ N(0, P) and e ~ N(0, Sigma), so that x ~ N(m, C), C = W P W' + Sigma. The
posterior q(z|x) = N(A (x - m) + b, diag V) is whatever it is set to be: A, b and V need not be
those of the true one. If x ~ N(m, S), the aggregate posterior is N(b, Q), Q = A S A' + diag V.
"""

import math
from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor
from torch.distributions import Distribution, MultivariateNormal

from collapse_bench.metrics.active_units import THRESHOLD
from collapse_bench.model import diagonal_normal


@dataclass(frozen=True, eq=False)
class LinearGaussian:
    """A `LatentModel` over vectors x [B, X] with z [B, D]; X counts all coordinates of a sentence.

    `dataclasses.replace(model, gain=..., shift=..., variance=...)` gives it another posterior.

    Attributes:
        loading: W, [X, D].
        mean: m, [X].
        noise: Sigma, [X, X].
        prior_covariance: P, [D, D].
        gain: A, [D, X].
        shift: b, [D].
        variance: V, the diagonal of q's covariance, [D].
        positions: T, equal parts of x in order, by which the log-likelihood is told; T divides X.

    Raises:
        ValueError: the parts do not fit together, are not float64, or V is not positive.
    """

    loading: Tensor
    mean: Tensor
    noise: Tensor
    prior_covariance: Tensor
    gain: Tensor
    shift: Tensor
    variance: Tensor
    positions: int = 1

    def __post_init__(self) -> None:
        x, d = self.loading.shape
        shapes = {
            "mean": (x,),
            "noise": (x, x),
            "prior_covariance": (d, d),
            "gain": (d, x),
            "shift": (d,),
            "variance": (d,),
        }
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                found = list(getattr(self, name).shape)
                raise ValueError(f"{name}: must be {list(shape)}, not {found}")
        tensors = [getattr(self, field.name) for field in fields(self)][:-1]
        if any(tensor.dtype != torch.float64 for tensor in tensors):
            raise ValueError("all tensors must be float64")
        if not (self.variance > 0).all():
            raise ValueError("variance: must be positive")
        if self.positions < 1 or x % self.positions:
            raise ValueError(f"positions: {self.positions} equal parts of {x} coordinates")

    def posterior(self, sentences: Tensor) -> Distribution:
        """N(A (x - m) + b, diag V), [B, X] to [B, D]."""
        mean = self.posterior_mean(sentences)
        return diagonal_normal(mean, self.variance.sqrt().expand_as(mean))

    def prior(self, sentences: Tensor) -> Distribution:
        """N(0, P), [B, D]."""
        zero = self.shift.new_zeros(len(sentences), len(self.shift))
        if is_diagonal(self.prior_covariance):
            return diagonal_normal(zero, self.prior_covariance.diagonal().sqrt().expand_as(zero))
        return CorrelatedNormal(zero, scale_tril=torch.linalg.cholesky(self.prior_covariance))

    def log_likelihood(self, sentences: Tensor, z: Tensor) -> Tensor:
        """log p(x_t | x_<t, z), x [B, X] and z [B, D] to [B, T]."""
        residual = sentences - self.mean - z @ self.loading.T
        return log_normal(residual, self.noise, self.positions)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Sentences of the model, [n, X]."""

        def normal(covariance: Tensor) -> Tensor:
            noise = torch.randn(n, len(covariance), generator=generator, dtype=torch.float64)
            factor: Tensor = torch.linalg.cholesky(covariance)
            return noise @ factor.T

        return self.mean + normal(self.prior_covariance) @ self.loading.T + normal(self.noise)

    def posterior_mean(self, sentences: Tensor) -> Tensor:
        """A (x - m) + b, [N, X] to [N, D]."""
        return (sentences - self.mean) @ self.gain.T + self.shift

    def covariance(self) -> Tensor:
        """C = W P W' + Sigma of the sentences, [X, X]."""
        return self.loading @ self.prior_covariance @ self.loading.T + self.noise

    def true_posterior(self) -> tuple[Tensor, Tensor]:
        """Gain [D, X] and covariance [D, D] of p(z|x) = N(M^-1 W' Sigma^-1 (x - m), M^-1).

        M = P^-1 + W' Sigma^-1 W (Bishop 2006, equations 2.116 and 2.117).
        """
        back = torch.linalg.solve(self.noise, self.loading).T  # W' Sigma^-1
        covariance = torch.linalg.inv(torch.linalg.inv(self.prior_covariance) + back @ self.loading)
        return covariance @ back, covariance

    def best_diagonal(self) -> Self:
        """The same decoder with the best q of diagonal covariance for every sentence.

        Its mean is the true one and V_j = 1 / M_jj; it is short of the true posterior by
        (sum_j ln M_jj - ln |M|) / 2 (Bishop 2006, section 10.1.2).
        """
        gain, covariance = self.true_posterior()
        variance = 1 / torch.linalg.inv(covariance).diagonal()
        return replace(self, gain=gain, shift=torch.zeros_like(self.shift), variance=variance)

    def with_exact_posterior(self) -> Self:
        """The same density of x with z turned so that its true posterior is diagonal, and q that.

        Raises:
            ValueError: P is not I, which no rotation of z would leave as it is.
        """
        if not torch.equal(self.prior_covariance, torch.eye(len(self.shift), dtype=torch.float64)):
            raise ValueError("only under the prior N(0, I) may z be turned")
        _, turn = torch.linalg.eigh(self.true_posterior()[1])
        return replace(self, loading=self.loading @ turn).best_diagonal()

    def autoencoder(self, spread: float, width: float) -> Self:
        """What no price on the rate leads to: the likeliest codes, far apart and narrow.

        The codes (W' Sigma^-1 W)^-1 W' Sigma^-1 (x - m) have the least distortion; both they and
        what the decoder expects are `spread` times as large.

        Args:
            spread: factor of the codes.
            width: standard deviation of q in every dimension.
        """
        back = torch.linalg.solve(self.noise, self.loading).T
        return replace(
            self,
            loading=self.loading / spread,
            gain=spread * torch.linalg.solve(back @ self.loading, back),
            shift=torch.zeros_like(self.shift),
            variance=torch.full_like(self.variance, width**2),
        )

    def exact_nll(self, sentences: Tensor) -> Tensor:
        """-log p(x), [N, X] to [N]."""
        return -log_normal(sentences - self.mean, self.covariance())[:, 0]

    def exact_distortion(self, sentences: Tensor) -> Tensor:
        """-E_q log p(x|z), [N, X] to [N]: that of the mean, and tr(Sigma^-1 W diag V W') / 2."""
        at_mean = self.log_likelihood(sentences, self.posterior_mean(sentences)).sum(1)
        spread: Tensor = self.loading * torch.linalg.solve(self.noise, self.loading)
        return -at_mean + 0.5 * (spread.sum(0) * self.variance).sum()

    def exact_kl(self, sentences: Tensor) -> Tensor:
        """KL(q(z|x) || N(0, P)), [N, X] to [N]."""
        at_mean = -log_normal(self.posterior_mean(sentences), self.prior_covariance)[:, 0]
        precision: Tensor = torch.linalg.inv(self.prior_covariance).diagonal()
        return at_mean + 0.5 * (precision * self.variance).sum() - entropy(self.variance.diag())

    def exact(self, data: Tensor | None = None) -> dict[str, float]:
        """Population values in nats, by the names of the metrics.

        With H(F, G) = (n ln 2 pi + ln |G| + tr(G^-1 F)) / 2, the cross-entropy of N(0, G) under any
        zero-mean density of second moment F, and H(G) = H(G, G):

            nll                      H(S, C)
            distortion               H(F, Sigma), F the second moment of x - m - W z, z from q:
                                     (I - W A) S (I - W A)' + W (diag V + b b') W'
            kl                       H(Q + b b', P) - H(diag V)
            mutual_information       I_q = H(Q) - H(diag V) = ln |I + V^-1 A S A'| / 2
            marginal_kl              KL(N(b, Q) || N(0, P)) = H(Q + b b', P) - H(Q)
            total_correlation        sum_j H(Q_jj) - H(Q)
            dimension_kl             sum_j KL(N(b_j, Q_jj) || N(0, P_jj))
            useful_rate              nll - distortion
            mutual_information_model I_p(x; z) of the decoder and its prior, H(C) - H(Sigma)
            shuffle_gap              tr(Sigma^-1 W A S): all that a z of another sentence changes is
                                     the covariance of x and z
            active_units             dimensions with (A S A')_jj > 0.01

        R = I + TC + dimension-wise KL holds for a diagonal P; for others the last two are left out.

        Args:
            data: S, the covariance of x ~ N(m, S), [X, X]; None is C, x from the model.
        """
        own = self.covariance()
        s = own if data is None else data
        means = self.gain @ s @ self.gain.T
        within = self.variance.diag()
        aggregate, shifted = means + within, means + within + self.shift.outer(self.shift)
        left = torch.eye(len(s), dtype=torch.float64) - self.loading @ self.gain
        spread = within + self.shift.outer(self.shift)
        residual = left @ s @ left.T + self.loading @ spread @ self.loading.T

        nll = cross_entropy(s, own)
        distortion = cross_entropy(residual, self.noise)
        of_prior = cross_entropy(shifted, self.prior_covariance)
        kl = of_prior - entropy(within)
        values = {
            "nll": nll,
            "distortion": distortion,
            "kl": kl,
            "negative_elbo": distortion + kl,
            "mutual_information": entropy(aggregate) - entropy(within),
            "marginal_kl": of_prior - entropy(aggregate),
            "useful_rate": nll - distortion,
            "mutual_information_model": entropy(own) - entropy(self.noise),
            "shuffle_gap": torch.linalg.solve(self.noise, self.loading @ self.gain @ s).trace(),
            "active_units": (means.diagonal() > THRESHOLD).sum(),
        }
        if is_diagonal(self.prior_covariance):
            of_dimensions = entropy(aggregate.diagonal().diag())
            values["total_correlation"] = of_dimensions - entropy(aggregate)
            values["dimension_kl"] = of_prior - of_dimensions
        return {name: float(value) for name, value in values.items()}


class CorrelatedNormal(MultivariateNormal):
    """A normal of any covariance that can be drawn as a function of given noise."""

    def from_noise(self, noise: Tensor) -> Tensor:
        """z [B, D] from standard normal noise of that shape."""
        z: Tensor = self.loc + noise.to(self.loc) @ self.scale_tril[0].T
        return z


def linear_gaussian(
    loading: Tensor,
    noise: Tensor,
    *,
    mean: Tensor | None = None,
    prior_covariance: Tensor | None = None,
    positions: int = 1,
) -> LinearGaussian:
    """A model with the best diagonal posterior.

    Args:
        loading: W, [X, D].
        noise: Sigma, [X, X].
        mean: m, [X]; None is 0.
        prior_covariance: P, [D, D]; None is I.
        positions: T, parts of x by which the log-likelihood is told.
    """
    x, d = loading.shape
    return LinearGaussian(
        loading=loading,
        mean=torch.zeros(x, dtype=torch.float64) if mean is None else mean,
        noise=noise,
        prior_covariance=(
            torch.eye(d, dtype=torch.float64) if prior_covariance is None else prior_covariance
        ),
        gain=torch.zeros(d, x, dtype=torch.float64),
        shift=torch.zeros(d, dtype=torch.float64),
        variance=torch.ones(d, dtype=torch.float64),
        positions=positions,
    ).best_diagonal()


def log_normal(residual: Tensor, covariance: Tensor, parts: int = 1) -> Tensor:
    """log N(residual; 0, covariance), told by T equal parts, each given those before it.

    The Cholesky factor whitens a vector from its first coordinate to its last, so that its terms
    are conditional densities already.

    Args:
        residual: [N, X].
        covariance: [X, X].
        parts: T.

    Returns:
        [N, T], nats.
    """
    factor: Tensor = torch.linalg.cholesky(covariance)
    white: Tensor = torch.linalg.solve_triangular(factor, residual.T, upper=False).T
    nats = -0.5 * white**2 - factor.diagonal().log() - 0.5 * math.log(2 * math.pi)
    return nats.reshape(len(residual), parts, -1).sum(-1)


def cross_entropy(moment: Tensor, covariance: Tensor) -> Tensor:
    """-E log N(y; 0, covariance) of y with that second moment, [n, n] and [n, n] to [], nats."""
    factor: Tensor = torch.linalg.cholesky(covariance)
    scaled = torch.cholesky_solve(moment, factor).trace()
    return 0.5 * (len(moment) * math.log(2 * math.pi) + scaled) + factor.diagonal().log().sum()


def entropy(covariance: Tensor) -> Tensor:
    """Differential entropy of a normal, [n, n] to [], nats."""
    return cross_entropy(covariance, covariance)


def is_diagonal(matrix: Tensor) -> bool:
    """Whether everything off the diagonal is exactly zero."""
    return torch.equal(matrix, matrix.diagonal().diag())
