"""The rows of one architecture in order: by what the decoder uses, among those that pay no more
than the tolerance for it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from collapse_bench.leaderboard.section import Row, finished
from collapse_bench.leaderboard.statistics import estimate

TOLERANCE = 1.0
"""Nats by which the NLL of an entry that is given a place may exceed the language model's."""

TIE = 0.05
"""Nats of the headline that no place depends on: two models that use nothing differ by as much."""

HEADLINE = "useful_beyond"
"""The metric that orders rows and that comparisons are about."""

TOLD = "Told in advance"
NO_BOUND = "Not a bound on log p(x): shown apart, unranked"


@dataclass(frozen=True)
class Group:
    """Rows that may be compared, the best first.

    Attributes:
        title: what they have in common; the language model's is empty.
    """

    title: str
    rows: tuple[Row, ...]


def ranked(rows: Sequence[Row]) -> list[Group]:
    """The groups of one architecture that are not empty.

    First the language model; then, by the mean of the headline, the rows whose mean NLL is within
    the tolerance, with their places; then those above it; then those without a number to go by;
    last, as in the suite, those that are apart.

    Args:
        rows: of one architecture, as in the suite, which decides where two are equal.
    """
    controls = [row for row in rows if row.is_language_model]
    entries = [row for row in rows if not row.is_language_model and not row.apart]
    known = [row for row in entries if _comparable(row)]
    within = [row for row in known if _gap(row) <= TOLERANCE]
    above = [row for row in known if _gap(row) > TOLERANCE]
    others = [row for row in entries if row not in known]
    groups = [
        Group("", tuple(controls)),
        Group(
            f"NLL at most {TOLERANCE:.1f} nat above the language model",
            tuple(placed(sorted(within, key=_useful, reverse=True))),
        ),
        Group(
            f"NLL more than {TOLERANCE:.1f} nat above the language model",
            tuple(sorted(above, key=_useful, reverse=True)),
        ),
        Group(
            'no gap to the language model or no "beyond" to rank by',
            tuple(sorted(others, key=_useful, reverse=True)),
        ),
        Group(TOLD, tuple(row for row in rows if row.bound == "oracle")),
        Group(NO_BOUND, tuple(row for row in rows if row.apart and row.bound != "oracle")),
    ]
    return [group for group in groups if group.rows]


def placed(rows: Sequence[Row]) -> list[Row]:
    """The same rows with their places: tied with the first of a tie unless the 95 % interval of the
    first's headline less the row's, paired, is above 0 and its mean above `TIE`. A row of a single
    seed gets none.

    Args:
        rows: the best first.
    """
    result: list[Row] = []
    first: Row | None = None
    place = count = 0
    for row in rows:
        if len(row.done) < 2:
            result.append(row)
            continue
        count += 1
        if first is None or _behind(first, row):
            first, place = row, count
        result.append(replace(row, place=place))
    return result


def _behind(first: Row, row: Row) -> bool:
    # The seeds that both finished may be in the row's favour where the means over all are not.
    difference = estimate(first.differences(finished(row.cells), HEADLINE))
    return difference is not None and difference.above_zero and difference.mean > TIE


def _comparable(row: Row) -> bool:
    return math.isfinite(_gap(row)) and math.isfinite(_useful(row))


def _gap(row: Row) -> float:
    gap = row.gap()
    return gap.mean if gap else math.nan


def _useful(row: Row) -> float:
    useful = row.metric(HEADLINE)
    return useful.mean if useful and math.isfinite(useful.mean) else -math.inf
