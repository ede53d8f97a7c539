"""Arrays to scores: every metric with its standard error, held against the identities."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from collapse_bench.metrics import active_units as units
from collapse_bench.metrics.catalogue import METRICS, Scores
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
    Information,
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
[N, D], `shuffled_log_likelihood` [N]; of a corpus `first_words` [N, 3] and `label_<name>` [N]."""

Terms = dict[str, NDArray[Any]]
"""Metrics that are means over sentences, as their terms [N]."""

Whole = Callable[[NDArray[np.int64]], float]
"""A metric that is no mean, as a function of the sentences' rows."""

GROUPS = 20
"""Parts of the sentences that are left out one at a time for the error of what is no mean."""

MOST_NATS = 700
"""Nats a token up to which a perplexity is a number."""


def posterior_scores(arrays: Arrays) -> Scores:
    """What training looks at: the rate, both bounds on I, and active units. No decoder is needed.

    Args:
        arrays: of an evaluation without draws.
    """
    return _scores(
        _of_information(arrays, _information(arrays)),
        {"active_units": lambda rows: units.active_units(arrays["posterior_mean"][rows])},
        len(arrays["tokens"]),
    )


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
    nll = importance_weighted_nll(arrays["log_weights"], arrays["draws"])
    information = _information(arrays)
    dimensions = dimension_information(*_posterior(arrays))
    terms = (
        _of_information(arrays, information)
        | _of_likelihood(arrays, nll)
        | _of_posterior(arrays, information, dimensions)
        | _of_what_is_known(arrays)
    )
    metrics, errors = _scores(terms, _wholes(arrays, nll, dimensions), n)
    both = ("useful_rate", "mutual_information")
    metrics["useful_information"] = useful_information(*(metrics[name] for name in both))
    errors["useful_information"] = errors[min(both, key=metrics.__getitem__)]
    told = [name for name in terms if name.startswith("information_about_")]
    names = [name for name in (*METRICS, *told) if name in metrics]
    scores = Scores(*({name: part[name] for name in names} for part in (metrics, errors)))
    gap_error = _standard_error(terms["negative_elbo"] - nll)
    check_identities(*scores, arrays["draws"], gap_error)
    return scores


def _posterior(arrays: Arrays) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """A draw from each posterior, their means and scales, [N, D] each."""
    return arrays["posterior_sample"], arrays["posterior_mean"], arrays["posterior_scale"]


def _information(arrays: Arrays) -> Information:
    return mutual_information(*_posterior(arrays))


def _rate(arrays: Arrays) -> NDArray[Any]:
    return np.asarray(arrays["kl"].sum(axis=1, dtype=np.float64))


def _of_information(arrays: Arrays, information: Information) -> Terms:
    return {
        "kl": _rate(arrays),
        "mutual_information": information.lower,
        "mutual_information_upper": information.upper,
    }


def _of_likelihood(arrays: Arrays, nll: NDArray[Any]) -> Terms:
    """What the decoder makes of z."""
    log_weights, draws = arrays["log_weights"], arrays["draws"]
    distortion = np.asarray(arrays["distortion"], dtype=np.float64)
    terms = {
        "useful_rate": useful_rate(nll, distortion),
        "nll": nll,
        "nll_jackknife": jackknife_nll(log_weights, draws),
        "ess": effective_sample_size(log_weights),
        "nll_samples": draws,
        "negative_elbo": distortion + _rate(arrays),
        "distortion": distortion,
        "shuffle_gap": shuffle_gap(distortion, arrays["shuffled_log_likelihood"]),
    }
    if draws.min() > 1:
        terms["nll_monte_carlo_error"] = monte_carlo_errors(log_weights, draws)
    if draws.min() > 2:
        terms["nll_gain_of_doubling"] = nll_gain_of_doubling(log_weights, draws)
    return terms


def _of_posterior(arrays: Arrays, information: Information, dimensions: NDArray[Any]) -> Terms:
    """What the rate is made of, and the information as others estimate it."""
    parts = decomposition(_rate(arrays), information.lower, dimensions)
    return parts._asdict() | {
        "mutual_information_he2019": batched_mutual_information(
            *_posterior(arrays), arrays["tokens"]
        ),
    }


def _of_what_is_known(arrays: Arrays) -> Terms:
    """What z tells of first words and labels, where a corpus has them."""
    terms: Terms = {}
    if "first_words" in arrays:
        terms["probe_information"] = probe_information(
            arrays["posterior_sample"], arrays["tokens"], arrays["first_words"]
        )
    labels = {k.removeprefix("label_"): v for k, v in arrays.items() if k.startswith("label_")}
    told = information_about(labels, *_posterior(arrays)) if labels else {}
    known = sum(entropy(values) for values in labels.values())
    if known > 0:
        terms["global_information_share"] = np.sum(list(told.values()), axis=0) / known
    return terms | {f"information_about_{name}": values for name, values in told.items()}


def _wholes(arrays: Arrays, nll: NDArray[Any], dimensions: NDArray[Any]) -> dict[str, Whole]:
    _, mean, scale = _posterior(arrays)
    # R = -H(q) - E_q log p(z), in closed form where the rate is.
    log_prior = -entropy_of_normal(scale) - _rate(arrays)
    wholes: dict[str, Whole] = {
        "active_units": lambda rows: units.active_units(mean[rows]),
        "relative_active_units": lambda rows: units.relative_active_units(mean[rows], scale[rows]),
        "whitened_active_units": lambda rows: units.whitened_active_units(mean[rows], scale[rows]),
        "effective_units": lambda rows: units.effective_units(dimensions[rows].mean(axis=0)),
        "moment_kl": lambda rows: moment_kl(mean[rows], scale[rows], log_prior[rows]),
    }
    for threshold in units.THRESHOLDS:
        wholes[f"active_units_{threshold:g}"] = partial(_active_units, mean, threshold)
    if nll.sum() / arrays["tokens"].sum() < MOST_NATS:
        wholes["perplexity"] = lambda rows: perplexity(nll[rows], arrays["tokens"][rows])
    return wholes


def _active_units(mean: NDArray[Any], threshold: float, rows: NDArray[np.int64]) -> float:
    return units.active_units(mean[rows], threshold)


def _scores(terms: Terms, wholes: Mapping[str, Whole], n: int) -> Scores:
    means = {name: float(np.mean(array, dtype=np.float64)) for name, array in terms.items()}
    errors = {name: _standard_error(array) for name, array in terms.items()}
    everything = np.arange(n)
    return Scores(
        means | {name: float(of(everything)) for name, of in wholes.items()},
        errors | {name: jackknife_error(of, n) for name, of in wholes.items()},
    )


def jackknife_error(of: Whole, n: int) -> float:
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


def _standard_error(array: NDArray[Any]) -> float:
    if len(array) < 2:
        return 0.0
    return float(np.std(array, ddof=1, dtype=np.float64) / np.sqrt(len(array)))
