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
from torch.distributions import Distribution

from collapse_bench.metrics.labels import information_about
from collapse_bench.metrics.pairs import Pairs, aggregate_terms

MOST_POSTERIORS = 1000
"""Posteriors that a draw is looked at under, of a family that may have to be inverted for each, as
a flow has; its mutual information is capped at the logarithm of this number. On the sphere a
density is a product, and of codes a comparison: their aggregate is of all sentences, as a normal's
is."""

AT_ONCE = 256
"""Draws whose densities under a batch of posteriors are computed at once."""


def sentences_of_aggregate(family: str, sentences: int, seed: int) -> NDArray[np.int64]:
    """The sentences whose posteriors the aggregate is made of, in order, [M].

    Args:
        family: of the posteriors.
        sentences: N.
        seed: of the choice where they are but `MOST_POSTERIORS`.
    """
    if family in ("sphere", "codes") or sentences <= MOST_POSTERIORS:
        return np.arange(sentences)
    return np.sort(np.random.default_rng(seed).permutation(sentences)[:MOST_POSTERIORS])


def terms_of_aggregate(
    posteriors: Sequence[tuple[NDArray[np.int64], Distribution]],
    z: NDArray[Any],
    log_density: NDArray[Any],
    tokens: NDArray[np.integer],
    labels: Mapping[str, NDArray[Any]],
    device: torch.device,
) -> dict[str, NDArray[Any]]:
    """What the metrics need of all pairs of a draw and a posterior.

    Args:
        posteriors: of the M sentences of the aggregate: for each batch their places [B] in the
            split and their posterior.
        z: a draw from the posterior of each of N sentences, [N, ...] in the shape of one event.
        log_density: of the draws under their own posteriors, [N].
        tokens: length of each sentence, [N].
        labels: known attributes, one value a sentence, [N].
        device: of the posteriors.

    Returns:
        `log_aggregate`, `log_others`, the same `_given_length`, and `information_about_<label>`,
        all [N], and `aggregate_size`, M.
    """
    n, columns = len(tokens), np.concatenate([places for places, _ in posteriors])
    # A sentence that is not among them takes the place of another one in its own row.
    own = np.arange(n) % len(columns)
    own[columns] = np.arange(len(columns))
    draws = torch.from_numpy(z).to(device)

    def rows(part: slice) -> NDArray[np.floating]:
        chosen = np.arange(n)[part]
        density = np.concatenate(
            [
                np.concatenate(
                    [q.log_prob(some[:, None]).cpu().double().numpy() for _, q in posteriors],
                    axis=1,
                )
                for some in draws[chosen].split(AT_ONCE)
            ]
        )  # [R, M]
        density[np.arange(len(chosen)), own[chosen]] = log_density[chosen]
        return density

    pairs = Pairs(rows, own, columns)
    told = information_about(labels, pairs) if labels else {}
    return {
        **{k: v for k, v in aggregate_terms(pairs, tokens).items() if k != "log_density"},
        **{f"information_about_{name}": values for name, values in told.items()},
        "aggregate_size": np.asarray(len(columns)),
    }
