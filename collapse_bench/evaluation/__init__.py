"""A model on held-out sentences: per-sentence arrays, by the same code for every entry."""

from collapse_bench.evaluation.evaluate import (
    Evaluable,
    batches_of,
    device_of,
    evaluate,
    evaluating,
    negative_elbo,
    rows_at,
)
from collapse_bench.evaluation.honesty import (
    LAWS,
    Bound,
    Finding,
    bound_from,
    bound_of,
    findings,
    unseen,
    wider,
)
from collapse_bench.evaluation.importance import FIRST_ROUND, rounds_of_draws
from collapse_bench.evaluation.noise import SentenceNoise, Sentences
from collapse_bench.evaluation.partners import partners

__all__ = [
    "FIRST_ROUND",
    "LAWS",
    "Bound",
    "Evaluable",
    "Finding",
    "SentenceNoise",
    "Sentences",
    "batches_of",
    "bound_from",
    "bound_of",
    "device_of",
    "evaluate",
    "evaluating",
    "findings",
    "negative_elbo",
    "partners",
    "rounds_of_draws",
    "rows_at",
    "unseen",
    "wider",
]
