"""Sequences of a linear-Gaussian model with a global factor, with their exact likelihood.

Data card
---------
Purpose. Values in place of words where every answer is known: with one step these are the vectors
of probabilistic principal components (Tipping and Bishop 1999), on which a linear VAE has a closed
form (Lucas et al. 2019); with more, a decoder that reads its history can find out by itself what
the factor would have told.

How a sequence is made. z ~ N(0, I) in four dimensions, and for t = 1 to T

    x_t = 0.8 x_{t-1} + B z + e_t,  e_t ~ N(0, 0.03 T I),  x_0 = 0,

in eight channels. The columns of B are orthogonal, their squared lengths 1, 0.3, 0.1 and 0.03. Of
vectors the covariance has the eigenvalues 1.03, 0.33, 0.13, 0.06 and four of 0.03.

Information. With r_t = x_t - 0.8 x_{t-1}, which is B z + e_t, and s^2 = 0.03 T,

    log p(x) = sum_t log N(r_t; 0, s^2 I) - ln|L| / 2 + b' L^-1 b / 2,
    L = I + T B'B / s^2,  b = sum_t B' r_t / s^2,

so that I(x; z) = ln|L| / 2 = 4.05 nats, of any number of steps: the noise grows with it.

Splits. 20,000 / 2,000 / 2,000 sequences. Values are not standardised.

Seed. Fixed; draws are numpy's PCG64 and are rounded to six decimals.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from collapse_bench.corpus.corpus import SPLITS, Settings, Values, values_digest

Floats = NDArray[np.float64]

SEED, SENTENCES, STEPS = 2_003, 20_000, 1
CHANNELS, MEMORY, NOISE = 8, 0.8, 0.03
LENGTHS = np.sqrt([1.0, 0.3, 0.1, 0.03])
"""Of the columns of B."""

DIGEST = "028bbd1b46c3187eb99de1cbda52164368bf87457383fa1828c908b48591f0cd"
"""SHA-256 of all splits at full size, of sequences of one step."""


def read(settings: Settings, data: Path | None, say: Callable[[str], None]) -> Values:
    """The corpus; valid and test have a tenth of the training sequences, whatever their number."""
    steps = STEPS if settings.steps is None else settings.steps
    train = SENTENCES if settings.sentences is None else settings.sentences
    drawn = {
        split: draw(n, steps, np.random.default_rng([SEED, i]))
        for i, (split, n) in enumerate(zip(SPLITS, (train, train // 10, train // 10), strict=True))
    }
    sequences = {split: list(values) for split, values in drawn.items()}
    return Values(
        name="linear_gaussian",
        sequences=sequences,
        standard=values_digest(sequences) == DIGEST,
        facts={
            "steps": steps,
            "global_information": global_information(),
            "exact_nll_of_test": float(-log_marginal(drawn["test"]).mean()),
        },
    )


def loading() -> Floats:
    """B, [8, 4]: a part of a matrix of sines that is orthogonal, its columns scaled."""
    place = np.arange(1, CHANNELS + 1)
    sines = np.sqrt(2 / (CHANNELS + 1)) * np.sin(np.outer(place, place) * np.pi / (CHANNELS + 1))
    return np.asarray(sines[:, : len(LENGTHS)] * LENGTHS)


def draw(sequences: int, steps: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Sequences [N, T, 8] of the generating model."""
    z = rng.standard_normal((sequences, len(LENGTHS)))
    noise = rng.standard_normal((sequences, steps, CHANNELS)) * np.sqrt(NOISE * steps)
    x = (z @ loading().T)[:, None] + noise
    for t in range(1, steps):
        x[:, t] += MEMORY * x[:, t - 1]
    return np.asarray(x.round(6), dtype=np.float32)


def log_marginal(x: NDArray[np.floating]) -> Floats:
    """log p(x) of sequences [N, T, 8] in nats, [N]."""
    b, (_, steps, channels) = loading(), x.shape
    variance = NOISE * steps
    residual = x.astype(np.float64)
    residual[:, 1:] -= MEMORY * residual[:, :-1].copy()
    told = residual.sum(axis=1) @ b / variance
    precision = np.eye(b.shape[1]) + steps * b.T @ b / variance
    apart = (residual**2).sum(axis=(1, 2)) / variance
    apart += steps * channels * np.log(2 * np.pi * variance)
    explained = np.einsum("ni,ni->n", told, np.linalg.solve(precision, told.T).T)
    return np.asarray((explained - apart) / 2 - global_information())


def global_information() -> float:
    """I(x; z) in nats."""
    return float(np.log1p(LENGTHS**2 / NOISE).sum() / 2)
