"""Every metric by name: its version, its unit, what it is, and what it cannot see.

A record's names carry the version, `nll@2`: a number is only ever set beside one of the same
arithmetic. Whoever changes what a metric computes raises its version.
"""

from collections.abc import Mapping
from typing import NamedTuple, TypeVar

from collapse_bench.metrics.active_units import THRESHOLDS

T = TypeVar("T")


class Metric(NamedTuple):
    """What a number is.

    Attributes:
        unit: `nats` are nats a sentence.
        meaning: what it is, with its source.
        blind: what it cannot see.
        version: of its arithmetic.
    """

    unit: str
    meaning: str
    blind: str
    version: int = 1


class Scores(NamedTuple):
    """Metrics and their standard errors over sentences, by plain name."""

    metrics: dict[str, float]
    standard_errors: dict[str, float]


METRICS: dict[str, Metric] = {
    "useful_beyond": Metric(
        "nats",
        "min(useful rate, shuffle gap, shuffle gap later, information beyond): what the latent"
        " tells beyond length and first words and the decoder uses",
        "whether these are of the same things; what information_beyond cannot see",
        version=2,
    ),
    "useful_information": Metric(
        "nats",
        "min(useful rate, mutual information): what the latent tells and the decoder uses",
        "whether it is more than length and first words: see useful_beyond",
        version=2,
    ),
    "useful_rate": Metric(
        "nats",
        "U = NLL - D = rate less the gap to the true posterior: what the decoder gains from z",
        "too high by as much as the NLL is, where the draws have run out",
        version=2,
    ),
    "nll": Metric(
        "nats",
        "importance-weighted negative log-likelihood (Burda et al. 2016), one draw in four from the"
        " prior and one in four from a widened posterior; of families without one, one in eight"
        " from the prior",
        "an upper bound, looser where the posterior is far from the true one",
        version=2,
    ),
    "nll_jackknife": Metric(
        "nats",
        "the NLL with its bias reduced by leaving out one draw at a time (Nowozin 2018)",
        "no bound: it may lie on either side",
        version=2,
    ),
    "nll_gain_of_doubling": Metric(
        "nats",
        "what the last doubling of the draws took off the NLL: above 0.1 it has not settled",
        "a mode of the true posterior that no draw has met",
        version=2,
    ),
    "nll_samples": Metric(
        "draws", "draws behind a sentence's NLL, mean over sentences", "-", version=2
    ),
    "nll_monte_carlo_error": Metric(
        "nats",
        "standard error of a sentence's NLL from its draws, mean over sentences",
        "a large weight that no draw has met; of one draw none is known",
        version=2,
    ),
    "ess": Metric(
        "draws",
        "effective sample size of the draws behind an NLL (Kong 1992), mean over sentences",
        "a mode that no draw has met",
        version=2,
    ),
    "negative_elbo": Metric("nats", "distortion + rate", "which of the two it is made of"),
    "negative_elbo_given_neighbours": Metric(
        "nats",
        "distortion + rate from the prior given a stored mean, mean over those of the training"
        " sentences that are nearest: what Graves et al. (2018) report",
        "what it takes to tell which these are: no bound on -log p(x), nor comparable to one",
    ),
    "refined_bound": Metric(
        "nats",
        "distortion + rate of posteriors that each sentence's own descent has refined under the"
        " frozen decoder (Kim et al. 2018)",
        "what the steps do not reach",
    ),
    "refinement_gain": Metric(
        "nats",
        "distortion + rate less the refined bound: the amortisation gap (Cremer et al. 2018), or"
        " the part of it that the descent closes",
        "what the steps do not reach; below 0 where they lead astray",
    ),
    "distortion": Metric(
        "nats",
        "D = -log p(x|z) for z from the posterior",
        "what the rate costs: D alone is not a likelihood",
    ),
    "kl": Metric(
        "nats",
        "rate R, KL of the posterior from the prior",
        "whether z tells anything, and whether the decoder listens",
    ),
    "mutual_information": Metric(
        "nats",
        "I_q(x; z), lower bound over the whole split (Hoffman and Johnson 2016)",
        "whether the decoder listens; nothing above the logarithm of the number of sentences",
        version=2,
    ),
    "mutual_information_upper": Metric(
        "nats",
        "I_q(x; z), upper bound: leave-one-out with the prior mixed in (after Poole et al. 2019);"
        " the rate where that is less",
        "whether the decoder listens; no bound where the prior looks at the sentence",
        version=2,
    ),
    "information_given_length": Metric(
        "nats",
        "I_q(x; z | length), lower bound over all sentences of a length (van den Oord et al. 2018)",
        "whether the decoder listens; nothing above the mean logarithm of the number of sentences"
        " of a length",
    ),
    "information_given_length_upper": Metric(
        "nats",
        "I_q(x; z | length), upper bound: leave-one-out among sentences of a length with the prior"
        " mixed in (after Poole et al. 2019), or that on I_q(x; z) where it is less",
        "whether the decoder listens; where few sentences share a length it is the rate",
    ),
    "length_entropy": Metric(
        "nats",
        "entropy of the sentences' lengths: the most that z can tell of them",
        "whether z tells them; too low where lengths are as many as sentences",
    ),
    "first_words_information": Metric(
        "nats",
        "what the first three words tell of z beyond the length to a linear-Gaussian probe (after"
        " Bosc and Vincent 2020; bound of Barber and Agakov 2003)",
        "what no linear-Gaussian probe finds: z may hold more of them than this",
    ),
    "information_beyond": Metric(
        "nats",
        "information given the length less that of first words, where positive: what z tells beyond"
        " length and first words",
        "whether the decoder listens; too high by what the probe does not find of first words, too"
        " low where information given the length is saturated",
    ),
    "trivial_information": Metric(
        "nats",
        "mutual information less information beyond: what z tells of length and first words",
        "what no linear-Gaussian probe finds of first words; too high where information given the"
        " length is saturated and mutual information is not",
    ),
    "mutual_information_he2019": Metric(
        "nats",
        "I_q(x; z) as in the code of He et al. 2019: batches of at most 32 of one length",
        "anything above log 32 = 3.47; information on length; for comparison only",
    ),
    "marginal_kl": Metric(
        "nats",
        "KL of the aggregate posterior from the prior, R - I",
        "too high where the mutual information is saturated",
    ),
    "moment_kl": Metric(
        "nats",
        "a lower bound on the marginal KL, from mean and covariance of the aggregate posterior",
        "holes that leave both moments as they are",
    ),
    "total_correlation": Metric(
        "nats",
        "what latent dimensions tell twice, sum_j I_j - I (Chen et al. 2018)",
        "too low or high where information is saturated",
    ),
    "dimension_kl": Metric(
        "nats",
        "KL of the single dimensions' aggregate posteriors from the prior, R - sum_j I_j",
        "under a prior whose dimensions depend on each other it holds that dependence too",
    ),
    "active_units": Metric(
        "units",
        "latent dimensions whose posterior mean has a variance above 0.01 (Burda et al. 2016)",
        "whether the decoder listens; the scale of z; how little 0.01 is (0.005 nats)",
    ),
    **{
        f"active_units_{threshold:g}": Metric(
            "units", f"active units for a variance above {threshold:g}", "as active_units"
        )
        for threshold in THRESHOLDS
    },
    "relative_active_units": Metric(
        "units",
        "dimensions with more than 0.01 of their aggregate variance in the posterior mean",
        "whether the decoder listens; duplicates among the dimensions",
    ),
    "whitened_active_units": Metric(
        "units",
        "directions with more than 0.01 of the whitened aggregate variance in the posterior mean",
        "whether the decoder listens",
    ),
    "effective_units": Metric(
        "units",
        "exp of the entropy of the dimensions' shares of information; 0 where there is none",
        "whether the decoder listens",
    ),
    "code_perplexity": Metric(
        "codes",
        "of a discrete latent, exp of the entropy of a place's codes, mean over places",
        "whether the decoder listens; too low where sentences are few",
    ),
    "dead_codes": Metric(
        "codes",
        "of a discrete latent, codes that no sentence has at a place, mean over places",
        "how evenly the others are used; too many where sentences are few",
    ),
    "shuffle_gap": Metric(
        "nats",
        "what log p(x|z) loses with another sentence's z of the same length",
        "how much: it detects use, and is not below the information where inference is exact; use"
        " of the length",
    ),
    "shuffle_gap_later": Metric(
        "nats",
        "what log p of the tokens after the first three loses with another sentence's z of the same"
        " length: nothing where z tells length and first words only",
        "how much; what the first three tokens gain from more than themselves",
    ),
    "shuffle_gap_any": Metric(
        "nats",
        "what log p(x|z) loses with another sentence's z, of whatever length",
        "how much; whether z is used for more than the length",
    ),
    "probe_information": Metric(
        "nats",
        "what length and first three words tell of z to a linear-Gaussian probe (after Bosc and"
        " Vincent 2020)",
        "what no linear-Gaussian probe finds: z may hold more of them than this",
    ),
    "information_about": Metric(
        "nats",
        "I_q(a; z) of a known attribute a of the sentence, one metric an attribute; over the"
        " sentences that have a label",
        "whether the decoder listens",
        version=2,
    ),
    "global_information_share": Metric(
        "share",
        "information on all attributes over what there is to know of them",
        "whether the decoder listens",
        version=2,
    ),
    "perplexity": Metric(
        "per token",
        "exp(NLL / tokens), EOS counted, BOS and padding not",
        "as the NLL",
        version=2,
    ),
}


