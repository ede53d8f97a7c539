"""What has to be known of a value or of a row before it is believed, as marks beside it."""

import math

from collapse_bench.leaderboard.markdown import escape
from collapse_bench.leaderboard.ranking import HEADLINE
from collapse_bench.leaderboard.section import Record, Row, ceiling, metric_of
from collapse_bench.metrics.verdict import SATURATED

SETTLED = 0.1
"""Nats of NLL that the last doubling of the draws may still gain."""

GAP = "gap to LM"

RISE_WITH_THE_NLL = ("nll", "useful_rate", "useful_information", HEADLINE, GAP)
"""What is too high by as much as the NLL is, if not always for those that are a minimum."""

OWN_BUDGET, EARLY, SHARED, APART, ABSENT = "◊", "◔", "⟳", "⊘", "∅"

MARKS = {
    "§": "set or moved by construction: a remedy of this entry does so whatever the model learns,"
    " and nothing is to be concluded from the value; where I is, *beyond* and *useful* may be at"
    " what the setting puts there, and that the decoder uses it is told by U and the shuffle gaps",
    "†": f"saturated, hence too low: MI of a seed is above {100 * SATURATED:.0f} % of its ceiling"
    " ln N, or what z tells given the length above that share of ln N less the entropy of the"
    " length; so is *useful* or *beyond* where such a number is the smallest of its parts",
    "‡": "the draws ran out: the Monte-Carlo error of a seed is above what the suite asks for, and"
    " the NLL, and with it U, *useful*, *beyond* and gap to LM, is too high by an unknown amount",
    "¶": f"not settled: of a seed, the last doubling of the draws took more than {SETTLED:g} nats"
    " off the NLL, and the next one may as well; U, *useful*, *beyond* and gap to LM are too high"
    " by as much as the NLL is; the row keeps its place, which may be too good",
    OWN_BUDGET: "trained with a budget of its own, which its row tells, and not with the section's:"
    " it is ranked with the others because the suite says so, and is not to be compared with them"
    " at equal tokens",
    EARLY: "of one seed at least the weights are those of an earlier part of the training, where"
    " the bound on the validation split was best; the row tells the earliest share of the budget."
    " What the entry ends with is another matter",
    SHARED: "the model of another entry at another value of a dial: it was trained once, as that"
    " entry, and costs nothing more",
    APART: "shown apart, since a cell of it was told something in advance or its NLL is not a bound"
    " on -log p(x): without a place, in no comparison and no count, and in no picture but for an"
    " oracle of labels",
    ABSENT: "no such metric exists for this family of posteriors: the reason is under *Metrics that"
    " a family does not have*",
}


def marks(row: Row, name: str) -> str:
    """What has to be known of the value of a metric, or of the gap, as MARKS explains it.

    Args:
        row: with a finished seed.
        name: of the metric, or GAP.
    """
    rises = name in RISE_WITH_THE_NLL
    error, gain = "nll_monte_carlo_error", "nll_gain_of_doubling"
    found = {
        "§": row.holds_by_construction(name) or set_through(row, name),
        "†": any(saturated(record, name) for record in row.done),
        "‡": (rises or name == error) and exceeds(row, error, error_asked_for(row)),
        "¶": (rises or name == gain) and exceeds(row, gain, SETTLED),
    }
    text = "".join(mark for mark, holds in found.items() if holds)
    return f" {text}" if text else ""


USED = ("useful_rate", "shuffle_gap", "shuffle_gap_later")
"""Of the headline, all but what z tells."""


def set_through(row: Row, name: str) -> bool:
    """True if what a remedy sets is what makes this metric, which is a minimum or a difference."""
    if name == "information_beyond":
        return row.holds_by_construction("information_given_length")
    if name == "useful_information":
        told = row.holds_by_construction("mutual_information")
        return told and any(smallest(r, "mutual_information", "useful_rate") for r in row.done)
    if name == HEADLINE:
        told = set_through(row, "information_beyond")
        return told and any(smallest(r, "information_beyond", *USED) for r in row.done)
    return False


def named(row: Row) -> str:
    """The name of a row with the marks that hold of all its values."""
    found = {
        OWN_BUDGET: bool(row.own_budgets),
        EARLY: row.scored_at is not None,
        SHARED: any(record.get("trained_as") for record in row.done),
        APART: row.apart,
    }
    text = "".join(mark for mark, holds in found.items() if holds)
    return f"{escape(row.entry)} {text}" if text else escape(row.entry)


def exceeds(row: Row, name: str, limit: float) -> bool:
    """True if a metric of any finished seed is above a limit."""
    return any(value is not None and value > limit for value in row.values(name))


def saturated(record: Record, name: str) -> bool:
    """True if a saturated estimate of what z tells is this metric, or is what makes it."""
    top = ceiling(record)
    told = metric_of(record, "mutual_information")
    given = metric_of(record, "information_given_length")
    entropy = metric_of(record, "length_entropy")
    whole = told is not None and told > SATURATED * top
    within = whole
    if told is not None and given is not None and entropy is not None:
        # Both bounds on what z tells given the length end at ln N - H(length).
        most = given if name == "information_given_length" else max(given, told - entropy)
        within = most >= SATURATED * (top - entropy) - 1e-9
    return {
        "mutual_information": whole,
        "useful_information": whole and smallest(record, "mutual_information", "useful_rate"),
        "information_given_length": within,
        "information_beyond": within,
        HEADLINE: within and smallest(record, "information_beyond", *USED),
    }.get(name, False)


def smallest(record: Record, name: str, *others: str) -> bool:
    """True if a metric is known, and below all the others that are."""
    value, *rest = (metric_of(record, each) for each in (name, *others))
    return value is not None and all(other is None or value < other for other in rest)


def may_be_too_high(row: Row) -> bool:
    """True if the headline of a row carries a mark that says so."""
    return bool(row.done) and any(mark in marks(row, HEADLINE) for mark in "‡¶")


def error_asked_for(row: Row) -> float:
    """Monte-Carlo error that ends the draws of a sentence; infinite where the suite sets none."""
    settings = (row.done[0].get("settings") or {}).get("evaluation") or {}
    return float(settings.get("standard_error") or math.inf)
