"""What a sentence's length and first words tell of its latent."""

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

Floats = NDArray[np.floating]

FREQUENT = 20
"""Sentences of the fitting half in which a word must be for a coefficient of its own."""

STRENGTHS = (1.0, 10.0, 100.0, 1000.0, np.inf)
"""Ridge penalties to choose from, in sentences; under the last one nothing is learnt."""

FLOOR = 1e-6
"""Share of a dimension's variance that always stays unexplained, lest a logarithm be infinite."""


def probe_information(
    z: Floats, tokens: NDArray[np.integer], first_words: NDArray[np.integer], seed: int = 0
) -> Floats:
    """What length and first words tell of z to a linear-Gaussian probe, in nats, [N].

    Terms of the predictive V-information (Xu et al. 2020) log r(z|c) - log r(z): r is
    a normal with full covariance and a mean that is linear in the length, its square and the first
    words, for z without them a constant. If a VAE's latent tells little more than this, it has
    memorised how sentences begin and end (Bosc and Vincent 2020). Every sentence is judged by a
    probe that was fitted to the other half: where there is nothing to learn it may be slightly
    negative.

    It cannot see what is not linear: z may hold more of length and words than this, as in its
    variance, in combinations of them or in rare words. With fewer than four sentences nothing can
    be fitted, and it is zero.

    Args:
        z: a draw from each posterior, [N, D].
        tokens: length of each sentence, [N].
        first_words: ids of the first words of each sentence, -1 past its end, [N, W].
        seed: of the two halves.
    """
    z = np.asarray(z, dtype=np.float64)
    n = len(z)
    z = z[:, np.ptp(z, axis=0) > 0] if n else z
    terms = np.zeros(n)
    if n < 4 or z.shape[1] == 0:
        return terms
    z = (z - z.mean(axis=0)) / z.std(axis=0)
    halves = np.array_split(np.random.default_rng(seed).permutation(n), 2)
    for fitted, judged in (halves, halves[::-1]):
        x = _features(np.asarray(tokens), np.asarray(first_words), fitted)
        known = _fit(x[fitted], z[fitted], x[judged], STRENGTHS)
        unknown = _fit(x[fitted], z[fitted], x[judged], STRENGTHS[-1:])
        terms[judged] = _log_density(z[judged], *known) - _log_density(z[judged], *unknown)
    return terms


def _features(
    tokens: NDArray[np.integer], first_words: NDArray[np.integer], fitted: NDArray[np.integer]
) -> Floats:
    """Length, its square and one column for each frequent first word, [N, F], centred."""
    length = tokens - tokens[fitted].mean()
    length = length / (length[fitted].std() or 1.0)
    columns = [np.stack([length, length**2], axis=1)]
    for words in first_words.T:
        known, counts = np.unique(words[fitted], return_counts=True)
        columns.append((words[:, None] == known[counts >= FREQUENT]).astype(np.float64))
    x = np.concatenate(columns, axis=1)
    return np.asarray(x - x[fitted].mean(axis=0))


def _fit(
    x: Floats, z: Floats, elsewhere: Floats, strengths: tuple[float, ...]
) -> tuple[Floats, Floats]:
    """Means [M, D] of z for other sentences and the covariance [D, D] around them.

    By ridge regression, with that strength for each dimension that has the least error for a
    sentence left out. The covariance is of these errors, so that it holds that of the fit; between
    dimensions it is shrunk a little.

    Args:
        x: features of the fitted sentences, [F, P], centred.
        z: their latents, [F, D].
        elsewhere: features of the others, [M, P].
        strengths: to choose from.
    """
    n, d = z.shape
    centre = z.mean(axis=0)
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    along = u.T @ (z - centre)
    least = np.full(d, np.inf)
    residual, slope = np.empty((n, d)), np.empty((x.shape[1], d))
    for strength in strengths:
        kept = s**2 / (s**2 + strength)
        leverage = 1 / n + (u**2) @ kept
        left_out = (z - centre - u @ (kept[:, None] * along)) / (1 - leverage)[:, None]
        error = (left_out**2).sum(axis=0)
        better = error < least
        least[better] = error[better]
        residual[:, better] = left_out[:, better]
        weight = s / (s**2 + strength)
        slope[:, better] = (vt.T @ (weight[:, None] * along))[:, better]
    covariance = residual.T @ residual / n
    diagonal = np.diag(np.diag(covariance))
    covariance += (diagonal - covariance) * d / (n + d) + FLOOR * np.eye(d)
    return centre + elsewhere @ slope, covariance


def _log_density(z: Floats, mean: Floats, covariance: Floats) -> Floats:
    """log N(z; mean, covariance) up to a constant, [M]."""
    root = np.linalg.cholesky(covariance)
    deviation = solve_triangular(root, (z - mean).T, lower=True)
    return np.asarray(-0.5 * (deviation**2).sum(axis=0) - np.log(np.diag(root)).sum())
