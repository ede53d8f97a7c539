"""Arrays to scores: every metric with its standard error, held against the identities."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from collapse_bench.metrics import active_units as units
from collapse_bench.metrics.catalogue import METRICS, Scores
from collapse_bench.metrics.code_use import code_perplexity, dead_codes
from collapse_bench.metrics.decoder_use import (
    shuffle_gap,
    useful_beyond,
    useful_information,
    useful_rate,
)
from collapse_bench.metrics.identities import check_arrays, check_identities, family_of
from collapse_bench.metrics.labels import entropy, has_label, information_about
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
    bounds,
    bounds_given_length,
    decomposition,
    dimension_information,
    entropy_of_normal,
    least,
    moment_kl,
    place_information,
    surprise,
)
from collapse_bench.metrics.pairs import aggregate_terms, normal_pairs
from collapse_bench.metrics.probe import first_words_information, probe_information

Arrays = Mapping[str, NDArray[Any]]
"""What an evaluation leaves, by name, sentences first, as `identities.SHAPES` has it by `family`;
of values `density`, which is true; of a corpus also `label_<name>` [N], "" where a sentence has
none, where it has words `first_words` [N, 3], and where there are labels, of a family that is not
normal, `information_about_<name>` [N]. Densities that pairs of sentences need are computed from
`posterior_mean` and `posterior_scale` of a normal; those of any other family are in the arrays."""

Terms = dict[str, NDArray[Any]]
"""Metrics that are means over sentences, as their terms [N]."""

Whole = Callable[[NDArray[np.int64]], float]
"""A metric that is no mean, as a function of the sentences' rows."""

GROUPS = 20
"""Parts of the sentences that are left out one at a time for the error of what is no mean."""

MINIMA: dict[str, tuple[Callable[..., float], tuple[str, ...]]] = {
    "useful_beyond": (
        useful_beyond,
        ("useful_rate", "shuffle_gap", "shuffle_gap_later", "information_beyond"),
    ),
    "useful_information": (useful_information, ("useful_rate", "mutual_information")),
}
"""Metrics that are the least of others; their error is that of the least."""

MOST_NATS = 700
"""Nats a token up to which a perplexity is a number."""


def posterior_scores(arrays: Arrays) -> Scores:
    """What training looks at: the rate, both bounds on I, and active units where the family has
    them. No decoder is needed.

    Args:
        arrays: of an evaluation without draws.
    """
    information = _information(arrays, _densities(arrays))
    wholes: dict[str, Whole] = {}
    if _has_units(arrays):
        wholes["active_units"] = partial(_active_units, arrays["posterior_mean"], units.THRESHOLD)
    return _scores(_of_information(arrays, information), wholes, len(arrays["tokens"]))


def score(arrays: Arrays) -> Scores:
    """Every metric of `METRICS` that these arrays tell, in its order.

    Sentences are the sample: a standard error says how far the same model may be off on other
    sentences, not how far another seed may be. What the family of the posterior does not have is
    left out, see `absent`.

    Args:
        arrays: as `evaluate` leaves them.

    Raises:
        ArraysError: an array is missing, has the wrong shape or is not finite.
        IdentityError: two numbers contradict each other.
    """
    check_arrays(arrays)
    n = len(arrays["tokens"])
    nll = importance_weighted_nll(arrays["log_weights"], arrays["draws"])
    densities = _densities(arrays, arrays["tokens"])
    information = _information(arrays, densities)
    dimensions = _dimensions(arrays)
    terms = (
        _of_information(arrays, information)
        | _of_likelihood(arrays, nll)
        | _of_posterior(arrays, information, dimensions)
        | _of_what_is_known(arrays)
    )
    terms |= _beyond(arrays, densities, terms)
    metrics, errors = _scores(terms, _wholes(arrays, nll, dimensions), n)
    for name, (of, named) in MINIMA.items():
        parts = [part for part in named if part in metrics]
        metrics[name] = of(*(metrics[part] for part in parts))
        errors[name] = errors[min(parts, key=metrics.__getitem__)]
    told = [name for name in terms if name.startswith("information_about_")]
    names = [name for name in (*METRICS, *told) if name in metrics]
    scores = Scores(*({name: part[name] for name in names} for part in (metrics, errors)))
    gap_error = _standard_error(terms["negative_elbo"] - nll)
    check_identities(*scores, arrays["draws"], int(arrays["strata"]), gap_error)
    return scores


