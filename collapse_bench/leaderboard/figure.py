"""Sections -> the picture: where each entry pays, and what its decoder gets for it."""

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from collapse_bench.leaderboard.captions import name_points
from collapse_bench.leaderboard.curves import Curve, swept
from collapse_bench.leaderboard.markdown import clean
from collapse_bench.leaderboard.ranking import HEADLINE, TOLERANCE
from collapse_bench.leaderboard.section import Row, Section, metric_of

# Okabe and Ito 2008, without black, which is what entries are held against. Seven colours and eight
# markers have no common divisor, so 56 entries look different, in grey as well for the first eight.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#F0E442")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
ORACLE = ("black", "*")
"""The style of a latent that was told the labels: how far there is to go."""

LINEAR = 1.0
"""Nats around 0 in which an axis of rates or gaps is linear; beyond it is logarithmic, so that one
rate of 150 nats does not hide all others."""

NAMED = 0.25
"""Nats of use from which on an entry is named beside its point."""

TICKS = (0.0, *(0.5 * 2.0**power for power in range(14)))

HUGE = 1e30
"""What no axis can show."""

Limits = tuple[float, float, float, float]  # left, right, bottom, top
Points = list[tuple[float, float]]
Style = tuple[str, str]  # colour, marker


def draw(sections: Sequence[Section], curves: Mapping[str, Sequence[str]], path: Path) -> None:
    """Write the picture as PNG: for each section a row of panels of distortion against rate and one
    of the headline against the gap to the language model, and where a knob is swept one of how far
    the prior is from the aggregate posterior, a panel for each architecture. What is shown apart is
    not in it, but for an oracle that has a latent.

    Args:
        sections: of the page.
        curves: swept entry -> the entries of its values, which share a style.
        path: of the file.
    """
    family = {entry: name for name, entries in curves.items() for entry in entries}
    shown = [[row for row in section.rows if not row.apart] for section in sections]
    rows = [row for members in shown for row in members]
    names = dict.fromkeys(family.get(r.entry, r.entry) for r in rows if rate_distortion(r))
    styles = {
        name: (COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i, name in enumerate(names)
    }
    of_entry = {row.entry: styles.get(family.get(row.entry, row.entry)) for row in rows}
    oracles = [[row for row in section.rows if is_oracle(row)] for section in sections]
    of_entry |= {row.entry: ORACLE for told in oracles for row in told}
    columns = max(len(section.architectures) for section in sections)
    # A user's matplotlibrc must not change a page that is a function of the records.
    with matplotlib.rc_context(matplotlib.rcParamsDefault):
        kinds = 3 if curves else 2
        listed = len(styles) + len(dict.fromkeys(row.entry for told in oracles for row in told)) + 3
        across = 3 if columns == 1 else 2 * columns
        size = (
            7.6 if columns == 1 else 5.2 * columns,
            3.6 * kinds * len(sections) + 0.18 * math.ceil(listed / across) + 0.4,
        )
        figure = Figure(size, 120, layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(kinds * len(sections), columns, squeeze=False)
        for axes in panels.flat:
            axes.set_axis_off()
        # Of each section the panels of one kind; where there are two the last is not looked at.
        above_all, below_all, last_all = (panels[kind::kinds] for kind in (0, 1, kinds - 1))
        places = zip(sections, shown, oracles, above_all, below_all, last_all, strict=True)
        for section, compared, told, above, below, last in places:
            first = limits_of([*compared, *told])
            second = limits_of_use([*compared, *told])
            third = limits_of_prior([*compared, *told])
            for place, architecture in enumerate(section.architectures):
                members = section.compared(architecture)
                known = [curve for curve in swept(members, curves).values() if curve]
                members = [*members, *(row for row in told if row.architecture == architecture)]
                rate_panel(above[place], members, known, first, of_entry, styles)
                use_panel(below[place], members, known, second, of_entry, styles)
                if curves:
                    prior_panel(last[place], members, known, third, of_entry, styles)
                above[place].set_title(label(f"{architecture}: {section.title}"), fontsize=10)
        handles = [
            Line2D([], [], color=c, marker=m, ls="", mec="black", mew=0.6, ms=8, label=label(name))
            for name, (c, m) in styles.items()
        ]
        handles += [
            Line2D([], [], color=c, marker=m, ls="-.", ms=10, label=f"{label(name)}, and its use")
            for name in dict.fromkeys(row.entry for told in oracles for row in told)
            for c, m in [ORACLE]
        ]
        handles += [
            Line2D([], [], color="black", ls="--", label="R + D = NLL of the language model"),
            Line2D([], [], color="0.8", label="R + D is the same: D where R = 0"),
            Line2D([], [], color="black", ls=":", label=f"gap to LM = {TOLERANCE:g} nat"),
        ]
        if curves:
            handles.append(Line2D([], [], color="0.5", lw=1.2, label="R - I = R: z tells nothing"))
        figure.legend(handles=handles, loc="outside lower center", ncols=across, fontsize=8)
        figure.draw_without_rendering()  # names are placed where the layout has put their points
        for section, compared, told, below in zip(sections, shown, oracles, below_all, strict=True):
            for place, architecture in enumerate(section.architectures):
                members = [r for r in [*compared, *told] if r.architecture == architecture]
                name_used(below[place], members)
        figure.savefig(path, format="png", metadata={"Software": None})


def rate_panel(
    axes: Axes,
    rows: Sequence[Row],
    curves: Sequence[Curve],
    limits: Limits,
    of_entry: Mapping[str, Style | None],
    styles: Mapping[str, Style],
) -> None:
    """Draw distortion against rate of one architecture."""
    left, right, bottom, top = limits
    axes.set_axis_on()
    axes.set(
        xlabel="rate R (nats/sentence; logarithmic beyond 1)", ylabel="distortion D (nats/sentence)"
    )
    stretch(axes, left, right)
    axes.set_ylim(bottom, top)
    rates = np.concatenate([np.linspace(left, LINEAR, 100), np.geomspace(LINEAR, right, 200)])
    for level in axes.get_yticks():
        axes.plot(rates, level - rates, color="0.85", lw=0.8, zorder=0)
    if (reference := language_model_nll(rows)) is not None:
        axes.plot(rates, reference - rates, color="black", ls="--", lw=1.2, zorder=1)
    for curve in curves:
        if curve.entry in styles:
            path = curve.path()
            colour = styles[curve.entry][0]
            axes.plot(path, curve.at("distortion", path), color=colour, lw=1.2, zorder=1)
    for row in rows:
        scatter(axes, rate_distortion(row), of_entry[row.entry])


def use_panel(
    axes: Axes,
    rows: Sequence[Row],
    curves: Sequence[Curve],
    limits: Limits,
    of_entry: Mapping[str, Style | None],
    styles: Mapping[str, Style],
) -> None:
    """Draw the headline against the gap to the language model of one architecture."""
    left, right, bottom, top = limits
    axes.set_axis_on()
    axes.set(
        xlabel="gap to LM (nats/sentence; logarithmic beyond 1)",
        ylabel="used, beyond length\nand first words (nats/sentence)",
    )
    stretch(axes, left, right)
    axes.set_ylim(bottom, top)
    axes.axvline(0, color="0.85", lw=0.8, zorder=0)
    axes.axvline(TOLERANCE, color="black", ls=":", lw=1.2, zorder=1)
    for curve in curves:
        if curve.entry in styles:
            path = curve.path()
            gap, useful = curve.at("gap", path), curve.at(HEADLINE, path)
            axes.plot(gap, useful, color=styles[curve.entry][0], lw=1.2, zorder=1)
    for row in rows:
        seeds = gap_useful(row)
        scatter(axes, seeds, of_entry[row.entry])
        if is_oracle(row) and seeds:
            mean = sum(useful for _, useful in seeds) / len(seeds)
            axes.axhline(mean, color="black", ls="-.", lw=1.2, zorder=1)


def prior_panel(
    axes: Axes,
    rows: Sequence[Row],
    curves: Sequence[Curve],
    limits: Limits,
    of_entry: Mapping[str, Style | None],
    styles: Mapping[str, Style],
) -> None:
    """Draw the KL of the aggregate posterior from the prior against the rate, of one architecture:
    the lower, the better draws of the prior stand for what the decoder was trained on."""
    left, right, bottom, top = limits
    axes.set_axis_on()
    axes.set(
        xlabel="rate R (nats/sentence; logarithmic beyond 1)",
        ylabel="KL of aggregate posterior from\nprior, R - I (nats/sentence)",
    )
    stretch(axes, left, right)
    stretch(axes, bottom, top, axis="y")
    rates = np.concatenate([np.linspace(0, LINEAR, 100), np.geomspace(LINEAR, right, 200)])
    axes.plot(rates, rates, color="0.5", lw=1.2, zorder=0)
    for curve in curves:
        if curve.entry in styles:
            path = curve.path()
            colour = styles[curve.entry][0]
            axes.plot(path, curve.at("marginal_kl", path), color=colour, lw=1.2, zorder=1)
    for row in rows:
        scatter(axes, rate_mismatch(row), of_entry[row.entry])


def name_used(axes: Axes, rows: Sequence[Row]) -> None:
    """Name the entries that use z for `NAMED` and more, the first the one that uses most."""
    points = {row.entry: mean_of(seeds) for row in rows if (seeds := gap_useful(row))}
    used = sorted((point[1], entry) for entry, point in points.items() if point[1] >= NAMED)
    named = {label(entry): points[entry] for _, entry in reversed(used)}
    name_points(axes, named, points.values())


def mean_of(seeds: Points) -> tuple[float, float]:
    """The middle of some points."""
    x, y = zip(*seeds, strict=True)
    return sum(x) / len(seeds), sum(y) / len(seeds)


def scatter(axes: Axes, seeds: Points, style: Style | None) -> None:
    """Draw the seeds of a row, and their mean above them."""
    if not seeds or style is None:
        return
    colour, marker = style
    x, y = zip(*seeds, strict=True)
    if len(seeds) > 1:
        axes.plot(x, y, marker, color=colour, alpha=0.4, ms=4, mew=0)
    axes.plot(*mean_of(seeds), marker, color=colour, mec="black", mew=0.6, ms=9, alpha=0.9)


def stretch(axes: Axes, low: float, high: float, axis: Literal["x", "y"] = "x") -> None:
    """Make an axis linear around 0 and logarithmic beyond, with plain numbers."""
    scale, limits = (
        (axes.set_xscale, axes.set_xlim) if axis == "x" else (axes.set_yscale, axes.set_ylim)
    )
    scale("symlog", linthresh=LINEAR, linscale=1.0)
    ticks = sorted(tick for tick in {*TICKS, *(-t for t in TICKS[1:])} if low <= tick <= high)
    each = axes.xaxis if axis == "x" else axes.yaxis
    each.set_ticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    limits(low, high)


def rate_distortion(row: Row) -> Points:
    """(R, D) of each finished seed of an entry with a latent, as far as they can be drawn."""
    return drawable(row.values("kl"), row.values("distortion"), row)


def rate_mismatch(row: Row) -> Points:
    """(R, R - I) of each finished seed of an entry with a latent, as far as they can be drawn."""
    return drawable(row.values("kl"), row.values("marginal_kl"), row)


def gap_useful(row: Row) -> Points:
    """(gap to the language model, headline) of each seed that both finished."""
    gaps = row.differences(row.language_model, "nll")
    useful = [
        metric_of(record, HEADLINE) for record in row.done if record["seed"] in row.language_model
    ]
    return drawable(gaps, useful, row)


def drawable(x: Sequence[float | None], y: Sequence[float | None], row: Row) -> Points:
    """The pairs of which both are numbers that an axis can show; none of the language model."""
    pairs = [] if row.is_language_model else list(zip(x, y, strict=True))
    return [(a, b) for a, b in pairs if a is not None and b is not None and abs(a) + abs(b) < HUGE]


def is_oracle(row: Row) -> bool:
    """Whether its latent was told the labels."""
    return row.bound == "oracle" and row.has_latent


def language_model_nll(rows: Sequence[Row]) -> float | None:
    """Mean NLL of the language model over its seeds."""
    control = rows[0].language_model.values() if rows else []
    known = [nll for record in control if (nll := metric_of(record, "nll")) is not None]
    mean = sum(known) / len(known) if known else math.nan
    return mean if abs(mean) < HUGE else None


def limits_of(rows: Sequence[Row]) -> Limits:
    """Limits that hold every rate and distortion and the foot of the reference line."""
    seeds = list(chain.from_iterable(rate_distortion(row) for row in rows))
    references = [nll for row in rows if (nll := language_model_nll([row])) is not None]
    return limits([r for r, _ in seeds], [*(d for _, d in seeds), *references] or [0.0, 1.0])


def limits_of_use(rows: Sequence[Row]) -> Limits:
    """Limits that hold every gap and headline, 0 of both, and the tolerance."""
    seeds = list(chain.from_iterable(gap_useful(row) for row in rows))
    return limits([TOLERANCE, *(gap for gap, _ in seeds)], [0.0, *(useful for _, useful in seeds)])


def limits_of_prior(rows: Sequence[Row]) -> Limits:
    """Limits that hold every rate and every mismatch with the prior, and 0 of both."""
    seeds = list(chain.from_iterable(rate_mismatch(row) for row in rows))
    left, right, _, _ = limits([r for r, _ in seeds], [0.0])
    low, high, _, _ = limits([mismatch for _, mismatch in seeds], [0.0])
    return left, right, low, high


def limits(x: Sequence[float], y: Sequence[float]) -> Limits:
    """Limits with a margin on every side, the horizontal ones around 0 and 1."""
    height = max(max(y) - min(y), 1.0)
    left, right = min([0.0, *x]), max([1.0, *x])
    return (
        1.3 * left - 0.15,
        1.5 * right,
        min(y) - 0.08 * height,
        max(y) + 0.08 * height,
    )


def label(text: str) -> str:
    """Text of a record for matplotlib, which reads dollar signs as mathematics."""
    return clean(text).replace("$", r"\$") or "?"
