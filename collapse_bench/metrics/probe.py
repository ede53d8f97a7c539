"""What a sentence's length and first words tell of its latent."""

from collections.abc import Callable

import numpy as np
from scipy.linalg import solve_triangular

from collapse_bench.metrics.pairs import ROWS, Floats, Integers, log_density_matrix, log_sum

FREQUENT = 20
"""Sentences of the fitting half in which a word must be for a coefficient of its own."""

STRENGTHS = (1.0, 10.0, 100.0, 1000.0, np.inf)
"""Ridge penalties to choose from, in sentences; under the last one nothing is learnt."""

FLOOR = 1e-6
"""Share of a dimension's variance that always stays unexplained, lest a logarithm be infinite."""


def probe_information(z: Floats, tokens: Integers, first_words: Integers, seed: int = 0) -> Floats:
    """What length and first words tell of z to a linear-Gaussian probe, in nats, [N].

    Terms of the predictive V-information (Xu et al. 2020) log r(z|c) - log r(z): r is
    a normal with full covariance and a mean that is linear in the length, its square and the first
    words, for z without them a constant. If a VAE's latent tells little more than this, it has
    memorised how sentences begin and end (Bosc and Vincent 2020). Every sentence is judged by a
    probe that was fitted to the other half: where there is nothing to learn it may be slightly
    negative.

    It cannot see what is not linear: z may hold more of length and words than this, as in its
    variance, in combinations of them or in rare words. Of a z that falls into clusters it may say
    more than there is to know, as one normal is a poor r(z). With fewer than four sentences nothing
    can be fitted, and it is zero.

    Args:
        z: a draw from each posterior, [N, D].
        tokens: length of each sentence, [N].
        first_words: ids of the first words of each sentence, -1 past its end, [N, W].
        seed: of the two halves.
    """

    def judge(fitted: Integers, judged: Integers, z: Floats) -> Floats:
        x = _features(tokens, first_words, fitted)
        known = _fit(x[fitted], z[fitted], x[judged], STRENGTHS)
        unknown = _fit(x[fitted], z[fitted], x[judged], STRENGTHS[-1:])
        return _log_density(z[judged], *known) - _log_density(z[judged], *unknown)

    return _cross_fitted(judge, z, seed)


def first_words_information(
    z: Floats, tokens: Integers, first_words: Integers, seed: int = 0
) -> Floats:
    """What first words tell of z beyond the length to a linear-Gaussian probe, in nats, [N].

    What length and words tell less what the length alone tells, I(c; z) - I(length; z), either by
    the terms log r(z|c_i) - log mean_j r(z|c_j): r as in `probe_information`, with a
    coefficient for each frequent length too, and j over the half that r was fitted to and i. The
    mixture in place of a normal keeps each from above what there is to know (Barber and Agakov
    2003; van den Oord et al. 2018), however z is spread. The difference of two lower bounds is
    none; it is slightly negative where there is nothing to learn.

    It cannot see what is not linear in the words. With fewer than four sentences it is zero.

    Args:
        z: a draw from each posterior, [N, D].
        tokens: length of each sentence, [N].
        first_words: ids of the first words of each sentence, -1 past its end, [N, W].
        seed: of the two halves.
    """
    none = first_words[:, :0]

    def judge(fitted: Integers, judged: Integers, z: Floats) -> Floats:
        terms = []
        for words in (first_words, none):
            x = _features(tokens, words, fitted, lengths=True)
            everywhere, covariance = _fit(x[fitted], z[fitted], x, STRENGTHS)
            terms.append(_among(z[judged], everywhere[judged], everywhere[fitted], covariance))
        return terms[0] - terms[1]

    return _cross_fitted(judge, z, seed)


def _cross_fitted(
    judge: Callable[[Integers, Integers, Floats], Floats], z: Floats, seed: int
) -> Floats:
    """Terms of each half by what was fitted to the other, [N]; zero where nothing can be fitted.

    Args:
        judge: rows to fit to, rows to judge and standardised z [N, D] to terms of the judged.
        z: [N, D].
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
        terms[judged] = judge(fitted, judged, z)
    return terms


def _features(
    tokens: Integers, first_words: Integers, fitted: Integers, lengths: bool = False
) -> Floats:
    """Length, its square and one column for each frequent first word, [N, F], centred.

    Args:
        tokens: [N].
        first_words: [N, W].
        fitted: rows that the columns are chosen by.
        lengths: whether each frequent length has a column, too.
    """
    length = tokens - tokens[fitted].mean()
    length = length / (length[fitted].std() or 1.0)
    columns = [np.stack([length, length**2], axis=1)]
    for values in (*first_words.T, *([tokens] if lengths else [])):
        known, counts = np.unique(values[fitted], return_counts=True)
        columns.append((values[:, None] == known[counts >= FREQUENT]).astype(np.float64))
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


def _among(z: Floats, mean: Floats, others: Floats, covariance: Floats) -> Floats:
    """log N(z; mean, covariance) less that of the mean density with it and the others, [M].

    Args:
        z: [M, D].
        mean: one for each z, [M, D].
        others: means of the others in the mixture, [F, D].
        covariance: of all, [D, D].
    """
    root = np.linalg.cholesky(covariance)
    z, mean, others = (solve_triangular(root, each.T, lower=True).T for each in (z, mean, others))
    ones = np.ones_like(others)
    own = -0.5 * ((z - mean) ** 2).sum(axis=1)
    terms = np.empty(len(z))
    for start in range(0, len(z), ROWS):
        rows = slice(start, start + ROWS)
        density = log_density_matrix(z[rows], others, ones)
        density += 0.5 * z.shape[1] * np.log(2 * np.pi)
        both = np.logaddexp(own[rows], log_sum(density))
        terms[rows] = own[rows] - both + np.log(len(others) + 1)
    return terms
