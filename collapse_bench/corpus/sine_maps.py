"""Sequences of a nonlinear map with two global factors, with their exact likelihood.

Data card
---------
Purpose. Values in place of words where a nonlinear decoder is needed, the whole sequence has
something in common that is known, and the history tells it bit by bit.

How a sequence is made. A gain a, one of 1, 2, 3, 4, and a shift b, one of 0, 1/2, 1, 3/2 times pi,
are drawn evenly. x_0 = 0, and for t = 1 to T, 24 where the settings do not say otherwise,

    x_t = sin(a x_{t-1} + b) + e_t,  e_t ~ N(0, 0.16).

Information. log p(x) is a sum over the sixteen combinations. Gain and shift are 2.77 nats, and of
24 steps nearly all of them can be told.

Fields. One channel; two labels, `gain` and `shift`.

Splits. 20,000 / 2,000 / 2,000 sequences. Values are not standardised.

Seed. Fixed; draws are numpy's PCG64 and are rounded to six decimals.
"""

from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from collapse_bench.corpus.corpus import SPLITS, Labels, Settings, Values, values_digest

Floats = NDArray[np.float64]

SEED, SENTENCES, STEPS = 2_000, 20_000, 24
GAINS, SHIFTS, NOISE = (1.0, 2.0, 3.0, 4.0), (0.0, 0.5, 1.0, 1.5), 0.4
"""Of the map, shifts in units of pi; and the standard deviation of a step."""

DIGEST = "0e2f2a62a2082e8ec7d6bee14388a0936c1d8a37b3cba45e9deda20779b8787f"
"""SHA-256 of all splits at full size, of 24 steps."""


def read(settings: Settings, data: Path | None, say: Callable[[str], None]) -> Values:
    """The corpus; valid and test have a tenth of the training sequences, whatever their number."""
    steps = STEPS if settings.steps is None else settings.steps
    train = SENTENCES if settings.sentences is None else settings.sentences
    sequences: dict[str, list[NDArray[np.float32]]] = {}
    labels: dict[str, Labels] = {}
    for i, (split, n) in enumerate(zip(SPLITS, (train, train // 10, train // 10), strict=True)):
        x, gain, shift = draw(n, steps, np.random.default_rng([SEED, i]))
        sequences[split] = list(x)
        labels[split] = {"gain": gain.astype(str), "shift": shift.astype(str)}
    return Values(
        name="sine_maps",
        sequences=sequences,
        labels=labels,
        standard=values_digest(sequences) == DIGEST,
        facts={
            "steps": steps,
            "global_information": float(np.log(len(GAINS) * len(SHIFTS))),
            "exact_nll_of_test": float(-log_marginal(np.stack(sequences["test"])).mean()),
        },
    )


def draw(
    sequences: int, steps: int, rng: np.random.Generator
) -> tuple[NDArray[np.float32], Floats, Floats]:
    """Sequences [N, T, 1] of the generating model, with gain and shift of each, [N]."""
    gain, shift = rng.choice(GAINS, sequences), rng.choice(SHIFTS, sequences)
    x = NOISE * rng.standard_normal((sequences, steps, 1))
    for t in range(steps):
        before = x[:, t - 1, 0] if t else np.zeros(sequences)
        x[:, t, 0] += np.sin(gain * before + np.pi * shift)
    return x.round(6).astype(np.float32), gain, shift


def log_marginal(x: NDArray[np.floating]) -> Floats:
    """log p(x) of sequences [N, T, 1] in nats, [N]."""
    now = x[:, :, 0].astype(np.float64)
    before = np.pad(now[:, :-1], ((0, 0), (1, 0)))
    each = []
    for gain, shift in product(GAINS, SHIFTS):
        apart = (now - np.sin(gain * before + np.pi * shift)) / NOISE
        each.append(-(apart**2 / 2 + np.log(NOISE * np.sqrt(2 * np.pi))).sum(axis=1))
    return np.asarray(logsumexp(each, axis=0) - np.log(len(each)))
