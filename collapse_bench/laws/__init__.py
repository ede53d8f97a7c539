"""The laws that every remedy keeps, and the check of a remedy's file against all of them.

A law is a function of a remedy in an architecture at a tiny size; its name is the law, its
docstring what the contract says, and it raises `LawBroken` with what was seen.
"""

from collapse_bench.laws.bench import (
    ARCHITECTURES,
    Built,
    make,
    noise_of,
    tiny_batch,
    tiny_corpus,
)
from collapse_bench.laws.check import FIRST, LAWS, Finding, check_file
from collapse_bench.laws.law import (
    DoesNotApply,
    LawBroken,
    Outcome,
    Subject,
    contract_of,
    sentence_of,
    subject,
    tried,
)

__all__ = [
    "ARCHITECTURES",
    "FIRST",
    "LAWS",
    "Built",
    "DoesNotApply",
    "Finding",
    "LawBroken",
    "Outcome",
    "Subject",
    "check_file",
    "contract_of",
    "make",
    "noise_of",
    "sentence_of",
    "subject",
    "tiny_batch",
    "tiny_corpus",
    "tried",
]
