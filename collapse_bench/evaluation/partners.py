"""Whose z a sentence is decoded with where it is not its own."""

import numpy as np
from numpy.typing import NDArray


def partners(tokens: NDArray[np.integer], seed: int) -> NDArray[np.int64]:
    """For each sentence another one, of the same length where there is one, at random.

    A sentence without one gets a neighbour in length, and a single sentence itself.

    Args:
        tokens: `[N]`.
        seed: of the choice.

    Returns:
        `[N]` indices, none its own but for N = 1.
    """
    shuffled = np.random.default_rng(seed).permutation(len(tokens))
    order = shuffled[np.argsort(tokens[shuffled], kind="stable")]
    partner = np.empty(len(tokens), dtype=np.int64)
    partner[order] = np.roll(order, 1)
    for group in np.split(order, np.flatnonzero(np.diff(tokens[order])) + 1):
        if len(group) > 1:
            partner[group] = np.roll(group, 1)
    return partner
