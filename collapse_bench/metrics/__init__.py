"""Per-sentence arrays to numbers: pure functions, the same for every entry."""

from collapse_bench.metrics.catalogue import METRICS, Scores, absent, key_of, versioned
from collapse_bench.metrics.identities import (
    ArraysError,
    IdentityError,
    check_arrays,
    check_identities,
)
from collapse_bench.metrics.scores import Arrays, posterior_scores, score
from collapse_bench.metrics.verdict import VERDICTS, fooled, verdict

__all__ = [
    "METRICS",
    "VERDICTS",
    "Arrays",
    "ArraysError",
    "IdentityError",
    "Scores",
    "absent",
    "check_arrays",
    "check_identities",
    "fooled",
    "key_of",
    "posterior_scores",
    "score",
    "verdict",
    "versioned",
]
