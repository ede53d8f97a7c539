"""One word for a model, by stated rules, from numbers that cannot be had without the decoder.

The rules and their thresholds are this project's. KL, mutual information and active units decide
nothing by themselves: each holds for some model whose decoder never looks at z.
"""

import math
from collections.abc import Mapping

from collapse_bench.metrics.catalogue import Scores

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
    "rate without use": f"a rate of {NOTABLE_RATE:g} nats or more and less than {COLLAPSED:g} used,"
    " or nothing lost with the z of another sentence of the same length: the decoder is as blind as"
    " a collapsed one, and KL, often MI and active units, are fooled",
    "inference collapse": "the decoder would use z, but the encoder does not provide it: refined"
    f" posteriors of the same decoder gain {NOTABLE_USE:g} nats or more",
    "prior holes": "the aggregate posterior is far from the prior: by its first two moments alone"
    " by more than 1 nat and half of the rate",
    "saturated estimate": "z tells more than an estimate from this many sentences can show: it may"
    " be half of the rate or not",
    "no latent": "a language model",
}


def verdict(scores: Scores, sentences: int, refined_use: float = 0.0) -> str:
    """One of `VERDICTS`.

    Args:
        scores: of the model.
        sentences: N behind them.
        refined_use: what posteriors that were refined sentence by sentence under the frozen decoder
            gain for certain, nats; 0 where nobody has looked. Model collapse and inference collapse
            (He et al. 2019) differ in nothing else.
    """
    metrics, errors = scores
    rate, useful = metrics["kl"], metrics["useful_information"]

    def enough(used: float) -> bool:
        return used >= max(PARTLY, rate / 2)

    if useful < COLLAPSED:
        if refined_use >= NOTABLE_USE:
            return "inference collapse"
        return "rate without use" if rate >= NOTABLE_RATE else "collapsed"
    if metrics["shuffle_gap"] + 2 * errors["shuffle_gap"] < COLLAPSED:
        return "rate without use"
    if useful >= PARTLY and metrics["moment_kl"] > max(1.0, rate / 2):
        return "prior holes"
    if enough(useful):
        return "healthy"
    saturated = metrics["mutual_information"] > SATURATED * math.log(sentences)
    return (
        "saturated estimate"
        if saturated and enough(metrics["useful_rate"])
        else ("partly collapsed")
    )


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
