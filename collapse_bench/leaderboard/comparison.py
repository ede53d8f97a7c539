"""Rows and curves -> tables of differences: to the plain VAE, over tasks, at the same rate."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from collapse_bench.leaderboard.curves import (
    LEAST,
    Curve,
    by_value,
    knob_of,
    of_seeds,
    shares_training,
)
from collapse_bench.leaderboard.markdown import NONE, escape, markdown, number, shown
from collapse_bench.leaderboard.ranking import HEADLINE, TOLERANCE
from collapse_bench.leaderboard.section import Row, finished, plain_vae
from collapse_bench.leaderboard.statistics import (
    Estimate,
    estimate,
    holm,
    interquartile_interval,
    interquartile_mean,
    probability_of_improvement,
    sign_flip_p,
)

RATES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Nats at which swept remedies are compared, fixed beforehand."""

MARGINS = (0.0, 0.5, 1.0, 2.0)
"""Nats above the language model's NLL at which they are, fixed beforehand."""

SIGNIFICANT = 0.05

OF_THE_PRIOR = (
    "Curves through the same R and D need not be of the same kind of z. The last panel of the"
    " picture has R - I, what of the rate is mismatch with the prior: where it is small, draws from"
    " the prior are such as the decoder was trained on; where it is R, z tells nothing."
)


def against_plain_vae(rows: Sequence[Row]) -> list[str]:
    """Paired differences to the plain VAE in the headline and in NLL, and what may be
    concluded from them; empty where there is no plain VAE or nothing beside it.

    Args:
        rows: of one architecture, as they are to be shown.
    """
    plain = plain_vae(rows)
    others = [row for row in rows if not row.is_language_model and row.done]
    if plain is None:
        return []
    control = finished(plain.cells)
    others = [r for r in others if r.entry != plain.entry and control.keys() & finished(r.cells)]
    if not others:
        return []
    pairs = [len(row.differences(control, HEADLINE)) for row in others]
    lines = zip(
        *([escape(row.entry) for row in others], map(str, pairs)),
        *_tested([row.differences(control, HEADLINE) for row in others]),
        *_tested([row.differences(control, "nll") for row in others]),
        strict=True,
    )
    titles = ["entry", "seeds", "beyond", "p", "Holm", "NLL", "p", "Holm"]
    return [
        *markdown(titles, [list(line) for line in lines], numeric=1),
        "",
        f"Differences to {escape(plain.entry)}, seed by seed; {smallest(max(pairs), len(others))}",
    ]


def smallest(seeds: int, entries: int) -> str:
    """What sign-flip tests of so many seeds can show at best, alone and after Holm's correction."""
    least = 2.0 ** (1 - seeds)
    adjusted = min(1.0, entries * least)
    told = (
        f"n = {seeds} at most, so no p is below 2^(1-n) = {least:.3g}, which after Holm's"
        f" correction for m = {entries} is {adjusted:.3g}"
    )
    if least > SIGNIFICANT:
        return f"{told}: **too few seeds for any difference to be significant**."
    if adjusted > SIGNIFICANT:
        return f"{told}: **too few seeds for a difference to stay significant among so many**."
    return f"{told}."


def _tested(differences: Sequence[Sequence[float | None]]) -> tuple[list[str], ...]:
    """The texts of the estimates, of their p, and of these adjusted for each other."""
    known: dict[int, float] = {}
    for place, values in enumerate(differences):
        numbers = [value for value in values if value is not None and math.isfinite(value)]
        if numbers and len(numbers) == len(values):
            known[place] = sign_flip_p(numbers)
    adjusted = dict(zip(known, holm(list(known.values())), strict=True))
    places = range(len(differences))
    return (
        [shown(estimate(values), sign="+") for values in differences],
        [number(known.get(place), 3) for place in places],
        [number(adjusted.get(place), 3) for place in places],
    )


def over_tasks(tasks: Sequence[Sequence[Row]]) -> list[str]:
    """Interquartile mean of the headline over all tasks and probability of improvement over
    the plain VAE; empty unless there are several tasks and an entry with a result in each.

    Args:
        tasks: the rows of each corpus, budget and architecture.
    """
    found = [{row.entry: _finite(row) for row in r if not row.is_language_model} for r in tasks]
    shared = [e for e in found[0] if all(values.get(e) for values in found)] if found else []
    if len(tasks) < 2 or not shared:
        return []
    scores = {entry: [values[entry] for values in found] for entry in shared}
    plain = plain_vae(tasks[0])
    control = scores.get(plain.entry) if plain else None
    gaps = {entry: _largest_gap(entry, tasks) for entry in shared}
    lines = []
    # As in the tables: what pays more than the tolerance anywhere comes after what does not.
    order = {e: (not gaps[e] <= TOLERANCE, -interquartile_mean(scores[e])) for e in shared}
    for entry in sorted(shared, key=order.__getitem__):
        mean, interval = interquartile_mean(scores[entry]), interquartile_interval(scores[entry])
        ends = f" [{number(interval[0])}, {number(interval[1])}]" if interval else ""
        chance = None
        if control and scores[entry] is not control:
            chance = probability_of_improvement(list(zip(scores[entry], control, strict=True)))
        seeds = " + ".join(str(len(values)) for values in scores[entry])
        gap = NONE if math.isnan(gaps[entry]) else number(gaps[entry], sign="+")
        lines.append([escape(entry), f"{number(mean)}{ends}", number(chance), gap, seeds])
    titles = [
        *("entry", "beyond, IQM", "P(above the plain VAE)"),
        *("largest gap to LM", "finished seeds"),
    ]
    return markdown(titles, lines, numeric=1)


