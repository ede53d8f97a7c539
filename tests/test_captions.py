"""Names beside points: what they may cover, and that nothing else moves."""

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from collapse_bench.leaderboard.captions import name_points


def panel():
    figure = Figure((4, 3), 100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set(xlim=(0, 1), ylim=(0, 1))
    figure.draw_without_rendering()
    return axes


def boxes(axes):
    renderer = axes.figure.canvas.get_renderer()
    return {text.get_text(): text.get_window_extent(renderer) for text in axes.texts}


def test_names_cover_neither_each_other_nor_a_marker_nor_the_frame():
    axes = panel()
    points = {f"entry_{i}": (0.05 + 0.03 * i, 0.5 + 0.02 * (i % 3)) for i in range(31)}
    name_points(axes, points, points.values())
    placed = list(boxes(axes).values())
    assert 3 < len(placed) < len(points)
    assert not any(a.overlaps(b) for i, a in enumerate(placed) for b in placed[:i])
    centres = axes.transData.transform(list(points.values()))
    assert not any(box.contains(*centre) for box in placed for centre in centres)
    frame = axes.get_window_extent()
    assert all(frame.contains(*box.min) and frame.contains(*box.max) for box in placed)


def test_the_first_is_served_first_and_one_without_room_is_left_to_the_legend():
    axes = panel()
    same = dict.fromkeys(("one", "two", "x" * 100), (0.5, 0.5))
    name_points(axes, same, same.values())
    assert list(boxes(axes)) == ["one", "two"]
    first, second = axes.texts
    assert (first.get_ha(), second.get_ha()) == ("left", "right")


def test_a_name_moves_nothing():
    axes = panel()
    before = axes.get_position().bounds
    name_points(axes, {"entry": (0.9, 0.9)}, [(0.9, 0.9)])
    axes.figure.draw_without_rendering()
    assert axes.get_position().bounds == before
