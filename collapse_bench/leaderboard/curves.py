"""A remedy swept through its knob: what it gets at the same rate, or at the same NLL, as another.

Remedies whose knob sets the rate can only be compared so (Alemi et al. 2018): one that is set to a
higher rate is not a better one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

from collapse_bench.leaderboard.ranking import HEADLINE
from collapse_bench.leaderboard.section import Row

Floats = NDArray[np.float64]

LEAST = 3
"""Points of different rates that make a curve."""

JUMP = 4.0
"""Times the rate of a point that the next one may have for the curve to be known between them. A
knob may collapse a model at once, and a point before that and one after it are no curve."""

STEPS = 200
"""Between two points, where the curve is looked at."""

MEASURES = ("nll", "distortion", HEADLINE, "marginal_kl")


@dataclass(frozen=True)
class Curve:
    """Points of one swept entry, means over seeds, the rates rising.

    Attributes:
        entry: the swept one, as the suite names it.
        rates: nats, [P], three or more, all different.
        measures: of these points, nats, each [P]: those of MEASURES, and `gap` to the language
            model, NaN where there is none.
    """

    entry: str
    rates: Floats
    measures: Mapping[str, Floats]

    def at(self, name: str, rates: Floats | Sequence[float]) -> Floats:
        """A measure at other rates, by monotone piecewise cubics that overshoot no point (Fritsch
        and Butland 1984), each stretch by itself; NaN beyond and between the stretches.

        Args:
            name: of the measure.
            rates: nats, any shape.

        Returns:
            Nats, the same shape.
        """
        values, at = self.measures[name], np.asarray(rates, dtype=np.float64)
        result = np.full(at.shape, np.nan)
        if not np.isfinite(values).all():
            return result
        for points in self.stretches():
            x, y = self.rates[points], values[points]
            inside = (at >= x[0]) & (at <= x[-1])
            result[inside] = PchipInterpolator(x, y)(at[inside]) if len(points) > 1 else y[0]
        return result

    def stretches(self) -> list[NDArray[np.intp]]:
        """The points as runs without a jump, numbered from the lowest rate; a run may be of one."""
        jumps = np.flatnonzero(self.rates[1:] > JUMP * self.rates[:-1])
        return np.split(np.arange(len(self.rates)), jumps + 1)

    def path(self) -> Floats:
        """Rates along every stretch, the points among them, and a NaN at every jump."""
        parts: list[Floats] = []
        for points in self.stretches():
            rates = self.rates[points]
            between = np.linspace(rates[:-1], rates[1:], STEPS, endpoint=False, axis=1)
            parts += [between.ravel(), rates[-1:], np.array([np.nan])]
        return np.concatenate(parts[:-1])

    def most_useful(self, margin: float) -> float:
        """The largest headline on the points and stretches of the curve where the NLL is
        at most the language model's and a margin; NaN where it never is.

        Args:
            margin: nats.
        """
        path = self.path()
        affordable = self.at("gap", path) <= margin
        useful = self.at(HEADLINE, path[affordable])
        return float(useful.max()) if len(useful) else math.nan


def swept(rows: Sequence[Row], curves: Mapping[str, Sequence[str]]) -> dict[str, Curve | None]:
    """The curve of every swept entry, None of one with too few points.

    Args:
        rows: of one architecture.
        curves: swept entry -> the entries of its values.
    """
    by_entry = {row.entry: row for row in rows}
    return {
        name: curve_of(name, [by_entry[entry] for entry in entries if entry in by_entry])
        for name, entries in curves.items()
    }


def curve_of(entry: str, rows: Sequence[Row]) -> Curve | None:
    """The curve through the finished points of a swept entry; None if they are too few.

    Points of the same rate become their mean.

    Args:
        entry: the swept one.
        rows: of its values and of one architecture.
    """
    points = [point for row in rows if (point := _point(row)) is not None]
    if not points:
        return None
    table = np.array(points)
    rates, which = np.unique(table[:, 0], return_inverse=True)
    if len(rates) < LEAST:
        return None
    means = np.array([table[which == i].mean(axis=0) for i in range(len(rates))])
    names = (*MEASURES, "gap")
    return Curve(entry, rates, {name: means[:, i + 1] for i, name in enumerate(names)})


def of_seeds(entry: str, rows: Sequence[Row]) -> dict[int, Curve]:
    """The curve of each seed by itself, of those that have one.

    Args:
        entry, rows: as for `curve_of`.
    """
    seeds = sorted({seed for row in rows for seed in row.cells})
    curves = {
        seed: curve_of(entry, [replace(row, cells={seed: row.cells.get(seed)}) for row in rows])
        for seed in seeds
    }
    return {seed: curve for seed, curve in curves.items() if curve}


def knob_of(rows: Sequence[Row]) -> str | None:
    """The only setting in which the remedies of these rows differ, by plain name; None where that
    is not one."""
    values: dict[str, set[str]] = {}
    for row in rows:
        for name, value in _settings(row).items():
            values.setdefault(name, set()).add(str(value))
    several = [name for name, found in values.items() if len(found) > 1]
    return several[0] if len(several) == 1 else None


def by_value(rows: Sequence[Row], knob: str) -> dict[float, Row]:
    """The finished rows by their value of a setting that is a number, the least first."""
    known = {_settings(row).get(knob): row for row in rows}
    return {
        float(value): known[value]
        for value in sorted(v for v in known if isinstance(v, int | float))
    }


def _settings(row: Row) -> dict[str, Any]:
    remedies = (row.done[0].get("remedies") or []) if row.done else []
    return {name: value for remedy in remedies for name, value in remedy["settings"].items()}


def shares_training(rows: Sequence[Row]) -> bool:
    """Whether one of these is evaluated from another one's training, through a dial."""
    return any(record.get("trained_as") for row in rows for record in row.done)


def _point(row: Row) -> list[float] | None:
    """Rate, measures and gap of a row; None if a number but the gap is missing."""
    estimates = [row.metric(name) for name in ("kl", *MEASURES)]
    numbers = [e.mean for e in estimates if e is not None and math.isfinite(e.mean)]
    gap = row.gap()
    complete = len(numbers) == len(estimates)
    return [*numbers, gap.mean if gap else math.nan] if complete else None
