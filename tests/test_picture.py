"""The picture of a diagnosis: what it shows, what it says instead, and where it is written."""

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from collapse_bench.diagnosis.picture import (
    Aggregate,
    Spectrum,
    draw,
    draw_aggregate,
    draw_positions,
    draw_spectrum,
)


@pytest.mark.parametrize(
    ("latent", "entries", "sentences", "standard"),
    [(0, 0, 1, True), (1, 1, 7, True), (2, 2, 1, False), (5, 1, 7, False), (3, None, 1, False)],
)  # fmt: skip
def test_any_size_can_be_drawn_and_twice_the_same(tmp_path, latent, entries, sentences, standard):
    rng = np.random.default_rng(1)
    numbers = {
        "spectrum": "there is none"
        if entries is None
        else Spectrum(rng.random((sentences, entries)), rng.random(latent)),
        "aggregate": Aggregate(
            rng.normal(size=(sentences, latent)), rng.random(latent), "I = {:.2f}", standard
        ),
    }
    use = (np.arange(3), np.zeros(3), np.ones(3)) if latent else None
    one = draw(tmp_path / "one.png", title="a $ b", position_use=use, **numbers)
    with matplotlib.rc_context({"axes.facecolor": "red", "savefig.format": "svg"}):
        two = draw(tmp_path / "two.png", title="a $ b", position_use=use, **numbers)
    assert one.read_bytes().startswith(b"\x89PNG")
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize(
    ("asked", "written"),
    [("x", "x.png"), ("x.png", "x.png"), ("x.PNG", "x.PNG"), ("x.svg", "x.svg.png"),
     ("beta-0.4", "beta-0.4.png"), ("x.", "x..png")],
)  # fmt: skip
def test_the_path_that_is_told_is_the_one_that_was_written(tmp_path, asked, written):
    nothing = Aggregate(np.zeros((2, 1)), np.zeros(1), "{}", True)
    told = draw(tmp_path / asked, title="", spectrum="none", aggregate=nothing, position_use=None)
    assert told == tmp_path / written
    assert [path.name for path in tmp_path.iterdir()] == [written]
    assert told.read_bytes().startswith(b"\x89PNG")


def test_the_panels_show_the_numbers():
    spectrum, aggregate, positions, none = Figure().subplots(1, 4)
    kl = np.array([[1.0, 4.0, 2.0], [3.0, 4.0, 0.0]])
    draw_spectrum(spectrum, Spectrum(kl, np.array([0.5, 0.6, 0.7])))
    heights = [bar.get_height() for bar in spectrum.patches]
    assert heights == [4, 2, 1, 0.6, 0.5, 0.7]

    z = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    draw_aggregate(aggregate, Aggregate(z, np.array([0.5, 0.6, 0.7]), "I = {:.1f}", True))
    np.testing.assert_array_equal(aggregate.collections[0].get_offsets(), z[:, [2, 1]])
    assert aggregate.get_xlabel() == "z[2], I = 0.7"
    assert len(aggregate.patches) == 2, "the prior's circles"

    draw_positions(positions, (np.arange(2), np.array([1.0, 3.0]), np.ones(2)))
    (line,) = (line for line in positions.lines if line.get_marker() == "o")
    np.testing.assert_array_equal(line.get_ydata(), [1, 3])
    draw_positions(none, None)
    assert "whole-sentence likelihoods only" in none.texts[0].get_text()


def test_a_panel_that_cannot_be_drawn_says_why():
    spectrum, aggregate = Figure().subplots(1, 2)
    draw_spectrum(spectrum, "not of a flow")
    assert spectrum.texts[0].get_text() == "not of a flow"
    assert not spectrum.patches
    draw_aggregate(aggregate, Aggregate(np.ones((4, 2)), np.ones(2), "variance = {}", False))
    assert "not N(0, I)" in aggregate.texts[0].get_text()
    assert not aggregate.patches, "no circle that is not the prior's"
