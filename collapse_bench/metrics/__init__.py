"""Per-sentence arrays to numbers: pure functions, the same for every entry."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from collapse_bench.metrics.active_units import active_units
from collapse_bench.metrics.likelihood import (
    effective_sample_size,
    importance_weighted_nll,
    monte_carlo_errors,
    perplexity,
    proposal_draws,
)
from collapse_bench.metrics.mutual_information import mutual_information

Arrays = Mapping[str, NDArray[Any]]
"""What an evaluation leaves, by name, sentences first: `tokens` [N], `kl` [N, K], `distortion` [N],
`log_weights` [N, S] and `draws` [N], `posterior_mean`, `posterior_scale` and `posterior_sample`
[N, D]."""

METRICS = {
    "nll": "importance-weighted negative log-likelihood, nats a sentence",
    "nll_samples": "draws behind a sentence's NLL, mean over sentences",
    "nll_monte_carlo_error": "standard error of a sentence's NLL, mean over sentences, nats; of one"
    " draw none is known",
    "ess": "effective sample size of those draws, mean over sentences",
    "negative_elbo": "distortion + rate, nats a sentence",
    "distortion": "-log p(x|z) for z from the posterior, nats a sentence",
    "kl": "rate, KL of the posterior from the prior, nats a sentence",
    "mutual_information": "I_q(x; z), lower bound over the whole split, nats",
    "mutual_information_upper": "I_q(x; z), leave-one-out upper bound, nats",
    "active_units": "latent dimensions whose posterior mean has a variance above 0.01",
    "perplexity": "exp(NLL / tokens), EOS counted, BOS and padding not",
}


FALSE_ALARM = 3e-5
"""How often an identity that holds may be seen violated: four standard errors of many sentences."""

ROUNDING, TINY = 1e-3, np.finfo(np.float64).tiny
"""Nats that float32 may lose, and the least error that is not none."""


class Scores(NamedTuple):
    """Metrics by name, and the standard errors over sentences of those that are means."""

    metrics: dict[str, float]
    standard_errors: dict[str, float]


class IdentityError(ArithmeticError):
    """Numbers that contradict each other: an error in the evaluation, never a result."""


def posterior_scores(arrays: Arrays) -> Scores:
    """The metrics that need no decoder: the rate, both bounds on I, and active units."""
    information = mutual_information(
        arrays["posterior_sample"], arrays["posterior_mean"], arrays["posterior_scale"]
    )
    means = {
        "kl": arrays["kl"].sum(axis=1, dtype=np.float64),
        "mutual_information": information.lower,
        "mutual_information_upper": information.upper,
    }
    scores = _means(means)
    scores.metrics["active_units"] = active_units(arrays["posterior_mean"])
    return scores


def score(arrays: Arrays) -> Scores:
    """Every metric of `METRICS` that is known.

    Raises:
        IdentityError: see `check_identities`.
    """
    posterior = posterior_scores(arrays)
    log_weights, draws = arrays["log_weights"], arrays["draws"]
    nll = importance_weighted_nll(log_weights, draws)
    distortion = np.asarray(arrays["distortion"], dtype=np.float64)
    negative_elbo = distortion + arrays["kl"].sum(axis=1, dtype=np.float64)
    means = _means({"nll": nll, "distortion": distortion, "negative_elbo": negative_elbo})
    metrics = {
        **posterior.metrics,
        **means.metrics,
        "nll_samples": float(draws.mean()),
        "ess": float(effective_sample_size(log_weights).mean()),
        "perplexity": perplexity(nll, arrays["tokens"]),
    }
    if draws.min() > 1:
        errors = monte_carlo_errors(log_weights, draws)
        metrics["nll_monte_carlo_error"] = float(errors.mean())
    scores = Scores(
        {name: metrics[name] for name in METRICS if name in metrics},
        {**means.standard_errors, **posterior.standard_errors},
    )
    check_identities(scores, draws, _standard_error(negative_elbo - nll))
    return scores


def check_identities(scores: Scores, draws: NDArray[np.integer], gap_error: float) -> None:
    """Hold the numbers against what no correct evaluation can contradict.

    0 <= I <= min(R, log N) and D + R >= NLL, each within the Monte-Carlo error of the difference;
    for I and R these errors are added up, which is cautious. The NLL may exceed D + R by what its
    mixture proposal costs an exact posterior.

    Args:
        scores: as `score` gives them.
        draws: behind the NLL of each of the N sentences, [N].
        gap_error: standard error of D + R - NLL over sentences, nats.

    Raises:
        IdentityError: a number is not finite, or two contradict each other.
    """
    metrics, errors = scores
    sentences = len(draws)
    mixture = max(math.log(n / proposal_draws(n)[0]) for n in np.unique(draws).tolist())
    broken = [f"{name} = {value}" for name, value in metrics.items() if not np.isfinite(value)]
    information, error = metrics["mutual_information"], errors["mutual_information"]
    # Student's t: few sentences tell little of their own error, and a single one nothing.
    margin = stats.t.isf(FALSE_ALARM, sentences - 1) if sentences > 1 else np.inf
    rules = {
        "I >= 0": (information, margin * max(error, TINY)),
        "I <= R": (metrics["kl"] - information, margin * max(error + errors["kl"], TINY)),
        "I <= log N": (np.log(sentences) - information, 0.0),
        "D + R >= NLL": (
            metrics["negative_elbo"] - metrics["nll"] + mixture,
            margin * max(gap_error, TINY),
        ),
    }
    broken += [
        f"{rule} is off by {-slack:.4f} nats, where {allowed:.4f} may be Monte-Carlo error"
        for rule, (slack, allowed) in rules.items()
        if slack < -allowed - ROUNDING
    ]
    if broken:
        raise IdentityError("the evaluation contradicts itself: " + "; ".join(broken))


def _means(arrays: Mapping[str, NDArray[Any]]) -> Scores:
    return Scores(
        {name: float(array.mean()) for name, array in arrays.items()},
        {name: _standard_error(array) for name, array in arrays.items()},
    )


def _standard_error(array: NDArray[Any]) -> float:
    return float(array.std(ddof=1) / np.sqrt(len(array))) if len(array) > 1 else 0.0