def _posterior(arrays: Arrays) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Of a normal: a draw from each posterior, their means and scales, [N, D] each."""
    return arrays["posterior_sample"], arrays["posterior_mean"], arrays["posterior_scale"]


def _is_normal(arrays: Arrays) -> bool:
    return family_of(arrays) == "normal"


def _has_units(arrays: Arrays) -> bool:
    """Whether the variance of posterior means says how many dimensions are in use."""
    return family_of(arrays) != "sphere" and "posterior_mean" in arrays


def _densities(arrays: Arrays, tokens: NDArray[np.integer] | None = None) -> Arrays:
    """Log densities of each draw in mixtures, [N] each; with lengths also within these."""
    return (
        aggregate_terms(normal_pairs(*_posterior(arrays)), tokens) if _is_normal(arrays) else arrays
    )


def _information(arrays: Arrays, densities: Arrays) -> Information:
    """Both bounds on I, the upper one at most the rate."""
    if arrays["posterior_sample"].shape[1] == 0:
        nothing = np.zeros(len(arrays["tokens"]))
        return Information(nothing, nothing)
    among = int(arrays.get("aggregate_size", len(arrays["tokens"])))
    lower, upper = bounds(densities, arrays["log_prior"], among)
    return Information(lower, least(upper, _rate(arrays)))


def _dimensions(arrays: Arrays) -> NDArray[Any] | None:
    """Terms of the information of single dimensions, [N, D]; None where a family has none."""
    if _is_normal(arrays):
        return dimension_information(*_posterior(arrays))
    if "codes" in arrays:
        return place_information(arrays["codes"], arrays["log_density"])
    return None


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
    log_weights, draws, strata = (arrays[name] for name in ("log_weights", "draws", "strata"))
    of_draws = (log_weights, draws, int(strata))
    distortion = np.asarray(arrays["distortion"], dtype=np.float64)
    terms = {
        "useful_rate": useful_rate(nll, distortion),
        "nll": nll,
        "nll_jackknife": jackknife_nll(*of_draws),
        "ess": effective_sample_size(log_weights),
        "nll_samples": draws,
        "negative_elbo": distortion + _rate(arrays),
        "distortion": distortion,
        "shuffle_gap": _known(shuffle_gap(distortion, arrays["shuffled_log_likelihood"])),
        "shuffle_gap_any": _known(shuffle_gap(distortion, arrays["shuffled_any_log_likelihood"])),
    }
    later = _known(arrays["later_log_likelihood"] - arrays["shuffled_later_log_likelihood"])
    if len(later):
        terms["shuffle_gap_later"] = later
    if "refined_kl" in arrays:
        rate = arrays["refined_kl"].sum(axis=1, dtype=np.float64)
        terms["refined_bound"] = arrays["refined_distortion"].astype(np.float64) + rate
        terms["refinement_gain"] = terms["negative_elbo"] - terms["refined_bound"]
    if "kl_given_neighbours" in arrays:
        rate = arrays["kl_given_neighbours"].astype(np.float64)
        terms["negative_elbo_given_neighbours"] = distortion + rate
    if draws.min() > 1:
        terms["nll_monte_carlo_error"] = monte_carlo_errors(*of_draws)
    if draws.min() > 2:
        terms["nll_gain_of_doubling"] = nll_gain_of_doubling(*of_draws)
    return terms


def _of_posterior(
    arrays: Arrays, information: Information, dimensions: NDArray[Any] | None
) -> Terms:
    """What the rate is made of, and the information as others estimate it."""
    if dimensions is None:
        return {"marginal_kl": _rate(arrays) - information.lower}
    terms: Terms = decomposition(_rate(arrays), information.lower, dimensions)._asdict()
    if _is_normal(arrays):
        terms["mutual_information_he2019"] = batched_mutual_information(
            *_posterior(arrays), arrays["tokens"]
        )
    return terms


def _of_what_is_known(arrays: Arrays) -> Terms:
    """What z tells of first words and labels, where a corpus has them."""
    terms: Terms = {}
    if "first_words" in arrays:
        z, tokens, words = (arrays[name] for name in ("posterior_sample", "tokens", "first_words"))
        terms["probe_information"] = probe_information(z, tokens, words)
        terms["first_words_information"] = first_words_information(z, tokens, words)
    labels = {k.removeprefix("label_"): v for k, v in arrays.items() if k.startswith("label_")}
    labels = {name: values for name, values in labels.items() if has_label(values).any()}
    if not labels:
        return terms
    told = (
        information_about(labels, normal_pairs(*_posterior(arrays)))
        if _is_normal(arrays)
        else {name: arrays[f"information_about_{name}"] for name in labels}
    )
    known = sum(entropy(values) for values in labels.values())
    if known > 0:
        parts = [_as_if_all(told[name], has_label(labels[name])) for name in labels]
        terms["global_information_share"] = np.sum(parts, axis=0) / known
    return terms | {
        f"information_about_{name}": told[name][has_label(labels[name])] for name in labels
    }


def _as_if_all(terms: NDArray[Any], asked: NDArray[np.bool_]) -> NDArray[Any]:
    """Terms [N] with the mean, and the standard error, of those that were asked for."""
    if asked.all():
        return terms
    mean = terms[asked].mean()
    return np.asarray(mean + np.where(asked, terms - mean, 0) / asked.mean())


def _beyond(arrays: Arrays, densities: Arrays, terms: Terms) -> Terms:
    """What z tells beyond the length, and beyond length and first words."""
    tokens = arrays["tokens"]
    if arrays["posterior_sample"].shape[1] == 0:
        given = Information(np.zeros(len(tokens)), np.zeros(len(tokens)))
    else:
        given = bounds_given_length(densities, arrays["log_prior"], tokens)
    of_words = terms.get("first_words_information")
    beyond = given.lower - (of_words if of_words is not None and of_words.mean() > 0 else 0)
    return {
        "information_given_length": given.lower,
        "information_given_length_upper": least(given.upper, terms["mutual_information_upper"]),
        "length_entropy": surprise(tokens),
        "information_beyond": beyond,
        "trivial_information": terms["mutual_information"] - beyond,
    }


def _wholes(arrays: Arrays, nll: NDArray[Any], dimensions: NDArray[Any] | None) -> dict[str, Whole]:
    """Metrics that are no means over sentences."""
    wholes: dict[str, Whole] = {}
    if _has_units(arrays):
        mean = arrays["posterior_mean"]
        wholes["active_units"] = partial(_active_units, mean, units.THRESHOLD)
        for threshold in units.THRESHOLDS:
            wholes[f"active_units_{threshold:g}"] = partial(_active_units, mean, threshold)
    if dimensions is not None:
        wholes["effective_units"] = lambda rows: units.effective_units(
            dimensions[rows].mean(axis=0)
        )
    if _is_normal(arrays):
        wholes |= _of_moments(arrays)
    if "codes" in arrays:
        wholes["code_perplexity"] = lambda rows: code_perplexity(arrays["codes"][rows])
    if "codebook_size" in arrays:
        size = int(arrays["codebook_size"])
        wholes["dead_codes"] = lambda rows: dead_codes(arrays["codes"][rows], size)
    # A density has no perplexity: in other units of x it would be another number.
    if "density" not in arrays and nll.sum() / arrays["tokens"].sum() < MOST_NATS:
        wholes["perplexity"] = lambda rows: perplexity(nll[rows], arrays["tokens"][rows])
    return wholes


def _of_moments(arrays: Arrays) -> dict[str, Whole]:
    """What is told by means and scales."""
    _, mean, scale = _posterior(arrays)
    # R = -H(q) - E_q log p(z), in closed form where the rate is.
    log_prior = -entropy_of_normal(scale) - _rate(arrays)
    return {
        "relative_active_units": lambda rows: units.relative_active_units(mean[rows], scale[rows]),
        "whitened_active_units": lambda rows: units.whitened_active_units(mean[rows], scale[rows]),
        "moment_kl": lambda rows: moment_kl(mean[rows], scale[rows], log_prior[rows]),
    }


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


def _known(terms: NDArray[Any]) -> NDArray[Any]:
    """The terms that are there, of what was looked at for some sentences only."""
    return np.asarray(terms[~np.isnan(terms)])


def _standard_error(array: NDArray[Any]) -> float:
    if len(array) < 2:
        return 0.0
    return float(np.std(array, ddof=1, dtype=np.float64) / np.sqrt(len(array)))
