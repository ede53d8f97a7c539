"""What no correct evaluation can contradict, and what no evaluation can be computed from."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from collapse_bench.metrics.labels import has_label
from collapse_bench.metrics.likelihood import proposal_draws

FALSE_ALARM = 3e-5
"""How often an identity that holds may be seen violated: four standard errors of many sentences."""

ROUNDING, TINY = 1e-3, np.finfo(np.float64).tiny
"""Nats that float32 may lose, and the least error that is not none."""

_EVERY = {
    "tokens": "N", "kl": "NK", "distortion": "N", "log_weights": "NS", "draws": "N",
    "strata": "",
    "posterior_sample": "ND", "log_density": "N", "log_prior": "N", "log_ratio": "N",
    "shuffled_log_likelihood": "N", "shuffled_any_log_likelihood": "N",
    "later_log_likelihood": "N", "shuffled_later_log_likelihood": "N",
}  # fmt: skip
_MIXTURES = {
    "log_aggregate": "N", "log_others": "N", "log_aggregate_given_length": "N",
    "log_others_given_length": "N", "aggregate_size": "",
}  # fmt: skip
REFINED = {"refined_distortion": "N", "refined_kl": "NK"}
"""Arrays that are there where posteriors have been refined, of normals only."""

OF_NEIGHBOURS = {"kl_given_neighbours": "N"}
"""Arrays that are there where the prior knows which stored means a sentence is near."""

SHAPES = {
    "normal": _EVERY | {"posterior_mean": "ND", "posterior_scale": "ND"},
    "codes": _EVERY | _MIXTURES | {"posterior_mean": "ND", "codes": "NP"},
    **dict.fromkeys(("flow", "sphere", "other"), _EVERY | _MIXTURES),
}
"""Arrays by family, and a letter for each axis. Of a normal the mixtures follow from means and
scales; of any other family the evaluation, which knows its densities, leaves them."""

INFINITE = ("log_weights", "log_others", "log_others_given_length")
"""Arrays that may be -inf: where nothing was drawn, or no other sentence has this code."""


OF_SOME = (
    "shuffled_log_likelihood", "shuffled_any_log_likelihood", "later_log_likelihood",
    "shuffled_later_log_likelihood",
)  # fmt: skip
"""Arrays that are NaN for sentences that were not looked at, or have no partner."""


class ArraysError(ValueError):
    """Per-sentence arrays that nothing can be computed from."""


class IdentityError(ArithmeticError):
    """Numbers that contradict each other: an error in the evaluation, never a result."""


def family_of(arrays: Mapping[str, NDArray[Any]]) -> str:
    """The family of the posterior that these arrays are of.

    Raises:
        ArraysError: it is not told, or there is no such family.
    """
    if "family" not in arrays:
        raise ArraysError("no array family: of another version, or not complete")
    family = str(arrays["family"])
    if family not in SHAPES:
        raise ArraysError(f"family: must be one of {', '.join(SHAPES)}, not {family!r}")
    return family


def check_arrays(arrays: Mapping[str, NDArray[Any]]) -> None:
    """Hold per-sentence arrays against what `evaluate` leaves.

    Raises:
        ArraysError: one is missing, not as long as the others, not finite, or impossible; the
            message names the array and the first sentence.
    """
    shapes = dict(SHAPES[family_of(arrays)])
    if arrays.keys() & REFINED.keys():
        shapes |= REFINED
    if arrays.keys() & OF_NEIGHBOURS.keys():
        shapes |= OF_NEIGHBOURS
    if missing := [name for name in shapes if name not in arrays]:
        raise ArraysError(f"no array {', '.join(missing)}: of another version, or not complete")
    if "posterior_mean" in arrays:
        shapes["posterior_mean"] = "ND"
    if "codes" in arrays and "codebook_size" in arrays:
        shapes["codebook_size"] = ""
    told = {name: f"information_about_{name.removeprefix('label_')}" for name in _labels(arrays)}
    shapes |= {array: "N" for array in told.values() if array in arrays}
    sizes = {"N": arrays["tokens"].shape[0] if arrays["tokens"].ndim else 0}
    if not sizes["N"]:
        raise ArraysError("tokens: there is no sentence")
    for name, letters in shapes.items():
        shape = arrays[name].shape
        known = [sizes.setdefault(letter, size) for letter, size in zip(letters, shape)]  # noqa: B905
        if len(shape) != len(letters) or list(shape) != known:
            raise ArraysError(
                f"{name}: must have the shape [{', '.join(letters)}] with N = {sizes['N']}, not"
                f" {list(shape)}"
            )
    for name in shapes:
        values = arrays[name]
        bad = ~(values < np.inf) if name in INFINITE else ~np.isfinite(values)
        if name in OF_SOME:
            bad = np.isinf(values) | ("later" not in name and np.isnan(values).all())
        elif name == "log_weights":
            bad |= np.isfinite(values).sum(1, keepdims=True) == 0
        elif name == "posterior_scale":
            bad |= ~(values > 0)
        elif name in ("tokens", "draws", "aggregate_size"):
            bad |= values < 1
        elif name == "codebook_size":
            bad |= values <= arrays["codes"].max()
        elif name == "strata":
            bad |= (values != 2) & (values != 3)
        if name == "draws":
            bad |= values > sizes["S"]
        if bad.any():
            where = tuple(int(i) for i in np.argwhere(bad)[0])
            place = f" in sentence {where[0]} ({int(bad.sum())} such entries)" if where else ""
            raise ArraysError(f"{name}: {values[where]}{place}: nothing can be computed from it")
    drawn = np.isfinite(arrays["log_weights"]).sum(axis=1)
    if (more := drawn > arrays["draws"]).any():
        i = int(np.argmax(more))
        raise ArraysError(
            f"draws: {arrays['draws'][i]} in sentence {i}, which has {drawn[i]} log weights"
        )
    for name in (*_labels(arrays), *(["first_words"] if "first_words" in arrays else [])):
        if len(arrays[name]) != sizes["N"]:
            raise ArraysError(f"{name}: must have N = {sizes['N']} rows, not {len(arrays[name])}")
    for name, array in told.items():
        if "aggregate_size" in shapes and has_label(arrays[name]).any() and array not in arrays:
            raise ArraysError(f"no array {array}, though there is {name}: not complete")


def _labels(arrays: Mapping[str, NDArray[Any]]) -> list[str]:
    return [name for name in arrays if name.startswith("label_")]


def check_identities(
    metrics: Mapping[str, float],
    errors: Mapping[str, float],
    draws: NDArray[np.integer],
    strata: int,
    gap_error: float,
) -> None:
    """Hold the numbers against each other.

    0 <= I <= min(R, log N), D + R >= NLL, I given the length between I less the entropy of the
    length and I, and a marginal KL not below its lower bound from moments, each within the
    Monte-Carlo error of the difference; for I and R these errors are added up, which is cautious.
    What a family of posteriors does not have is not looked at. The NLL may exceed D + R by what its
    mixture proposal costs an exact posterior. Two rules guard the arithmetic alone: I + TC +
    dimension-wise KL = R, and no NLL that more draws make worse.

    Args:
        metrics: by plain name, as `score` gives them.
        errors: their standard errors.
        draws: behind the NLL of each of the N sentences, [N].
        strata: that they are from, as for `proposal_draws`.
        gap_error: standard error of D + R - NLL over sentences, nats.

    Raises:
        IdentityError: a number is not finite, or two contradict each other.
    """
    sentences = len(draws)
    mixture = max(math.log(n / proposal_draws(n, strata)[0]) for n in np.unique(draws).tolist())
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
    margin = -stdtrit(sentences - 1, FALSE_ALARM) if sentences > 1 else np.inf
    rate_error = max(error + errors["kl"], TINY)
    of_length = information - metrics["information_given_length"]
    length_error = max(error + errors["information_given_length"], TINY)
    rules = {
        "I >= 0": (information, margin * max(error, TINY)),
        "I <= R": (metrics["kl"] - information, margin * rate_error),
        "I <= log N": (np.log(sentences) - information, 0.0),
        "I given length <= I": (of_length, margin * length_error),
        "I <= I given length + H(length)": (
            metrics["length_entropy"] - of_length,
            margin * (length_error + errors["length_entropy"]),
        ),
        "D + R >= NLL": (
            metrics["negative_elbo"] - metrics["nll"] + mixture,
            margin * max(gap_error, TINY),
        ),
    }
    if "total_correlation" in metrics:
        parts = information + metrics["total_correlation"] + metrics["dimension_kl"]
        rules["I + TC + dimension-wise KL = R"] = -abs(parts - metrics["kl"]), 0.0
    if "moment_kl" in metrics:
        rules["marginal KL >= its bound by moments"] = (
            metrics["marginal_kl"] - metrics["moment_kl"],
            margin * (rate_error + errors["moment_kl"]),
        )
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
