"""Arrays to scores: every metric with its standard error, held against the identities."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from collapse_bench.metrics import active_units as units
from collapse_bench.metrics.catalogue import METRICS
from collapse_bench.metrics.decoder_use import shuffle_gap, useful_information, useful_rate
from collapse_bench.metrics.identities import check_arrays, check_identities
from collapse_bench.metrics.labels import entropy, information_about
from collapse_bench.metrics.likelihood import (
    effective_sample_size,
    importance_weighted_nll,
    jackknife_nll,
    monte_carlo_errors,
    nll_gain_of_doubling,
    perplexity,
)
from collapse_bench.metrics.mutual_information import (
    batched_mutual_information,
    decomposition,
    dimension_information,
    entropy_of_normal,
    moment_kl,
    mutual_information,
)
from collapse_bench.metrics.probe import probe_information

Arrays = Mapping[str, NDArray[Any]]
"""What an evaluation leaves, by name, sentences first: `tokens` [N], `kl` [N, K], `distortion` [N],
`log_weights` [N, S] and `draws` [N], `posterior_mean`, `posterior_scale` and `posterior_sample`
[N, D], `shuffled_log_likelihood` [N]; of a corpus `first_words` [N, 3] and
`label_<name>` [N]."""

GROUPS = 20
"""Parts of the sentences that are left out one at a time for the error of what is no mean."""


class Scores(NamedTuple):
    """Metrics and their standard errors over sentences, by plain name."""

    metrics: dict[str, float]
    standard_errors: dict[str, float]


def posterior_scores(arrays: Arrays) -> Scores:
    """What training looks at: the rate, both bounds on I, and active units. No decoder is needed.

    Args:
        arrays: of an evaluation without draws.
    """
    information = mutual_information(
        arrays["posterior_sample"], arrays["posterior_mean"], arrays["posterior_scale"]
    )
    means = {
        "kl": arrays["kl"].sum(axis=1, dtype=np.float64),
        "mutual_information": information.lower,
        "mutual_information_upper": information.upper,
    }
    scores = _means(means)
    scores.metrics["active_units"] = units.active_units(arrays["posterior_mean"])
    return scores


def score(arrays: Arrays) -> Scores:
    """Every metric of `METRICS` that these arrays tell, in its order.

    Sentences are the sample: a standard error says how far the same model may be off on other
    sentences, not how far another seed may be.

    Args:
        arrays: as `evaluate` leaves them.

    Raises:
        ArraysError: an array is missing, has the wrong shape or is not finite.
        IdentityError: two numbers contradict each other.
    """
    check_arrays(arrays)
    n = len(arrays["tokens"])
    z, mean, scale = (arrays[f"posterior_{part}"] for part in ("sample", "mean", "scale"))
    log_weights, draws = arrays["log_weights"], arrays["draws"]
    posterior = posterior_scores(arrays)

    rate = arrays["kl"].sum(axis=1, dtype=np.float64)
    distortion = np.asarray(arrays["distortion"], dtype=np.float64)
    information = mutual_information(z, mean, scale).lower
    dimensions = dimension_information(z, mean, scale)  # [N, D]
    parts = decomposition(rate, information, dimensions)
    nll = importance_weighted_nll(log_weights, draws)
    scores = _means(
        {
            "useful_rate": useful_rate(nll, distortion),
            "nll": nll,
            "nll_jackknife": jackknife_nll(log_weights, draws),
            "ess": effective_sample_size(log_weights),
            "nll_samples": draws,
            "negative_elbo": distortion + rate,
            "distortion": distortion,
            "mutual_information_he2019": batched_mutual_information(
                z, mean, scale, arrays["tokens"]
            ),
            "marginal_kl": parts.marginal_kl,
            "total_correlation": parts.total_correlation,
            "dimension_kl": parts.dimension_kl,
            "shuffle_gap": shuffle_gap(distortion, arrays["shuffled_log_likelihood"]),
        }
    )
    metrics, errors = scores.metrics | posterior.metrics, scores.standard_errors
    errors |= posterior.standard_errors
    if draws.min() > 1:
        settled = _means(
            {
                "nll_gain_of_doubling": nll_gain_of_doubling(log_weights, draws),
                "nll_monte_carlo_error": monte_carlo_errors(log_weights, draws),
            }
        )
        metrics, errors = metrics | settled.metrics, errors | settled.standard_errors
    both = ("useful_rate", "mutual_information")
    metrics["useful_information"] = useful_information(*(metrics[name] for name in both))
    errors["useful_information"] = errors[min(both, key=metrics.__getitem__)]

    # R = -H(q) - E_q log p(z), in closed form where the rate is.
    log_prior = -entropy_of_normal(scale) - rate
    whole: dict[str, Callable[[NDArray[np.int64]], float]] = {
        "active_units": lambda rows: units.active_units(mean[rows]),
        **{
            f"active_units_{threshold:g}": partial(_active_units, mean, threshold)
            for threshold in units.THRESHOLDS
        },
        "relative_active_units": lambda rows: units.relative_active_units(mean[rows], scale[rows]),
        "whitened_active_units": lambda rows: units.whitened_active_units(mean[rows], scale[rows]),
        "effective_units": lambda rows: units.effective_units(dimensions[rows].mean(axis=0)),
        "moment_kl": lambda rows: moment_kl(mean[rows], scale[rows], log_prior[rows]),
        "perplexity": lambda rows: perplexity(nll[rows], arrays["tokens"][rows]),
    }
    for name, of in whole.items():
        metrics[name] = float(of(np.arange(n)))
        errors[name] = jackknife_error(of, n)

    if "first_words" in arrays:
        probed = probe_information(z, arrays["tokens"], arrays["first_words"])
        metrics["probe_information"] = float(probed.mean())
        errors["probe_information"] = _standard_error(probed)
    labels = {k.removeprefix("label_"): v for k, v in arrays.items() if k.startswith("label_")}
    if labels:
        told = information_about(labels, z, mean, scale)
        of_labels = _means({f"information_about_{name}": terms for name, terms in told.items()})
        metrics, errors = metrics | of_labels.metrics, errors | of_labels.standard_errors
        known = sum(entropy(values) for values in labels.values())
        if known > 0:
            share = np.sum(list(told.values()), axis=0) / known
            metrics["global_information_share"] = float(share.mean())
            errors["global_information_share"] = _standard_error(share)

    names = [*METRICS, *(f"information_about_{name}" for name in labels)]
    scores = Scores(
        {name: metrics[name] for name in names if name in metrics},
        {name: errors[name] for name in names if name in errors},
    )
    check_identities(*scores, draws, _standard_error(distortion + rate - nll))
    return scores


def _active_units(mean: NDArray[Any], threshold: float, rows: NDArray[np.int64]) -> float:
    return units.active_units(mean[rows], threshold)


def jackknife_error(of: Callable[[NDArray[np.int64]], float], n: int) -> float:
    """Standard error over sentences of a number that is no mean (Tukey 1958, by groups).

    Args:
        of: the number from the sentences at these rows.
        n: N; with one sentence nothing is known, and the error is 0 as that of a mean is.
    """
    groups = min(GROUPS, n)
    if groups < 2:
        return 0.0
    left_out = np.arange(n) % groups
    values = np.array([of(np.flatnonzero(left_out != group)) for group in range(groups)])
    return float(np.sqrt((groups - 1) * values.var()))


def _means(arrays: Mapping[str, NDArray[Any]]) -> Scores:
    return Scores(
        {name: float(np.mean(array, dtype=np.float64)) for name, array in arrays.items()},
        {name: _standard_error(array) for name, array in arrays.items()},
    )


def _standard_error(array: NDArray[Any]) -> float:
    if len(array) < 2:
        return 0.0
    return float(np.std(array, ddof=1, dtype=np.float64) / np.sqrt(len(array)))
