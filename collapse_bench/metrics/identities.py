"""What no correct evaluation can contradict, and what no evaluation can be computed from."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from collapse_bench.metrics.likelihood import proposal_draws

FALSE_ALARM = 3e-5
"""How often an identity that holds may be seen violated: four standard errors of many sentences."""

ROUNDING, TINY = 1e-3, np.finfo(np.float64).tiny
"""Nats that float32 may lose, and the least error that is not none."""

SHAPES = {
    "tokens": "N", "kl": "NK", "distortion": "N", "log_weights": "NS", "draws": "N",
    "posterior_mean": "ND", "posterior_scale": "ND", "posterior_sample": "ND",
    "shuffled_log_likelihood": "N",
}  # fmt: skip


class ArraysError(ValueError):
    """Per-sentence arrays that nothing can be computed from."""


class IdentityError(ArithmeticError):
    """Numbers that contradict each other: an error in the evaluation, never a result."""


def check_arrays(arrays: Mapping[str, NDArray[Any]]) -> None:
    """Hold per-sentence arrays against what `evaluate` leaves.

    Raises:
        ArraysError: one is missing, not as long as the others, not finite, or impossible; the
            message names the array and the first sentence.
    """
    if missing := [name for name in SHAPES if name not in arrays]:
        raise ArraysError(f"no array {', '.join(missing)}: of another version, or not complete")
    sizes = {"N": arrays["tokens"].shape[0] if arrays["tokens"].ndim else 0}
    if not sizes["N"]:
        raise ArraysError("tokens: there is no sentence")
    for name, letters in SHAPES.items():
        shape = arrays[name].shape
        known = [sizes.setdefault(letter, size) for letter, size in zip(letters, shape)]  # noqa: B905
        if len(shape) != len(letters) or list(shape) != known:
            raise ArraysError(
                f"{name}: must have the shape [{', '.join(letters)}] with N = {sizes['N']}, not"
                f" {list(shape)}"
            )
    for name in SHAPES:
        values = arrays[name]
        bad = ~np.isfinite(values)
        if name == "log_weights":  # -inf where nothing was drawn
            bad = ~(values < np.inf) | (np.isfinite(values).sum(1, keepdims=True) == 0)
        elif name == "posterior_scale":
            bad |= ~(values > 0)
        elif name in ("tokens", "draws"):
            bad |= values < 1
        if name == "draws":
            bad |= values > sizes["S"]
        if bad.any():
            where = tuple(int(i) for i in np.argwhere(bad)[0])
            raise ArraysError(
                f"{name}: {values[where]} in sentence {where[0]} ({int(bad.sum())} such entries):"
                f" nothing can be computed from it"
            )
    drawn = np.isfinite(arrays["log_weights"]).sum(axis=1)
    if (more := drawn > arrays["draws"]).any():
        i = int(np.argmax(more))
        raise ArraysError(
            f"draws: {arrays['draws'][i]} in sentence {i}, which has {drawn[i]} log weights"
        )
    for name, values in arrays.items():
        if name.startswith("label_") and len(values) != sizes["N"]:
            raise ArraysError(f"{name}: must have N = {sizes['N']} rows, not {len(values)}")
    if "first_words" in arrays and len(arrays["first_words"]) != sizes["N"]:
        raise ArraysError(f"first_words: must have N = {sizes['N']} rows")


def check_identities(
    metrics: Mapping[str, float],
    errors: Mapping[str, float],
    draws: NDArray[np.integer],
    gap_error: float,
) -> None:
    """Hold the numbers against each other.

    0 <= I <= min(R, log N), D + R >= NLL, and a marginal KL not below its lower bound from moments,
    each within the Monte-Carlo error of the difference; for I and R these errors are added up,
    which is cautious. The NLL may exceed D + R by what its mixture proposal costs an exact
    posterior. Two rules guard the arithmetic alone: I + TC + dimension-wise KL = R, and no NLL that
    more draws make worse.

    Args:
        metrics: by plain name, as `score` gives them.
        errors: their standard errors.
        draws: behind the NLL of each of the N sentences, [N].
        gap_error: standard error of D + R - NLL over sentences, nats.

    Raises:
        IdentityError: a number is not finite, or two contradict each other.
    """
    sentences = len(draws)
    mixture = max(math.log(n / proposal_draws(n)[0]) for n in np.unique(draws).tolist())
    broken = [
        f"{what} = {value}"
        for what, value in (
            *metrics.items(),
            *((f"standard error of {name}", error) for name, error in errors.items()),
        )
        if not np.isfinite(value)
    ]
    information, error = metrics["mutual_information"], errors["mutual_information"]
    # Student's t: few sentences tell little of their own error, and a single one nothing.
    margin = stats.t.isf(FALSE_ALARM, sentences - 1) if sentences > 1 else np.inf
    rate_error = max(error + errors["kl"], TINY)
    rules = {
        "I >= 0": (information, margin * max(error, TINY)),
        "I <= R": (metrics["kl"] - information, margin * rate_error),
        "I <= log N": (np.log(sentences) - information, 0.0),
        "D + R >= NLL": (
            metrics["negative_elbo"] - metrics["nll"] + mixture,
            margin * max(gap_error, TINY),
        ),
        "I + TC + dimension-wise KL = R": (
            -abs(
                information + metrics["total_correlation"] + metrics["dimension_kl"] - metrics["kl"]
            ),
            0.0,
        ),
        "marginal KL >= its bound by moments": (
            metrics["marginal_kl"] - metrics["moment_kl"],
            margin * (rate_error + errors["moment_kl"]),
        ),
    }
    if "nll_gain_of_doubling" in metrics:
        gain = metrics["nll_gain_of_doubling"]
        rules["NLL_K/2 >= NLL_K"] = gain, margin * errors["nll_gain_of_doubling"]
    broken += [
        f"{rule} is off by {-slack:.4f} nats, where {allowed:.4f} may be Monte-Carlo error"
        for rule, (slack, allowed) in rules.items()
        if slack < -allowed - ROUNDING
    ]
    if broken:
        raise IdentityError("the evaluation contradicts itself: " + "; ".join(broken))
