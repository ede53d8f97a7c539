"""How time and memory grow with every size of the bench; run by `make growth`.

Each point is a process of its own, since the peak of a process never falls. On Linux a process
begins with the peak of the one that started it, so nothing large is imported here before the last
point has been measured. The text is random ids: vocabulary and length are exactly those named.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from growth_point import BATCH, EMBEDDING, Point
from ratios import table

POINT_SCRIPT = Path(__file__).with_name("growth_point.py")

SIZES = {
    "vocabulary": (1_000, 10_000, 30_000, 100_000),
    "length": (8, 22, 64, 256),
    "latent": (8, 32, 128, 512),
    "sentences": (500, 1_000, 2_000, 4_000, 8_000),
    "cells": (1, 2, 4, 8),
}
QUICK = {
    "vocabulary": (500, 1_000, 2_000),
    "length": (4, 8, 16),
    "latent": (4, 8, 16),
    "sentences": (256, 512, 1_024),
    "cells": (1, 2),
}
CORNER = {"vocabulary": (10_000, 100_000), "length": 256}
QUICK_CORNER = {"vocabulary": (1_000, 2_000), "length": 16}

LINEAR, SQUARE = 1.1, 2.1
"""Largest exponents of what grows linearly and with the square; a tenth is for noise."""
LEAST_MIB = 1.0
"""Two processes that do the same differ by almost as much: less counts as this in an exponent."""
CORNER_LIMIT = 2.0


@dataclass(frozen=True)
class Series:
    """Points that differ in one size, and what their growth may be.

    Attributes:
        axis: a field of `Point` and key of `SIZES`.
        symbol, unit: of that size.
        name: what is measured, once for each value of time.
        point: everything else.
        time, memory: largest exponents.
        note: what a reader has to know about the exponents.
    """

    axis: str
    symbol: str
    unit: str
    name: str
    point: Point
    time: float = LINEAR
    memory: float = LINEAR
    note: str = ""


AGAIN = (
    "A batch with more probabilities than the readout holds at once is done in parts, and they are "
    "computed again in the backward pass: a fourth product beside three, and a sum over the parts."
)
SERIES = (
    Series("vocabulary", "V", "words", "LSTM training step", Point("step"), note=AGAIN),
    Series("length", "T", "tokens", "LSTM training step", Point("step"), note=AGAIN),
    Series(
        "length", "T", "tokens", "Transformer training step", Point("step", "transformer"),
        SQUARE, SQUARE,
        "Attention has T^2 weights a head and sentence, all kept for the backward pass: time and "
        "memory may grow as T^2.",
    ),
    Series("latent", "D", "dimensions", "LSTM training step", Point("step")),
    Series(
        "sentences", "N", "sentences", "mutual information", Point("information"), time=SQUARE,
        note="All N^2 pairs are compared, some rows at a time, so only the time is a square.",
    ),
    Series(
        "sentences", "N", "sentences", "active units", Point("units"),
        note="From about 1 MiB on, the allocator takes fresh pages at every call: a step in time.",
    ),
    Series(
        "cells", "n", "cells", "whole run, parent process", Point("cells"),
        note="Two cells run at a time; a cell that is alone has both cores.",
    ),
)  # fmt: skip


# All points


@dataclass(frozen=True)
class Curve:
    """A series that has been measured: sizes, what each process told, seconds and MiB."""

    series: Series
    x: list[int]
    results: list[dict[str, Any]]

    @property
    def seconds(self) -> list[float]:
        """Median seconds."""
        return [result["seconds"] for result in self.results]

    @property
    def memory(self) -> list[float]:
        """Peak beyond the imports, at least `LEAST_MIB`."""
        return [max(LEAST_MIB, result["beyond"]) for result in self.results]

    def exponents(self, last: int = 0) -> tuple[float, float]:
        """Slopes of log time and log memory over log size, by least squares.

        Args:
            last: how many of the largest sizes to take, 0 for all.
        """
        x = [math.log(value) for value in self.x[-last:]]
        time_slope, memory_slope = (
            statistics.linear_regression(x, [math.log(value) for value in values[-last:]]).slope
            for values in (self.seconds, self.memory)
        )
        return time_slope, memory_slope

    @property
    def met(self) -> bool:
        """Whether neither grows faster than it may, over all sizes."""
        of_time, of_memory = self.exponents()
        return of_time <= self.series.time and of_memory <= self.series.memory


def curve_of(series: Series, quick: bool) -> Curve:
    """Measure a series."""
    x = (QUICK if quick else SIZES)[series.axis]
    points = [replace(series.point, **{series.axis: value}) for value in x]
    return Curve(series, list(x), [in_a_process(point, quick) for point in points])


@cache
def in_a_process(point: Point, quick: bool) -> dict[str, Any]:
    """`growth_point.measure` in a fresh process, once for a point that belongs to two series.

    Raises:
        subprocess.CalledProcessError: it has failed; its traceback has been shown.
    """
    # As the runner sets it for its workers.
    environment = os.environ | {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64"}
    command = [sys.executable, POINT_SCRIPT, json.dumps(asdict(point))]
    command += ["--quick"] * quick
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    result = json.loads(done.stdout)
    named = [f"{k}={v}" for k, v in asdict(point).items() if v != getattr(Point, k, None)]
    figures = f"{duration(result['seconds'])}, {result['peak']:,.0f} MiB"
    print(f"{', '.join(named)}: {figures}", file=sys.stderr)
    return result


# The page


INTRODUCTION = f"""\
Time is the median of warm repetitions, memory the peak of a fresh process. Training steps have
{BATCH} sentences of T tokens, embedding and hidden {EMBEDDING}, and unless they vary
V = {Point.vocabulary:,}, T = {Point.length}, D = {Point.latent}, as posteriors have. An
exponent is the slope of the logarithm of time, or of memory beyond that of the imports, over the
logarithm of the size: 1 is linear. The one over all points is held against the limit; beside it
stands that over the last two, where fixed costs weigh least but a step weighs most. Memory below
{LEAST_MIB:g} MiB counts as
{LEAST_MIB:g}. `make growth` writes this page."""


def page(curves: Sequence[Curve], corner: str) -> str:
    """What grows how, then every point, as markdown."""
    parts = [
        "# Growth", machine_line(curves[0].results[0]), INTRODUCTION, "![growth](growth.png)",
        summary(curves), corner, *map(section, curves),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def machine_line(facts: dict[str, Any]) -> str:
    """What the figures depend on."""
    from cpuinfo import get_cpu_info

    processor = get_cpu_info().get("brand_raw", "unknown processor")
    return (
        f"{processor}, {facts['threads']} threads, torch {facts['torch']}, products in "
        f"{facts['precision']}. The imports of a step have {facts['imports']:,.0f} MiB."
    )


def summary(curves: Sequence[Curve]) -> str:
    """Exponents over all points and the last two, beside what they may be."""
    rows = []
    for curve in curves:
        series, row = curve.series, []
        slopes = zip(curve.exponents(), curve.exponents(2), strict=True)
        for limit, (of_all, of_last) in zip((series.time, series.memory), slopes, strict=True):
            row += [f"{of_all:.2f}", f"{of_last:.2f}", f"{limit:g}"]
        name = f"{series.axis} {series.symbol}: {series.name}"
        rows.append([name, *row, "yes" if curve.met else "no"])
    head = ["time", "last two", "at most", "memory", "last two", "at most", "met?"]
    return table(["exponents", *head], rows)


def section(curve: Curve) -> str:
    """One series: a sentence on its growth, and its points."""
    series, s = curve.series, curve.series.symbol
    (of_time, of_memory), (last_time, last_memory) = curve.exponents(), curve.exponents(2)
    text = (
        f"Time grows as {s}^{of_time:.2f} and memory beyond the imports as {s}^{of_memory:.2f}; "
        f"over the last two points as {s}^{last_time:.2f} and {s}^{last_memory:.2f}. {series.note}"
    )
    rows = [
        [f"{x:,}", duration(result["seconds"]), *map(mib, memory_of(result))]
        for x, result in zip(curve.x, curve.results, strict=True)
    ]
    head = [s, "time", "peak MiB", "beyond imports", "largest cell MiB"][: len(rows[0])]
    return f"## {series.axis.title()}: {series.name}\n\n{text.strip()}\n\n{table(head, rows)}"


def memory_of(result: dict[str, Any]) -> list[float]:
    """The columns in MiB."""
    return [result[name] for name in ("peak", "beyond", "largest_cell") if name in result]


def corner_section(quick: bool) -> str:
    """Peak memory of long sentences with either vocabulary, less what belongs to the parameters."""
    corner = QUICK_CORNER if quick else CORNER
    rows, rest, with_copy = [], [], []
    for vocabulary in corner["vocabulary"]:
        point = Point("step", vocabulary=vocabulary, length=corner["length"])
        result = in_a_process(point, quick)
        with_copy.append(result["beyond"] - result["parameters"])
        rest.append(with_copy[-1] - result["copy"])
        values = (*memory_of(result), result["parameters"], result["copy"], rest[-1])
        rows.append([f"{vocabulary:,}", *map(mib, values)])
    head = ["V", "peak MiB", "beyond imports", "parameters", "bfloat16 copy", "rest"]
    ratio = rest[1] / rest[0]
    return f"""\
