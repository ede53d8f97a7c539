"""Sections -> the rate-distortion picture: where each entry pays, and what it gets for it."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from collapse_bench.leaderboard.section import Row, Section, number_of
from collapse_bench.leaderboard.statistics import estimate
from collapse_bench.leaderboard.table import clean

# Okabe and Ito 2008, without black, which is the language model's. Seven colours and eight
# markers have no common divisor, so 56 entries look different, in grey as well for the first eight.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#F0E442")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")

Limits = tuple[float, float, float, float]  # left, right, bottom, top


def draw(sections: Sequence[Section], path: Path) -> None:
    """Write the picture as PNG: a row of panels for each section, a panel for each architecture."""
    entries = dict.fromkeys(r.entry for s in sections for r in s.rows if points(r))
    styles = {
        entry: (COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)])
        for i, entry in enumerate(entries)
    }
    columns = max(len(section.architectures) for section in sections)
    # A user's matplotlibrc must not change a page that is a function of the records.
    with matplotlib.rc_context(matplotlib.rcParamsDefault):
        figure = Figure((5.2 * columns, 4.4 * len(sections) + 1.0), 120, layout="constrained")
        panels = figure.subplots(len(sections), columns, squeeze=False)
        for axes in panels.flat:
            axes.set_axis_off()
        for section, line in zip(sections, panels, strict=True):
            limits = limits_of(section.rows)
            for architecture, axes in zip(section.architectures, line, strict=False):
                axes.set_axis_on()
                panel(axes, section.rows_of(architecture), limits, styles)
                axes.set_title(
                    label(f"{architecture}: {section.corpus}, {section.budget:,} tokens"),
                    fontsize=10,
                )
        handles = [
            Line2D([], [], color=c, marker=m, ls="", mec="black", mew=0.6, ms=8, label=label(entry))
            for entry, (c, m) in styles.items()
        ]
        handles += [
            Line2D([], [], color="black", ls="--", label="R + D = NLL of the language model"),
            Line2D([], [], color="0.8", label="R + D = number on the line (negative ELBO)"),
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=2 * columns, fontsize=8)
        figure.savefig(path, metadata={"Software": None})


def panel(
    axes: Axes, rows: Sequence[Row], limits: Limits, styles: dict[str, tuple[str, str]]
) -> None:
    """Draw one architecture."""
    left, right, bottom, top = limits
    axes.set(xlim=(left, right), ylim=(bottom, top))
    axes.set(xlabel="rate R (nats/sentence)", ylabel="distortion D (nats/sentence)")
    isolines(axes, limits)
    if (reference := language_model_nll(rows)) is not None:
        axes.axline((0, reference), slope=-1, color="black", ls="--", lw=1.2, zorder=1)
    for row in rows:
        if not (seeds := points(row)):
            continue
        colour, marker = styles[row.entry]
        rates, distortions = zip(*seeds, strict=True)
        if len(seeds) > 1:
            axes.plot(rates, distortions, marker, color=colour, alpha=0.4, ms=4, mew=0)
        mean = sum(rates) / len(seeds), sum(distortions) / len(seeds)
        axes.plot(*mean, marker, color=colour, mec="black", mew=0.6, ms=9, alpha=0.9)


def isolines(axes: Axes, limits: Limits) -> None:
    """Draw lines of equal negative ELBO, named in the margins that `limits_of` keeps free."""
    left, right, bottom, top = limits
    foot, side = bottom + 0.03 * (top - bottom), right - 0.05 * (right - left)
    locator = MaxNLocator(16, steps=[1, 2, 5, 10])
    for level in locator.tick_values(left + bottom, right + top):
        axes.axline((0, level), slope=-1, color="0.85", lw=0.8, zorder=0)
        rate = min(level - foot, side)
        if rate > left + 0.03 * (right - left) and level - rate < top:
            name = axes.text(rate, level - rate, f"{level:g}", fontsize=7, color="0.4")
            name.set(ha="center", va="center", bbox={"fc": "white", "ec": "none", "pad": 0.8})


def points(row: Row) -> list[tuple[float, float]]:
    """(R, D) of each finished seed of an entry with a latent, as far as they are finite."""
    pairs = [
        (number_of(record, "metrics", "kl"), number_of(record, "metrics", "distortion"))
        for record in ([] if row.is_language_model else row.done)
    ]
    return [(r, d) for r, d in pairs if r is not None and d is not None and abs(r + d) < 1e30]


def language_model_nll(rows: Sequence[Row]) -> float | None:
    """Mean NLL of the language model over its seeds."""
    control = rows[0].language_model if rows else {}
    mean = estimate([number_of(record, "metrics", "nll") for record in control.values()])
    return mean.mean if mean and abs(mean.mean) < 1e30 else None


def limits_of(rows: Sequence[Row]) -> Limits:
    """Limits that hold every point and the foot of the reference line, the same for all panels."""
    seeds = list(chain.from_iterable(points(row) for row in rows))
    references = [nll for row in rows if (nll := language_model_nll([row])) is not None]
    rates = [0.0, 1.0, *(rate for rate, _ in seeds)]
    distortions = [*(distortion for _, distortion in seeds), *references] or [0.0, 1.0]
    width = max(rates) - min(rates)
    height = max(max(distortions) - min(distortions), 1.0)
    return (
        min(rates) - 0.05 * width,
        max(rates) + 0.14 * width,
        min(distortions) - 0.14 * height,
        max(distortions) + 0.1 * height,
    )


def label(text: str) -> str:
    """Text of a record for matplotlib, which reads dollar signs as mathematics."""
    return clean(text).replace("$", r"\$") or "?"
