"""Names beside points of a panel, wherever there is room; the legend has them all."""

from collections.abc import Iterable, Mapping

from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

Point = tuple[float, float]

SIDES = (
    ((8, 0), "left", "center"),
    ((-8, 0), "right", "center"),
    ((0, 7), "center", "bottom"),
    ((0, -7), "center", "top"),
    ((6, 6), "left", "bottom"),
    ((6, -6), "left", "top"),
    ((-6, 6), "right", "bottom"),
    ((-6, -6), "right", "top"),
)
"""Where a name may stand: offset in printer's points, and how the text is set there."""

MARKER = 5.0
"""Half the width of a marker, in printer's points."""


def name_points(axes: Axes, named: Mapping[str, Point], points: Iterable[Point]) -> None:
    """Write each name beside its point where it covers no marker, no name and no frame; else not.

    Args:
        axes: of a figure whose layout is made; a name does not change it.
        named: name -> its point; the first is served first.
        points: where there are markers, the named among them.
    """
    renderer = axes.figure.canvas.get_renderer()  # type: ignore[attr-defined]
    half = MARKER * axes.figure.dpi / 72
    frame = axes.get_window_extent()
    taken = []
    for point in points:
        x, y = axes.transData.transform(point)
        taken.append(Bbox.from_extents(x - half, y - half, x + half, y + half))
    for name, point in named.items():
        for offset, horizontal, vertical in SIDES:
            text = Annotation(
                name, point, offset, textcoords="offset points", fontsize=7,
                horizontalalignment=horizontal, verticalalignment=vertical, in_layout=False,
                path_effects=[withStroke(linewidth=2, foreground="white")],
            )  # fmt: skip
            axes.add_artist(text)
            box = text.get_window_extent(renderer)
            inside = frame.x0 < box.x0 and box.x1 < frame.x1
            inside = inside and frame.y0 < box.y0 and box.y1 < frame.y1
            if inside and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            text.remove()