## Corner: large vocabulary, long sentences

LSTM training step, T = {corner["length"]}. Parameters are weights, gradients and Adam's two
moments; the copy is that of the vocabulary matrix in which products are computed. A peak may come
before the last gradient is there, so that the rest is rather too small.

{table(head, rows)}

The rest with the large vocabulary is {ratio:.2f} times that with the small one, where it may be
{CORNER_LIMIT:g}: {"met" if ratio <= CORNER_LIMIT else "not met"}. With the copy counted as a part
of it, it is {with_copy[1] / with_copy[0]:.2f} times."""


def mib(value: float) -> str:
    """Whole MiB, or a tenth where there are few."""
    return f"{value:,.0f}" if abs(value) >= 10 else f"{value:.1f}"


def duration(seconds: float) -> str:
    """Three digits with a unit."""
    factor, unit = next(
        ((f, u) for f, u in ((1, "s"), (1e3, "ms")) if seconds * f >= 1), (1e6, "µs")
    )
    digits = 2 - math.floor(math.log10(max(seconds * factor, 1)))
    return f"{seconds * factor:,.{max(0, digits)}f} {unit}"


# The picture


PANELS = {"seconds": "time (s)", "memory": "memory beyond imports (MiB)"}


def draw(curves: Sequence[Curve], path: Path) -> None:
    """Write the picture as PNG: a column of panels for each size, time above memory."""
    import matplotlib
    from matplotlib.figure import Figure

    from collapse_bench.leaderboard.figure import COLOURS

    axes = list(dict.fromkeys(curve.series.axis for curve in curves))
    names = dict.fromkeys(curve.series.name for curve in curves)
    colours = dict(zip(names, COLOURS, strict=False))
    with matplotlib.rc_context(matplotlib.rcParamsDefault):
        figure = Figure((2.4 * len(axes), 5.4), 130, layout="constrained")
        panels = figure.subplots(len(PANELS), len(axes), sharex="col")
        for axis, column in zip(axes, panels.T, strict=True):
            shown = [curve for curve in curves if curve.series.axis == axis]
            for values, at in zip(PANELS, column, strict=True):
                panel(at, shown, values, colours)
            series = shown[0].series
            column[0].set_title(f"{axis} {series.symbol}", fontsize=11)
            column[-1].set_xlabel(f"{series.symbol} ({series.unit})")
        for label, at in zip(PANELS.values(), panels[:, 0], strict=True):
            at.set_ylabel(label)
        lines = {line.get_label(): line for at in panels.flat for line in at.lines}
        lines["linear"] = lines.pop("linear")
        figure.legend(handles=lines.values(), loc="outside lower center", ncols=len(lines))
        figure.savefig(path, metadata={"Software": None})


def panel(at: Any, curves: Sequence[Curve], values: str, colours: dict[str, str]) -> None:
    """Draw time or memory of the series that share a size, each above its linear growth."""
    from matplotlib.ticker import NullLocator

    x, every = curves[0].x, []
    for curve in curves:
        y = getattr(curve, values)
        every += y
        name = curve.series.name
        linear = [y[-1] * value / x[-1] for value in x]
        at.plot(x, linear, ":", color="0.5", lw=1, label="linear")
        at.plot(x, y, "o-", color=colours[name], ms=4, lw=1.5, label=name)
    bottom, top = math.floor(math.log10(min(every))), math.ceil(math.log10(max(every) * 1.1))
    at.set(xscale="log", yscale="log", ylim=(10.0**bottom, 10.0**top))
    at.set_xticks(x, [f"{n // 1000}k" if n % 1000 == 0 else str(n) for n in x])
    at.xaxis.set_minor_locator(NullLocator())
    at.yaxis.set_minor_formatter("")
    at.grid(color="0.9", lw=0.6)
    at.spines[["top", "right"]].set_visible(False)


def main() -> None:
    """Measure everything and write `growth.md` and `growth.png`."""
    parser = argparse.ArgumentParser(description="Growth of time and memory with every size.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, metavar="DIR",
                        help="where growth.md and growth.png go (%(default)s)")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it work?")
    options = parser.parse_args()
    curves = [curve_of(series, options.quick) for series in SERIES]
    corner = corner_section(options.quick)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "growth.md").write_text(page(curves, corner), encoding="utf-8")
    draw(curves, options.out / "growth.png")
    print(f"{summary(curves)}\n\n{corner}")


if __name__ == "__main__":
    main()
