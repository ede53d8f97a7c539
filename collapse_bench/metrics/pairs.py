"""Every sentence's draw under every sentence's posterior, in blocks: what mixtures are made of.

Whatever the family, information is computed from log q(z_i|x_j) and nothing else. A family only has
to say these densities, some rows at a time; what becomes of them is here, once for all.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Integers = NDArray[np.integer]

Rows = Callable[[slice], Floats]
"""log q(z_i|x_j) of the sentences i in a slice, one column each j, [R, M], nats; a new array each
time, as it is overwritten."""

ROWS = 256
"""Rows of the N x M matrix that are held at once: memory is linear in N, time is quadratic."""


class Pairs(NamedTuple):
    """Densities of N draws under M posteriors.

    Attributes:
        rows: the densities.
        own: the column of each row that holds log q(z_i|x_i) itself, [N]. Where the columns are but
            some of the sentences, and i is not among them, any column may be given up for it.
        columns: the sentence that each column is of otherwise, [M].
    """

    rows: Rows
    own: Integers
    columns: Integers


def all_pairs(rows: Rows, n: int) -> Pairs:
    """The pairs of N sentences whose j-th column is the j-th sentence."""
    everything = np.arange(n)
    return Pairs(rows, everything, everything)


def normal_pairs(z: Floats, mean: Floats, scale: Floats) -> Pairs:
    """The pairs of N diagonal normals.

    Args:
        z: a draw from each posterior, [N, D].
        mean: posterior means, [N, D].
        scale: posterior standard deviations, [N, D].
    """
    z, mean, scale = (np.asarray(array, dtype=np.float64) for array in (z, mean, scale))
    z, mean = z - mean.mean(axis=0), mean - mean.mean(axis=0)
    return all_pairs(lambda rows: log_density_matrix(z[rows], mean, scale), len(z))


def log_density_matrix(z: Floats, mean: Floats, scale: Floats) -> Floats:
    """log q(z_i | x_j) of diagonal normals, [M, N], in nats.

    Args:
        z: [M, D].
        mean: [N, D].
        scale: standard deviations, [N, D].
    """
    precision = scale**-2.0
    # -(z - mean)^2 / 2 scale^2, multiplied out: one product for all pairs.
    matrix = np.hstack([z**2, z]) @ np.hstack([-0.5 * precision, mean * precision]).T
    matrix -= (0.5 * mean**2 * precision + np.log(scale) + 0.5 * np.log(2 * np.pi)).sum(1)
    return np.asarray(matrix)


def aggregate_terms(pairs: Pairs, tokens: Integers | None = None) -> dict[str, Floats]:
    """Log densities of each draw under mixtures of posteriors, by the names of their arrays.

    Each is [N], float64, nats. `log_density` is that of the sentence's own posterior;
    `log_aggregate` of the mixture of all M, its own among them; `log_others` of the M - 1 others.
    With the lengths, `log_aggregate_given_length` and `log_others_given_length` are the same among
    the posteriors of sentences of its length; for a sentence that is alone in its length they are
    `log_density` and `log_others`.

    Args:
        pairs: of N sentences and M posteriors.
        tokens: length of each sentence, [N].
    """
    n, m = len(pairs.own), len(pairs.columns)
    names = ["log_density", "log_aggregate", "log_others"]
    if tokens is not None:
        names += ["log_aggregate_given_length", "log_others_given_length"]
    terms: dict[str, Floats] = {name: np.empty(n) for name in names}
    for start in range(0, n, ROWS):
        rows = slice(start, min(start + ROWS, n))
        density = np.asarray(pairs.rows(rows), dtype=np.float64)  # [R, M]
        column = pairs.own[rows]
        own = np.arange(len(density)), column
        of_itself = density[own]
        density[own] = -np.inf
        same = {}
        if tokens is not None:
            for length in np.unique(tokens[rows]):
                group = tokens[pairs.columns] == length
                members = np.flatnonzero(tokens[rows] == length)
                size = group.sum() - group[column[members]]
                among = density[np.ix_(members, np.flatnonzero(group))]
                same[length] = members, log_sum(among), size
        sum_of_others = log_sum(density)
        terms["log_density"][rows] = of_itself
        terms["log_aggregate"][rows] = np.logaddexp(of_itself, sum_of_others) - np.log(m)
        # One sentence in all has no others: it is looked at beside itself.
        of_others = sum_of_others - np.log(m - 1) if m > 1 else of_itself
        terms["log_others"][rows] = of_others
        for members, in_group, size in same.values():
            whole = np.logaddexp(of_itself[members], in_group) - np.log(size + 1)
            others = np.where(size, in_group - np.log(np.maximum(size, 1)), of_others[members])
            terms["log_aggregate_given_length"][start + members] = whole
            terms["log_others_given_length"][start + members] = others
    return terms


def log_sum(density: Floats) -> Floats:
    """Logarithm of the sum of the exponentials of each row, [R, M] to [R]; of none it is -inf.

    The array is overwritten.
    """
    largest = density.max(axis=1, initial=-np.inf)
    largest[np.isneginf(largest)] = 0
    density -= largest[:, None]
    np.exp(density, out=density)
    with np.errstate(divide="ignore"):
        return np.asarray(largest + np.log(density.sum(axis=1)))
