"""How many of its codes a discrete latent uses, by place. None can see whether the decoder listens.

Both are of the codes that the N sentences have, so that a code in rare use may look unused, and no
more than N can be in use.
"""

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.integer]


def code_perplexity(codes: Integers) -> float:
    """exp of the entropy of a place's codes, mean over places: as many codes in equal use would
    have it (van den Oord et al. 2017, public code).

    Args:
        codes: [N, n].
    """
    return float(np.mean([np.exp(-(p * np.log(p)).sum()) for p in map(_shares, codes.T)]))


def dead_codes(codes: Integers, size: int) -> float:
    """Codes that no sentence has at a place, mean over places.

    Args:
        codes: [N, n].
        size: K, of every place.
    """
    return float(size - np.mean([len(_shares(place)) for place in codes.T]))


def _shares(place: Integers) -> NDArray[np.float64]:
    counts = np.unique(place, return_counts=True)[1]
    return np.asarray(counts / counts.sum())
