"""A suite: one YAML file that names a corpus, architectures, entries and seeds; and its cells.

A suite is checked as a whole, and before torch is imported: `load_suite` tells everything that is
wrong with it at once, each with its line, the rule, the value and the way out.
"""

from collapse_bench.suite.cells import (
    Cell,
    belongs_to,
    cell_id,
    cells_of,
    curves_of,
    digest_of,
    id_of,
    identity,
    named,
    select,
    trained_as,
)
from collapse_bench.suite.definition import (
    DRAWN,
    VALUES,
    Architecture,
    CorpusName,
    CorpusSettings,
    Entry,
    Evaluation,
    RemedySettings,
    Sizes,
    Suite,
    Sweep,
    Training,
)
from collapse_bench.suite.loading import load_suite

__all__ = [
    "DRAWN",
    "VALUES",
    "Architecture",
    "Cell",
    "CorpusName",
    "CorpusSettings",
    "Entry",
    "Evaluation",
    "RemedySettings",
    "Sizes",
    "Suite",
    "Sweep",
    "Training",
    "belongs_to",
    "cell_id",
    "cells_of",
    "curves_of",
    "digest_of",
    "id_of",
    "identity",
    "load_suite",
    "named",
    "select",
    "trained_as",
]