_NEEDS_SCALE = "needs the scale of each dimension, which only a diagonal normal has"
_NEEDS_NORMAL = "a descent refines mean and scale, which only a diagonal normal has"
_NEEDS_DIMENSIONS = "needs the density of single dimensions, which this family has not"
_NEEDS_MEAN = "the posterior has no known mean"
_OF_NORMALS = "is of the code of He et al. 2019, which is for diagonal normals"

_WITHOUT_DIMENSIONS = {
    "total_correlation": _NEEDS_DIMENSIONS,
    "dimension_kl": _NEEDS_DIMENSIONS,
    "effective_units": _NEEDS_DIMENSIONS,
}
_UNITS = ("active_units", *(f"active_units_{threshold:g}" for threshold in THRESHOLDS))
_WITHOUT_SCALE = {
    "refined_bound": _NEEDS_NORMAL,
    "refinement_gain": _NEEDS_NORMAL,
    "relative_active_units": _NEEDS_SCALE,
    "whitened_active_units": _NEEDS_SCALE,
    "mutual_information_he2019": _OF_NORMALS,
}
_OTHER = {
    **dict.fromkeys(_UNITS, _NEEDS_MEAN),
    **_WITHOUT_SCALE,
    **_WITHOUT_DIMENSIONS,
    "moment_kl": "needs mean and covariance of each posterior, which are not known",
}
_ABSENT: dict[str, dict[str, str]] = {
    "normal": {},
    "flow": _OTHER,
    "sphere": _OTHER
    | dict.fromkeys(_UNITS, "on a sphere every coordinate varies, whatever z tells")
    | {"moment_kl": "the density is one on a sphere, which has no volume to hold a normal against"},
    "codes": _WITHOUT_SCALE
    | {"moment_kl": "codes have probabilities, which no normal density can be held against"},
    "other": _OTHER,
}


def absent(family: str) -> dict[str, str]:
    """Why a metric may be missing from the scores of a posterior of this family, by its name.

    Args:
        family: `normal`, `flow`, `sphere`, `codes` or `other`.

    Raises:
        KeyError: there is no such family.
    """
    return dict(_ABSENT[family])


def key_of(name: str) -> str:
    """A metric's name with its version, as records carry it: `nll@2`, `information_about_topic@1`.

    Raises:
        KeyError: there is no such metric.
    """
    family = "information_about" if name.startswith("information_about_") else name
    return f"{name}@{METRICS[family].version}"


def versioned(values: Mapping[str, T]) -> dict[str, T]:
    """The same values under the names that records carry."""
    return {key_of(name): value for name, value in values.items()}
