"""The synthetic text of He et al. (2019), made anew, with its likelihood.

Data card
---------
Purpose. The text on which posterior collapse was explained as an encoder that lags behind, and on
which aggressive training of the inference network was shown to mend it. The generating model is
known, so what a latent can tell is known, too.

How a sentence is made, after the authors' generator (`synthetic-data/generate.py`). z is drawn from
an even mixture of four normals in two dimensions, means (+-2, +-2), variance 1. An LSTM of 100
units begins with the cell A z and the state tanh(A z), and reads at each step a word's embedding of
100 entries, and z. The next word has the logits U h + V z. All weights, embeddings and biases are
uniform in +-1, V in +-3. The first word of ten is uniform among 1,000, whatever z is.

V is in the generator and in no description of it: embeddings in +-5 and no V, as the recipe is also
told, make another text.

Information. By `log_marginal`, over the first 150 test sentences: an NLL of 35.97 nats (standard
error 0.66), of which the first word is 6.91, and I(x; z) = 4.30 nats (0.08). The component is at
most 1.39 of them.

Fields. Ten words, `w0` to `w999`, joined by one space; one label, `component`, which of the four.

Splits. 16,000 / 2,000 / 2,000 sentences. The authors validate on their test file; here the two are
apart.

Seed. Fixed, and not theirs, whose draws depend on the version of torch. Weights, z and words come
from `random.Random.random` and float64 arithmetic. Were a sum in another order ever to change a
word, the digests would tell.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logsumexp

from collapse_bench.corpus.corpus import SPLITS, Labels, Settings, Texts, digest

Floats = NDArray[np.float64]
Words = NDArray[np.int64]

SEED = 2_019
SIZES = {"train": 16_000, "valid": 2_000, "test": 2_000}
NEGLIGIBLE = 25.0
"""Nats by which log p(x, z) has to be below the largest to be left out of a sum over z."""

AT_ONCE = 250
"""Sentences drawn together, whose logits fit into a processor's cache. Part of the recipe: draws of
another number would be another text."""

VOCABULARY, LENGTH, UNITS, LATENT = 1_000, 10, 100, 2
MEANS = np.array([(-2.0, -2.0), (2.0, 2.0), (-2.0, 2.0), (2.0, -2.0)])
"""Of the four normals."""

DIGESTS = {
    "train": "34173ae76f10bd31cc0948e562bbe6c62869273d6b253985be14a734b85cd3a2",
    "valid": "6fa93a9f8e10e3f0d2c9adf1edcba2b4c6fd309707d9b1f360ec7a1651fc9c97",
    "test": "b25121954af118b2817c18d654d81aa313fe5aef9ccb74cf6f086c9561ab5783",
}
"""SHA-256 of each split."""


def read(settings: Settings, data: Path | None, say: Callable[[str], None]) -> Texts:
    """The corpus, which takes some seconds to draw."""
    rng = Random(SEED + 1)
    sentences: dict[str, list[str]] = {}
    labels: dict[str, Labels] = {}
    for split in SPLITS:
        drawn = [draw(AT_ONCE, rng) for _ in range(SIZES[split] // AT_ONCE)]
        words = np.concatenate([rows for _, rows in drawn])
        sentences[split] = [" ".join(f"w{word}" for word in row) for row in words.tolist()]
        component = np.concatenate([of_each for of_each, _ in drawn])
        labels[split] = {"component": component.astype(str)}
    return Texts(
        name="he2019",
        sentences=sentences,
        labels=labels,
        standard={split: digest(sentences[split]) for split in SPLITS} == DIGESTS,
    )


@cache
def weights() -> dict[str, Floats]:
    """Of the generating model, by name."""
    rng = Random(SEED)

    def uniform(*shape: int, bound: float = 1.0) -> Floats:
        drawn = np.array([rng.random() for _ in range(int(np.prod(shape)))])
        weight = bound * (2 * drawn - 1).reshape(shape)
        weight.setflags(write=False)
        return weight

    return {
        "embedding": uniform(VOCABULARY, UNITS),
        "input": uniform(4 * UNITS, UNITS + LATENT),
        "recurrent": uniform(4 * UNITS, UNITS),
        "bias": uniform(4 * UNITS) + uniform(4 * UNITS),
        "first": uniform(UNITS, LATENT),
        "words": uniform(VOCABULARY, UNITS),
        "direct": uniform(VOCABULARY, LATENT, bound=3.0),
    }


def draw(sentences: int, rng: Random) -> tuple[Words, Words]:
    """Components [N] and words [N, 10] of sentences of the generating model."""
    normal = NormalDist()
    component = np.array([int(4 * rng.random()) for _ in range(sentences)])
    noise = [[normal.inv_cdf(rng.random()) for _ in range(LATENT)] for _ in range(sentences)]
    z = MEANS[component] + np.array(noise)
    words = np.zeros((sentences, LENGTH), dtype=np.int64)
    words[:, 0] = [int(VOCABULARY * rng.random()) for _ in range(sentences)]
    states = _begin(z)
    for t in range(1, LENGTH):
        states, logits = _after(words[:, t - 1], z, states)
        below = np.exp(logits - logits.max(axis=1, keepdims=True)).cumsum(axis=1)
        at = np.array([rng.random() for _ in range(sentences)]) * below[:, -1]
        words[:, t] = np.minimum((below <= at[:, None]).sum(axis=1), VOCABULARY - 1)
    return component, words


def log_likelihood(words: Words, z: Floats) -> Floats:
    """log p(x|z) in nats, words [N, 10] and z [N, 2] to [N]."""
    nats = np.full(len(words), -np.log(VOCABULARY))
    states = _begin(z)
    for t in range(1, LENGTH):
        states, logits = _after(words[:, t - 1], z, states)
        nats += logits[np.arange(len(words)), words[:, t]] - logsumexp(logits, axis=1)
    return nats


def log_marginal(words: Words, coarse: float = 0.5, finer: int = 8) -> tuple[Floats, Floats]:
    """log p(x) and KL(p(z|x) || p(z)) of each sentence, [N] nats, by sums over a grid.

    The mean of the second is I(x; z). The cells of a first grid over all of the prior that are not
    `NEGLIGIBLE` beside the best one are divided further.

    Args:
        words: [N, 10].
        coarse: distance between points of the first grid.
        finer: into how many a cell is divided along each axis.
    """
    everywhere = _grid(np.arange(-6.5, 6.5 + coarse / 2, coarse))
    within = _grid(coarse * ((np.arange(finer) + 0.5) / finer - 0.5))
    marginal, divergence = np.empty(len(words)), np.empty(len(words))
    for i, row in enumerate(words):
        joint = _joint(row, everywhere)
        kept = everywhere[joint > joint.max() - NEGLIGIBLE]
        z = (kept[:, None] + within).reshape(-1, LATENT)
        joint = _joint(row, z)
        total = logsumexp(joint)
        marginal[i] = total + 2 * np.log(coarse / finer)
        divergence[i] = np.exp(joint - total) @ (joint - _log_prior(z) - marginal[i])
    return marginal, divergence


def _joint(row: Words, z: Floats) -> Floats:
    """log p(x, z) of one sentence [10] at points z [P, 2], [P]."""
    return log_likelihood(np.broadcast_to(row, (len(z), LENGTH)), z) + _log_prior(z)


def _log_prior(z: Floats) -> Floats:
    apart = ((z[:, None] - MEANS) ** 2).sum(axis=2)
    return np.asarray(logsumexp(-apart / 2, axis=1) - np.log(len(MEANS) * 2 * np.pi))


def _grid(axis: NDArray[Any]) -> Floats:
    return np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2).astype(np.float64)


def _begin(z: Floats) -> tuple[Floats, Floats]:
    """State and cell before the first word, [N, 100] each."""
    cell = z @ weights()["first"].T
    return np.tanh(cell), cell


def _after(
    words: Words, z: Floats, states: tuple[Floats, Floats]
) -> tuple[tuple[Floats, Floats], Floats]:
    """State and cell after one more word [N], and the logits of the next, [N, 1000]."""
    w, (hidden, cell) = weights(), states
    seen = np.concatenate([w["embedding"][words], z], axis=1)
    gates = seen @ w["input"].T + hidden @ w["recurrent"].T + w["bias"]
    enter, keep, new, leave = np.split(gates, 4, axis=1)
    cell = expit(keep) * cell + expit(enter) * np.tanh(new)
    hidden = expit(leave) * np.tanh(cell)
    return (hidden, cell), hidden @ w["words"].T + z @ w["direct"].T
