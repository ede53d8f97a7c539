"""Linear-Gaussian sequences: a decoder that sees what it has written, and a latent that it may use.

x_t = sum_j A_j x_{t-j} + B z + e_t with z ~ N(0, I) and e_t ~ N(0, Q), t = 1..T, x_t = 0 before the
start. With L = I less the A_j in the j-th block below the diagonal, L x = (1 (x) B) z + e, so that

    x | z ~ N(L^-1 (1 (x) B) z, L^-1 (I (x) Q) L^-T)
    z | x has precision I + T B' Q^-1 B and mean (I + T B' Q^-1 B)^-1 (1 (x) B)' (I (x) Q^-1) L x
    I(x; z) = ln |I + T B' Q^-1 B| / 2

since |L| = 1: information does not depend on what the decoder makes of its history. How well a
decoder does without z depends on it: with the full history a language model has the same NLL, and
the least D + R is the same at every rate (Chen et al. 2017, section 2.1; Alemi et al. 2018).
"""

import torch
from torch import Tensor

from collapse_bench.truth.gaussian import LinearGaussian, entropy, linear_gaussian


def linear_sequence(
    transitions: Tensor, loading: Tensor, noise: Tensor, length: int
) -> LinearGaussian:
    """The model whose decoder sees its full history, with the exact posterior.

    z is turned so that the exact posterior is diagonal. A sentence is its T steps one after
    another, [N, T Y], and its log-likelihood is told by position.

    Args:
        transitions: A_1 to A_J, [J, Y, Y]; no eigenvalue condition, since T is finite.
        loading: B, [Y, D].
        noise: Q, [Y, Y].
        length: T.
    """
    y = len(noise)
    weights = torch.zeros(length, length, y, y, dtype=torch.float64)
    for j, transition in enumerate(transitions, start=1):
        for t in range(j, length):
            weights[t, t - j] = transition
    stacked = weights.permute(0, 2, 1, 3).reshape(length * y, length * y)
    noises = torch.block_diag(*[noise] * length)
    return _from_recursion(stacked, loading.repeat(length, 1), noises, length)


def windowed(model: LinearGaussian, window: int) -> LinearGaussian:
    """The same sentences under a decoder that sees z and the last k steps only.

    The decoder is the best one given the true z: every p(x_t | x_{t-k}..x_{t-1}, z) is that of the
    model. Their product is another density of x, whose numbers its own `exact` tells; on sentences
    of the model they are `windowed(model, k).exact(model.covariance())`. It is not the decoder that
    maximises the ELBO, which may trade what z says for a longer memory of x.

    Args:
        model: of T positions, prior N(0, I).
        window: k, steps of history, from 0 (every x_t on its own given z) on.

    Raises:
        ValueError: the window is negative, or the model has another prior.
    """
    if window < 0:
        raise ValueError(f"window: must be at least 0, not {window}")
    t_count, d = model.positions, model.loading.shape[1]
    size, y = len(model.noise), len(model.noise) // t_count
    identity = torch.eye(d, dtype=torch.float64)
    if not torch.equal(model.prior_covariance, identity):
        raise ValueError("the model must have the prior N(0, I)")
    joint = torch.cat(
        [
            torch.cat([identity, model.loading.T], dim=1),
            torch.cat([model.loading, model.covariance()], dim=1),
        ]
    )  # of z and x
    weights = torch.zeros(size, size, dtype=torch.float64)
    loading = torch.zeros(size, d, dtype=torch.float64)
    noises = []
    for t in range(t_count):
        now, seen = _steps(t, t + 1, y), _steps(max(0, t - window), t, y)
        given = torch.cat([torch.arange(d), d + seen])
        coefficients, noise = conditional(joint, d + now, given)
        loading[now] = coefficients[:, :d]
        weights[now[:, None], seen] = coefficients[:, d:]
        noises.append(noise)
    return _from_recursion(weights, loading, torch.block_diag(*noises), t_count, model.mean)


def history_gap(model: LinearGaussian, window: int) -> Tensor:
    """What a language model loses at every position by seeing the last k steps only, in nats.

    h(x_t | x_{t-k}..x_{t-1}) - h(x_t | x_<t), z integrated out; the sum is by how much its NLL is
    above that of the model.

    Args:
        model: of T positions.
        window: k, from 0 on.

    Returns:
        [T]; 0 where the window reaches the start.
    """
    covariance, y = model.covariance(), len(model.noise) // model.positions
    gaps = []
    for t in range(model.positions):
        now = _steps(t, t + 1, y)
        entropies = [
            entropy(conditional(covariance, now, _steps(start, t, y))[1])
            for start in (max(0, t - window), 0)
        ]
        gaps.append(entropies[0] - entropies[1])
    return torch.stack(gaps)


def conditional(covariance: Tensor, target: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
    """Coefficients [n, m] and covariance [n, n] of some coordinates of a zero-mean normal given
    others.

    Args:
        covariance: of all.
        target: places of the n.
        given: places of the m, possibly none.
    """
    cross = covariance[target[:, None], given]
    coefficients = torch.linalg.solve(covariance[given[:, None], given], cross.T).T
    left = covariance[target[:, None], target] - coefficients @ cross.T
    return coefficients, (left + left.T) / 2


def _steps(start: int, stop: int, width: int) -> Tensor:
    """Places of the coordinates of steps start to stop - 1."""
    return torch.arange(start * width, stop * width)


def _from_recursion(
    weights: Tensor, loading: Tensor, noise: Tensor, length: int, mean: Tensor | None = None
) -> LinearGaussian:
    """x - m = weights (x - m) + loading z + e, weights lower in blocks; its posterior is exact."""
    steps = torch.eye(len(weights), dtype=torch.float64) - weights
    spread = torch.linalg.solve(steps, torch.linalg.cholesky(noise))
    stacked = torch.linalg.solve(steps, loading)
    model = linear_gaussian(stacked, spread @ spread.T, mean=mean, positions=length)
    return model.with_exact_posterior()
