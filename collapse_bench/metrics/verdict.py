"""One word for a model, by stated rules, from numbers that cannot be had without the decoder.

The rules and their thresholds are this project's. KL, mutual information and active units decide
nothing by themselves: each holds for some model whose decoder never looks at z.
"""

from collections.abc import Mapping

COLLAPSED = 0.1
"""Nats of useful information below which a model is collapsed."""

PARTLY = 1.0
"""Nats of useful information, or half of the rate, below which it is partly collapsed."""

NOTABLE_RATE = 0.5
"""Nats of rate that something has to show for."""

NOTABLE_USE = 0.5
"""Nats of useful rate by which refined posteriors show that a decoder is not blind."""

SATURATED = 0.6
"""Share of log N above which even the full-sum bound falls behind the information."""

VERDICTS = {
    "healthy": "the decoder uses what z tells, and most of what the rate pays for",
    "partly collapsed": f"the decoder uses z, but less than {PARTLY:g} nat or half of the rate",
    "collapsed": f"less than {COLLAPSED:g} nats of useful information, and hardly a rate",
    "rate without use": f"a rate of {NOTABLE_RATE:g} nats or more and less than {COLLAPSED:g} used:"
    " the decoder is as blind as a collapsed one, and KL, often MI and active units, are fooled",
    "inference collapse": "the decoder would use z, but the encoder does not provide it: refined"
    f" posteriors of the same decoder gain {NOTABLE_USE:g} nats or more",
    "prior holes": "the aggregate posterior is far from the prior: by its first two moments alone"
    " by more than 1 nat and half of the rate",
    "saturated estimate": "z tells more than an estimate from this many sentences can show, and"
    " the decoder uses at least that",
    "no latent": "a language model",
}


def verdict(metrics: Mapping[str, float], ceiling: float, refined_use: float = 0.0) -> str:
    """One of `VERDICTS`.

    Args:
        metrics: by plain name, as `score` gives them, nats.
        ceiling: log N.
        refined_use: useful rate of posteriors that were refined sentence by sentence under the
            frozen decoder, nats; 0 where nobody has looked. Model collapse and inference collapse
            (He et al. 2019) differ in nothing else.
    """
    rate, information = metrics["kl"], metrics["mutual_information"]
    useful = metrics["useful_information"]
    if useful < COLLAPSED:
        if refined_use >= NOTABLE_USE:
            return "inference collapse"
        return "rate without use" if rate >= NOTABLE_RATE else "collapsed"
    if useful < PARTLY:
        return "partly collapsed"
    if metrics["moment_kl"] > max(1.0, rate / 2):
        return "prior holes"
    if information > SATURATED * ceiling and information < metrics["useful_rate"]:
        return "saturated estimate"
    return "healthy" if useful >= rate / 2 else "partly collapsed"


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
        "AU": metrics["active_units"] >= 1,
    }
    return [name for name, alive in alone.items() if alive]
