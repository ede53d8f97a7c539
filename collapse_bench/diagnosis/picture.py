"""A diagnosis -> three panels: which dimensions carry a rate, where they lie, and where z helps."""

from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

Floats = NDArray[np.floating]
PositionUse = tuple[Floats, Floats, Floats]
"""Positions [T], nats that z saves at them [T], and standard errors [T]."""

# Okabe and Ito 2008.
RATE, INFORMATION, PRIOR = "#0072B2", "#D55E00", "black"
NO_PRIOR = "the prior is not N(0, I) and not drawn"
WHOLE_SENTENCES = "by position:\nthe model gives\nwhole-sentence likelihoods only"


class Spectrum(NamedTuple):
    """What each dimension of a diagonal normal carries.

    Attributes:
        kl: rate by entry, nats, [N, K]; one entry where it is an estimate.
        information: I of each dimension by itself, nats, [D].
    """

    kl: Floats
    information: Floats


class Aggregate(NamedTuple):
    """Draws of the aggregate posterior, and which of their dimensions are worth a look.

    Attributes:
        z: one draw a sentence, [N, D]; D may be 0.
        weight: by which the two dimensions to be drawn are chosen, [D].
        named: the weight in words, a format.
        standard: whether the prior is N(0, I), which is drawn beside it.
    """

    z: Floats
    weight: Floats
    named: str
    standard: bool


def draw(
    path: Path,
    *,
    title: str,
    spectrum: Spectrum | str,
    aggregate: Aggregate,
    position_use: PositionUse | None,
) -> Path:
    """Write the picture as PNG.

    It cannot show that a rate is used: of that only the third panel and the scores tell.

    Args:
        path: of the file; `.png` is put behind a name that does not end in it.
        title: above the panels.
        spectrum: of the first panel, or why there is none.
        aggregate: of the second.
        position_use: what z saves at each position against the z of another sentence, or None.

    Returns:
        The path of the file.
    """
    if path.suffix.lower() != ".png":
        path = path.with_name(f"{path.name}.png")
    # A user's matplotlibrc must not change a picture that is a function of the numbers.
    with matplotlib.rc_context(matplotlib.rcParamsDefault):
        figure = Figure((15.0, 4.6), 120, layout="constrained")
        first, second, third = figure.subplots(1, 3)
        figure.suptitle(title.replace("$", r"\$"), fontsize=12)
        draw_spectrum(first, spectrum)
        draw_aggregate(second, aggregate)
        draw_positions(third, position_use)
        figure.savefig(path, format="png", metadata={"Software": None})
    return path


def draw_spectrum(axes: Axes, spectrum: Spectrum | str) -> None:
    """KL and I_j of each dimension, the largest KL first, in nats, or why there are none."""
    axes.set_title("rate and information by dimension", fontsize=10)
    if isinstance(spectrum, str):
        say(axes, spectrum)
        return
    kl, information = spectrum
    sentences, entries = kl.shape
    if not len(information):
        say(axes, "no latent")
        return
    rate = kl.mean(axis=0)
    error = kl.std(axis=0, ddof=1) / sentences**0.5 if sentences > 1 else np.zeros(entries)
    order = np.argsort(-rate, kind="stable")
    same = entries == len(information)
    beside = information[order] if same else np.sort(information)[::-1]
    axes.bar(np.arange(entries) - 0.2, rate[order], 0.4, color=RATE, label=r"KL$_j$")
    # An error bar of zero height would still be a mark.
    if sentences > 1:
        axes.errorbar(
            np.arange(entries) - 0.2, rate[order], error[order], fmt="none", ecolor="black", lw=0.8
        )
    axes.bar(np.arange(len(beside)) + 0.2, beside, 0.4, color=INFORMATION, label=r"I$_j$")
    axes.axhline(0, color="black", lw=0.8)
    axes.set_xlabel(
        "latent dimension, sorted by KL" if same else "latent dimension; the rate has one estimate"
    )
    axes.set_ylabel("nats/sentence")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(-0.8, max(entries, len(beside)) - 0.2)
    # What is zero should look so: a scale of 1e-5 would make noise of a collapsed model look big.
    axes.set_ylim(top=max(0.05, 1.08 * max(rate.max(), (rate + error).max(), beside.max())))
    axes.legend(fontsize=8)


def draw_aggregate(axes: Axes, aggregate: Aggregate) -> None:
    """One draw from each posterior in the two dimensions of most weight, and N(0, I) beside it."""
    axes.set_title("aggregate posterior, one draw a sentence", fontsize=10)
    if not len(aggregate.weight):
        say(axes, "no latent")
        return
    chosen = np.argsort(-aggregate.weight, kind="stable")[:2]
    z = aggregate.z[:, chosen]
    named = [f"z[{j}], {aggregate.named.format(aggregate.weight[j])}" for j in chosen]
    widest = max(3.0, 1.05 * float(np.abs(z).max()))
    if len(chosen) == 1:
        axes.hist(z[:, 0], bins=40, range=(-widest, widest), density=True, color=RATE, alpha=0.6)
        axes.set(xlabel=named[0], ylabel="density")
    else:
        size = min(30.0, max(4.0, 5000 / len(z)))
        axes.scatter(z[:, 0], z[:, 1], s=size, color=RATE, alpha=0.6, lw=0)
        axes.set(xlim=(-widest, widest), ylim=(-widest, widest), aspect="equal")
        axes.set(xlabel=named[0], ylabel=named[1])
    if aggregate.standard:
        draw_standard_normal(axes, len(chosen), widest)
    else:
        axes.text(0.02, 0.98, NO_PRIOR, va="top", fontsize=8, transform=axes.transAxes)


def draw_standard_normal(axes: Axes, dimensions: int, widest: float) -> None:
    """N(0, I) in one dimension, as a curve as far as `widest`, or in two, as circles."""
    if dimensions == 1:
        grid = np.linspace(-widest, widest, 400)
        axes.plot(
            grid, np.exp(-(grid**2) / 2) / np.sqrt(2 * np.pi), color=PRIOR, lw=1.2, label="N(0, 1)"
        )
    else:
        for sigma, style in ((1, "-"), (2, "--")):
            axes.add_patch(
                Circle((0, 0), sigma, fill=False, ec=PRIOR, ls=style, lw=1.2,
                       label=f"N(0, I), {sigma} σ")
            )  # fmt: skip
    axes.legend(fontsize=8, loc="upper right")


def draw_positions(axes: Axes, use: PositionUse | None) -> None:
    """Nats that z saves at each position, with standard errors."""
    axes.set_title("where z helps: own z against another sentence's", fontsize=10)
    if use is None:
        say(axes, WHOLE_SENTENCES)
        return
    positions, saved, error = use
    axes.axhline(0, color=PRIOR, lw=0.8)
    axes.errorbar(positions, saved, error, fmt="o-", ms=3, lw=1, color=RATE, ecolor="0.6")
    axes.set(xlabel="position in the sentence", ylabel="nats saved")
    low, high = axes.get_ylim()
    if high - low < 0.1:
        axes.set_ylim(min(low, -0.05), max(high, 0.05))


def say(axes: Axes, text: str) -> None:
    """Words in place of a panel."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes)
