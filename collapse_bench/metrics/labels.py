"""What the latent tells of known attributes of the sentence, I_q(a; z)."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from collapse_bench.metrics.mutual_information import ROWS, VANISHING, log_density_matrix

Floats = NDArray[np.floating]

POWERS = tuple(0.5**k for k in range(8))
"""Of the densities that vote on a label; 1 is Bayes' rule, and near 0 all votes count the same."""


def entropy(labels: NDArray[Any]) -> float:
    """Entropy of the labels' frequencies, in nats: the most that z can tell of them.

    Args:
        labels: one value a sentence, [N].
    """
    shares = np.unique(labels, return_counts=True)[1] / len(labels)
    return max(0.0, float(-(shares * np.log(shares)).sum()))


def information_about(
    labels: Mapping[str, NDArray[Any]], z: Floats, mean: Floats, scale: Floats
) -> dict[str, Floats]:
    """Terms of I_q(a; z) = E [log q(z|a) - log q(z)] of each attribute, [N], in nats.

    q(z|a) is the mixture of the posteriors of the sentences with the label a, q(z) that of all (as
    for the factors of Chen et al. 2018, section 4). Both leave out the sentence whose z is looked
    at: with it q(z|a) would tell of the sentence, not of its label.

    Where z tells far more of the sentence than N sentences can show, only the nearest posterior
    counts in either mixture, and the plain difference is nats below zero, whatever is true. Read by
    the rule of Bayes, it is log p(a|z) - log p(a) with posteriors that vote on the label: a bound
    from below for any votes (Barber and Agakov 2003). So all densities are raised to the power of
    `POWERS` that gives the highest bound. It is still a bound, too low in many dimensions. A term
    is at most log((N - 1) / (n_a - 1)) for a label of n_a sentences.

    A label that occurs once tells of nothing but its sentence: log q(z|a) is taken as log q(z), and
    the term is zero. So are all of a label that every sentence has.

    It cannot see whether the decoder listens, nor what two attributes tell together.

    Args:
        labels: attributes by name, each one discrete value a sentence, [N].
        z: a draw from each posterior, [N, D].
        mean: posterior means, [N, D].
        scale: posterior standard deviations, [N, D].
    """
    z, mean, scale = (np.asarray(array, dtype=np.float64) for array in (z, mean, scale))
    n = len(z)
    if n < 2 or z.shape[1] == 0:
        return {name: np.zeros(n) for name in labels}
    codes = {name: np.unique(values, return_inverse=True)[1] for name, values in labels.items()}
    sizes = {name: np.bincount(code)[code] for name, code in codes.items()}
    terms = {name: np.zeros((len(POWERS), n)) for name in labels}
    z, mean = z - mean.mean(0), mean - mean.mean(0)
    for start in range(0, n, ROWS):
        density = log_density_matrix(z[start : start + ROWS], mean, scale)  # [R, N]
        row = np.arange(len(density))
        density[row, start + row] = -np.inf
        density -= density.max(axis=1, keepdims=True)
        for number, power in enumerate(POWERS):
            votes = np.exp(power * density)
            of_all = np.log(votes.sum(axis=1)) - np.log(n - 1)
            for name, code in codes.items():
                shared = sizes[name][start + row] > 1
                same = code[start + row, None] == code
                of_same = np.where(same, votes, 0).sum(axis=1)
                # Where all with the label vanish beside one without it, they are looked at alone.
                alone = shared & (of_same < VANISHING)
                log_same = np.log(of_same, where=shared & ~alone, out=np.zeros(len(row)))
                log_same[alone] = logsumexp(np.where(same, power * density, -np.inf)[alone], axis=1)
                others = sizes[name][start + row[shared]] - 1
                terms[name][number, start + row[shared]] = (log_same - of_all)[shared] - np.log(
                    others
                )
    return {name: of[of.mean(axis=1).argmax()] for name, of in terms.items()}
