"""What the latent tells of known attributes of the sentence, I_q(a; z)."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from collapse_bench.metrics.pairs import ROWS, Floats, Pairs

POWERS = tuple(0.5**k for k in range(8))
"""Of the densities that vote on a label; 1 is Bayes' rule, and near 0 all votes count the same."""

NO_LABEL = ""
"""The label of a sentence that has none: nothing is asked of it, and it has no vote."""

VANISHING = 1e-290
"""A sum of float64 numbers, the largest of them at most 1, that may have lost its digits."""


def entropy(labels: NDArray[Any]) -> float:
    """Entropy of the labels' frequencies, in nats: the most that z can tell of them.

    Args:
        labels: one value a sentence, [N]; those of no label do not count.
    """
    known = labels[has_label(labels)]
    shares = np.unique(known, return_counts=True)[1] / len(known)
    return max(0.0, float(-(shares * np.log(shares)).sum()))


def has_label(labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Which sentences have a label, [N]."""
    return np.asarray(labels.astype(str) != NO_LABEL)


def information_about(labels: Mapping[str, NDArray[Any]], pairs: Pairs) -> dict[str, Floats]:
    """Terms of I_q(a; z) = E [log q(z|a) - log q(z)] of each attribute, [N], in nats.

    q(z|a) is the mixture of the posteriors of the sentences with the label a, q(z) that of all that
    have a label (as for the factors of Chen et al. 2018, section 4). Both leave out the sentence
    whose z is looked at: with it q(z|a) would tell of the sentence, not of its label.

    Where z tells far more of the sentence than N sentences can show, only the nearest posterior
    counts in either mixture, and the plain difference is nats below zero, whatever is true. Read by
    the rule of Bayes, it is log p(a|z) - log p(a) with posteriors that vote on the label: a bound
    from below for any votes (Barber and Agakov 2003). So all densities are raised to the power of
    `POWERS` that gives the highest bound. It is still a bound, too low in many dimensions. A term
    is at most log((N - 1) / (n_a - 1)) for a label of n_a among N labelled sentences.

    A label that occurs once tells of nothing but its sentence: log q(z|a) is taken as log q(z), and
    the term is zero. So are all of a label that every sentence has. A sentence without a label has
    the term zero too, which is no number of its own: leave these rows out (`has_label`).

    It cannot see whether the decoder listens, nor what two attributes tell together.

    Args:
        labels: attributes by name, each one discrete value a sentence, [N]; "" is no label.
        pairs: of N sentences and M posteriors.

    Returns:
        [N] for every attribute that some sentence has a label of.
    """
    n, m = len(pairs.own), len(pairs.columns)
    known = {name: has_label(values) for name, values in labels.items()}
    told = [name for name in labels if known[name].any()]
    if n < 2:
        return {name: np.zeros(n) for name in told}
    terms = {name: np.zeros((len(POWERS), n)) for name in told}
    codes = {name: np.unique(labels[name], return_inverse=True)[1] for name in told}
    for start in range(0, n, ROWS):
        rows = slice(start, min(start + ROWS, n))
        density = np.asarray(pairs.rows(rows), dtype=np.float64)  # [R, M]
        own = np.arange(len(density)), pairs.own[rows]
        density[own] = -np.inf
        largest = density.max(axis=1)
        density -= np.where(np.isneginf(largest), 0, largest)[:, None]
        # No vote is worth nothing: a label that no sharer of a code has may still be the right one.
        density[np.isneginf(density)] = -2 * np.log(m)
        density[own] = -np.inf
        for number, power in enumerate(POWERS):
            nats = power * density
            votes = np.exp(nats)
            of_all: dict[bytes, Floats] = {}
            for name in told:
                asked, key = known[name][pairs.columns], known[name].tobytes()
                if key not in of_all:
                    of_all[key] = _mean_vote(nats, votes, np.broadcast_to(asked, votes.shape), own)
                same = codes[name][rows, None] == codes[name][pairs.columns]
                found = _mean_vote(nats, votes, same, own) - of_all[key]
                terms[name][number, rows] = np.where(
                    known[name][rows] & np.isfinite(found), found, 0
                )
    return {name: of[of.mean(axis=1).argmax()] for name, of in terms.items()}


def _mean_vote(
    nats: Floats, votes: Floats, chosen: NDArray[np.bool_], own: tuple[Any, Any]
) -> Floats:
    """log of the mean vote of the chosen columns but the row's own, [R]; -inf where there is none.

    Args:
        nats: log votes, [R, M].
        votes: their exponentials, the largest of each row 1.
        chosen: [R, M].
        own: the column of each row that has no vote.
    """
    total = np.where(chosen, votes, 0).sum(axis=1)
    count = chosen.sum(axis=1) - chosen[own]
    # Where all that are chosen vanish beside one that is not, they are looked at alone.
    alone = (total < VANISHING) & (count > 0)
    with np.errstate(divide="ignore"):
        log_total = np.log(total)
    log_total[alone] = logsumexp(np.where(chosen, nats, -np.inf)[alone], axis=1)
    return np.asarray(log_total - np.log(np.maximum(count, 1)))
