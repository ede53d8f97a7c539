"""One word for a model, by stated rules, from numbers that cannot be had without the decoder.

The rules and their thresholds are this project's. KL, mutual information and active units decide
nothing by themselves: each holds for some model whose decoder never looks at z.
"""

import math
from collections.abc import Mapping

from collapse_bench.metrics.catalogue import Scores

COLLAPSED = 0.1
"""Nats of useful information below which a model is collapsed, and of useful information beyond
length and first words below which its use of z is trivial."""

PARTLY = 1.0
"""Nats of useful information beyond length and first words below which it is partly collapsed; or
half of the rate that is not for these."""

NOTABLE_RATE = 0.5
"""Nats of rate that something has to show for."""

NOTABLE_USE = 0.5
"""Nats of useful rate by which refined posteriors show that a decoder is not blind."""

SATURATED = 0.6
"""Share of its cap above which even the full-sum bound falls behind the information: of log N, or
of log N less the entropy of the length where it is given the length."""

FEWEST = 2
"""Sentences without which nothing can be told apart."""

VERDICTS = {
    "healthy": "the decoder uses what z tells, and most of what the rate pays for",
    "partly collapsed": "the decoder uses what z tells beyond length and first words, but less"
    f" than {PARTLY:g} nat or half of the rate that is not for these",
    "collapsed": f"less than {COLLAPSED:g} nats of useful information, and hardly a rate",
    "trivial use": "the decoder uses z, but for length or first words only: less than"
    f" {COLLAPSED:g} nats beyond these, or nothing lost with the z of another sentence of the same"
    " length",
    "rate without use": f"a rate of {NOTABLE_RATE:g} nats or more and less than {COLLAPSED:g} used,"
    " or nothing lost with the z of any other sentence: what the decoder sees does not tell"
    " sentences apart for it, and KL, often MI and active units, are fooled",
    "inference collapse": "the decoder would use z, but the encoder does not provide it: refined"
    f" posteriors of the same decoder gain {NOTABLE_USE:g} nats or more",
    "prior holes": "the aggregate posterior is far from the prior: by its first two moments alone,"
    " or by the rate less the most that z can tell, by more than 1 nat and half of the rate",
    "saturated estimate": "z tells more than an estimate from this many sentences, or this many of"
    " a length, can show: it may be half of the rate or not",
    "too few sentences": "of one sentence nothing can be told apart: there is no verdict",
    "no latent": "a language model",
}


def verdict(scores: Scores, sentences: int, refined_use: float = 0.0) -> str:
    """One of `VERDICTS`.

    Args:
        scores: of the model.
        sentences: behind them; where mixtures were of fewer posteriors, as many.
        refined_use: what posteriors that were refined sentence by sentence under the frozen decoder
            gain for certain, nats; 0 where nobody has looked. Model collapse and inference collapse
            (He et al. 2019) differ in nothing else.
    """
    if sentences < FEWEST:
        return "too few sentences"
    metrics, errors = scores
    rate, used = metrics["kl"], metrics["useful_beyond"]
    gaps = [name for name in ("shuffle_gap", "shuffle_gap_later") if name in metrics]
    within = min(metrics[name] + 2 * errors[name] for name in gaps)
    anywhere = metrics["shuffle_gap_any"] + 2 * errors["shuffle_gap_any"]
    saturated = _is_saturated(metrics, sentences)

    # Nothing tells more than its rate; estimates from few sentences may.
    if min(metrics["useful_information"], rate) < COLLAPSED:
        if refined_use >= NOTABLE_USE:
            return "inference collapse"
        return "rate without use" if rate >= NOTABLE_RATE else "collapsed"
    # The upper bound says for certain what is not there, however few share a length.
    of_words = max(0.0, metrics.get("first_words_information", 0.0))
    nothing_beyond = metrics["information_given_length_upper"] - of_words < COLLAPSED
    if within < COLLAPSED or nothing_beyond:
        return "rate without use" if anywhere < COLLAPSED else "trivial use"
    if used < COLLAPSED:
        untold = metrics["information_beyond"] < COLLAPSED
        return "saturated estimate" if untold else "trivial use"
    if used >= PARTLY and _distance_from_prior(metrics) > max(1.0, rate / 2):
        return "prior holes"
    half = (rate - max(0.0, metrics["trivial_information"])) / 2
    if used >= max(PARTLY, half):
        return "healthy"
    may_be_healthy = min(metrics["useful_rate"], within) >= max(PARTLY, half)
    return "saturated estimate" if saturated and may_be_healthy else "partly collapsed"


def _is_saturated(metrics: Mapping[str, float], sentences: int) -> bool:
    """Whether information, in all or given the length, is near what N sentences can show of it."""
    cap = math.log(sentences)
    left = max(0.0, cap - metrics["length_entropy"])
    return (
        metrics["mutual_information"] > SATURATED * cap
        or metrics["information_given_length"] >= SATURATED * left
    )


def _distance_from_prior(metrics: Mapping[str, float]) -> float:
    """A lower bound on the marginal KL that nothing saturates; from moments where they are known.

    R - I is at least R less the upper bound on I.
    """
    if "moment_kl" in metrics:
        return metrics["moment_kl"]
    return metrics["kl"] - metrics["mutual_information_upper"]


def fooled(metrics: Mapping[str, float]) -> list[str]:
    """The popular metrics that, read alone, would call a collapsed model alive.

    Args:
        metrics: by plain name.
    """
    if metrics["useful_information"] >= COLLAPSED:
        return []
    alone = {
        "KL": metrics["kl"] >= NOTABLE_RATE,
        "MI": metrics["mutual_information"] >= NOTABLE_RATE,
        "AU": metrics.get("active_units", 0) >= 1,
    }
    return [name for name, alive in alone.items() if alive]
