"""The aggregate posterior of families whose densities only the model can tell.

A diagonal normal is its mean and scale: everything between pairs of sentences is computed from them
later. Of any other family the densities of all draws under all posteriors are asked for here, and
what is made of them is kept.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Distribution

from collapse_bench.metrics.labels import information_about
from collapse_bench.metrics.pairs import Pairs, aggregate_terms
from collapse_bench.model.distributions import family_of

MOST_POSTERIORS = 1000
"""Posteriors that a draw is looked at under, of a family that may have to be inverted for each, as
a flow has; its mutual information is capped at the logarithm of this number. On the sphere a
density is a product, and of codes a comparison: their aggregate is of all sentences, as a normal's
is."""

AT_ONCE = 256
"""Draws whose densities under a batch of posteriors are computed at once."""


def terms_of_aggregate(
    posteriors: Sequence[tuple[Tensor, Distribution]],
    z: NDArray[Any],
    tokens: NDArray[np.integer],
    labels: Mapping[str, NDArray[Any]],
    seed: int,
) -> dict[str, NDArray[Any]]:
    """What the metrics need of all pairs of a draw and a posterior.

    Args:
        posteriors: for each batch the places of its sentences [B] and their posterior.
        z: a draw from each posterior in the split's order, [N, ...] in the shape of one event.
        tokens: length of each sentence, [N].
        labels: known attributes, one value a sentence, [N].
        seed: of the choice of posteriors where they are but `MOST_POSTERIORS`.

    Returns:
        `log_aggregate`, `log_others`, the same `_given_length`, and `information_about_<label>`,
        all [N], and `aggregate_size`, M.
    """
    n = len(tokens)
    quick = family_of(posteriors[0][1]) in ("sphere", "codes")
    if quick or n <= MOST_POSTERIORS:
        columns = np.arange(n)
    else:
        columns = np.sort(np.random.default_rng(seed).permutation(n)[:MOST_POSTERIORS])
    # A sentence that is not among them takes the place of another one in its own row.
    own = np.arange(n) % len(columns)
    own[columns] = np.arange(len(columns))
    draws = torch.from_numpy(z)

    def rows(part: slice) -> NDArray[np.floating]:
        chosen = np.arange(n)[part]
        density = np.empty((len(chosen), n))
        for place, q in posteriors:
            for start in range(0, len(chosen), AT_ONCE):
                some = draws[chosen[start : start + AT_ONCE]].to(place.device)
                nats = q.log_prob(some[:, None])  # [M, B]
                density[start : start + AT_ONCE, place.cpu().numpy()] = nats.cpu().double().numpy()
        table = density[:, columns]
        table[np.arange(len(chosen)), own[chosen]] = density[np.arange(len(chosen)), chosen]
        return np.asarray(table)

    pairs = Pairs(rows, own, columns)
    told = information_about(labels, pairs) if labels else {}
    return {
        **{k: v for k, v in aggregate_terms(pairs, tokens).items() if k != "log_density"},
        **{f"information_about_{name}": values for name, values in told.items()},
        "aggregate_size": np.asarray(len(columns)),
    }