def _largest_gap(entry: str, tasks: Sequence[Sequence[Row]]) -> float:
    """The largest mean gap to the language model of any task; NaN where one has none."""
    gaps = [row.gap() for rows in tasks for row in rows if row.entry == entry]
    return float(np.max([gap.mean if gap else math.nan for gap in gaps]))


def _finite(row: Row) -> list[float]:
    """The headline of every finished seed; empty if one has none."""
    known = [v for v in row.values(HEADLINE) if v is not None and math.isfinite(v)]
    return known if len(known) == len(row.done) else []


def matched(curves: Mapping[str, Curve | None]) -> list[str]:
    """What swept remedies get at the same rate and at the same NLL; empty where none is swept.

    Args:
        curves: of one architecture.
    """
    known = {name: curve for name, curve in curves.items() if curve}
    lines: list[str] = []
    if known:
        measures = {"NLL": "nll", "D": "distortion", "beyond": HEADLINE}
        at_rates = [
            [escape(name), title, *map(_or_none, curve.at(measure, RATES))]
            for name, curve in known.items()
            for title, measure in measures.items()
        ]
        at_margins = [
            [escape(name), *(_or_none(curve.most_useful(margin)) for margin in MARGINS)]
            for name, curve in known.items()
        ]
        rates = [f"R = {rate:g}" for rate in RATES]
        margins = [f"NLL ≤ LM + {margin:g}" for margin in MARGINS]
        lines += [
            *markdown(["entry", "at the same rate", *rates], at_rates, numeric=2),
            "",
            *markdown(["entry, most beyond at", *margins], at_margins, numeric=1),
            "",
            OF_THE_PRIOR,
        ]
    if few := [escape(name) for name, curve in curves.items() if not curve]:
        told = f"No curve of {', '.join(few)}: fewer than {LEAST} finished points of different R."
        lines += ["", told] if lines else [told]
    return lines


def one_for_all(rows: Sequence[Row], curves: Mapping[str, Sequence[str]]) -> list[str]:
    """What one training for all values of a knob has less what a training for each has, at the same
    value and at the same rate; empty where no entry shares a training or nothing else sweeps a knob
    of that name.

    Args:
        rows: of one architecture.
        curves: swept entry -> the entries of its values.
    """
    by_entry = {row.entry: row for row in rows}
    members = {
        name: [by_entry[entry] for entry in entries if entry in by_entry]
        for name, entries in curves.items()
    }
    lines: list[str] = []
    for one, ours in members.items():
        for each, theirs in members.items():
            knob = knob_of(ours)
            if shares_training(ours) and not shares_training(theirs) and knob == knob_of(theirs):
                for table in (_at_values(ours, theirs, knob or ""), _at_rates(ours, theirs)):
                    if table:
                        lines += [f"{escape(one)} less {escape(each)}:", "", *table, ""]
    told = "Seed by seed. Rates lie between points of each curve. Of one seed no interval is known."
    return [*lines, told] if lines else []


def _at_values(ours: Sequence[Row], theirs: Sequence[Row], knob: str) -> list[str]:
    one, each = by_value(ours, knob), by_value(theirs, knob)
    values = [value for value in one if value in each]
    if not values:
        return []
    measures = {"R": "kl", "NLL": "nll", "beyond": HEADLINE}
    lines = [
        [title]
        + [
            shown(estimate(one[v].differences(finished(each[v].cells), name)), sign="+")
            for v in values
        ]
        for title, name in measures.items()
    ]
    titles = ["at the same value", *(f"{escape(knob)} = {value:g}" for value in values)]
    return markdown(titles, lines, numeric=1)


def _at_rates(ours: Sequence[Row], theirs: Sequence[Row]) -> list[str]:
    one, each = of_seeds("", ours), of_seeds("", theirs)
    seeds = sorted(one.keys() & each.keys())
    lines = []
    for title, measure in {"NLL": "nll", "beyond": HEADLINE}.items():
        off = [one[seed].at(measure, RATES) - each[seed].at(measure, RATES) for seed in seeds]
        lines.append(
            [title, *(shown(_of_all(found), sign="+") for found in zip(*off, strict=True))]
        )
    if all(text == NONE for line in lines for text in line[1:]):
        return []
    return markdown(["at the same rate", *(f"R = {rate:g}" for rate in RATES)], lines, numeric=1)


def _of_all(values: Sequence[float]) -> Estimate | None:
    """The mean over seeds; None where a curve of any seed does not reach."""
    return estimate([None if math.isnan(value) else float(value) for value in values])


def _or_none(value: float) -> str:
    return NONE if math.isnan(value) else number(value)
