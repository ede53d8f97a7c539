"""One model at several values of its dial -> where its posterior means lie at each, aligned."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

from collapse_bench.diagnosis.picture import say

Floats = NDArray[np.float64]

# Okabe and Ito 2008.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#F0E442", "#999999")
"""The last one is of every label that has no other."""

ACROSS = 4
"""Panels of a row."""


@dataclass(frozen=True)
class Setting:
    """The same test sentences at one value of the dial.

    Attributes:
        title: the value in words.
        mean: posterior means, [N, D].
    """

    title: str
    mean: Floats


@dataclass(frozen=True)
class Aligned:
    """Means turned to those of the value before, and how far off these they are.

    Attributes:
        mean: centred and turned, [N, D].
        before, after: squared distance from the value before over the sum of both squares, as they
            are and turned; 0 is the same place, 1 nothing in common. NaN of the first value, and
            where both are points.
    """

    mean: Floats
    before: float
    after: float


def align(means: Sequence[Floats]) -> list[Aligned]:
    """Turn each to the one before, by the rotation or reflection of least squares (Schoenemann
    1966). Nothing is scaled: how far means scatter is what a dial such as beta changes.

    Args:
        means: of the same sentences, [N, D] each.
    """
    found: list[Aligned] = []
    for mean in means:
        centred = mean - mean.mean(axis=0)
        if not found:
            found.append(Aligned(centred, np.nan, np.nan))
            continue
        other = found[-1].mean
        left, _, right = np.linalg.svd(centred.T @ other)
        turned = centred @ (left @ right)
        as_it_was = means[len(found) - 1] - means[len(found) - 1].mean(axis=0)
        found.append(Aligned(turned, _apart(centred, as_it_was), _apart(turned, other)))
    return found


def _apart(one: Floats, other: Floats) -> float:
    whole = np.square(one).sum() + np.square(other).sum()
    return float(np.square(one - other).sum() / whole) if whole > 0 else np.nan


def draw(path: Path, settings: Sequence[Setting], labels: NDArray[np.str_], of: str) -> Path:
    """Write a panel for each value, in the first one's two leading principal components, as PNG.

    Args:
        path: of the file.
        settings: two or more, the one whose means scatter most first.
        labels: of the sentences, [N], which colour them; "" where there is none.
        of: what the labels are of, in words; "" where there are none.

    Returns:
        The path.
    """
    aligned = align([setting.mean for setting in settings])
    axes_of = np.linalg.svd(aligned[0].mean, full_matrices=False)[2][:2]
    names = [str(name) for name in np.unique(labels) if name]
    with matplotlib.rc_context(matplotlib.rcParamsDefault):
        across = min(ACROSS, len(settings))
        down = math.ceil(len(settings) / across)
        figure = Figure(
            (3.4 * across, 3.7 * down + 0.9), 120, layout=ConstrainedLayoutEngine(h_pad=0.12)
        )
        panels = figure.subplots(down, across, squeeze=False).ravel()
        for axes in panels[len(settings) :]:
            axes.set_axis_off()
        places = [each.mean @ axes_of.T for each in aligned]
        widest = 1.05 * max(1e-3, *(float(np.abs(place).max(initial=0)) for place in places))
        for axes, setting, each, place in zip(panels, settings, aligned, places, strict=False):
            axes.set_title(_titled(setting.title, each).replace("$", r"\$"), fontsize=9)
            if place.shape[1] < 2:
                say(axes, "fewer than two dimensions")
                continue
            _scatter(axes, place, labels, names)
            axes.set(xlim=(-widest, widest), ylim=(-widest, widest), aspect="equal")
        if names:
            handles, told = panels[0].get_legend_handles_labels()
            figure.legend(
                handles,
                told,
                loc="outside lower center",
                ncols=4,
                fontsize=8,
                title=of,
                markerscale=4,
            )
        figure.suptitle("posterior means of the same sentences, each turned to the one before\n")
        figure.savefig(path, format="png", metadata={"Software": None})
    return path


def _titled(title: str, each: Aligned) -> str:
    if np.isnan(each.after):
        return f"{title}\n"
    return f"{title}\noff the one before: {each.before:.0%}, turned {each.after:.0%}"


def _scatter(axes: Axes, place: Floats, labels: NDArray[np.str_], names: Sequence[str]) -> None:
    size = min(30.0, max(3.0, 4000 / len(place)))
    if not names:
        axes.scatter(place[:, 0], place[:, 1], s=size, color=COLOURS[0], alpha=0.6, lw=0)
    for number, name in enumerate(names):
        rows, colour = labels == name, COLOURS[min(number, len(COLOURS) - 1)]
        axes.scatter(
            place[rows, 0], place[rows, 1], s=size, color=colour, alpha=0.6, lw=0, label=name
        )
