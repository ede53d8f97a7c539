"""What a leaderboard compares: with the plain VAE, over tasks, and curves at one rate."""

import math

import numpy as np
import pytest
from leaderboard_records import (
    language_model,
    names_of,
    page_of,
    record,
    rows_in,
    rows_of,
    section_of,
    sweep,
)
from matplotlib.figure import Figure

from collapse_bench.leaderboard import write_leaderboard
from collapse_bench.leaderboard.curves import curve_of, swept
from collapse_bench.leaderboard.figure import (
    limits_of,
    limits_of_prior,
    limits_of_use,
    prior_panel,
    rate_panel,
    use_panel,
)


def test_differences_to_the_plain_vae_are_paired_and_adjusted():
    records = [
        *(language_model(s) for s in (1, 2)),
        *(record("vae", s, useful_beyond=0.1 * s, nll=104.0 + s) for s in (1, 2)),
        *(record("a", s, useful_beyond=1 + 0.1 * s, nll=103.5 + s, levers=["step"])
          for s in (1, 2)),
        *(record("b", s, useful_beyond=0.3 * s, nll=104.0 + s, levers=["step"])
          for s in (1, 2, 3)),
        *(record("c", s, status="failed", levers=["step"]) for s in (1, 2)),
    ]  # fmt: skip
    rows, part = section_of(page_of(records), "Against the plain VAE: lstm")
    assert rows[1:] == [
        ["a", "2", "+1.00 ± 0.00", "0.500", "1.000", "-0.50 ± 0.00", "0.500", "1.000"],
        ["b", "2", "+0.30 ± 1.27", "0.500", "1.000", "+0.00 ± 0.00", "1.000", "1.000"],
    ]
    assert "no p is below 2^(1-n) = 0.5" in part
    assert "too few seeds for any difference to be significant" in part


def test_the_page_says_what_the_seeds_can_show():
    def said(seeds, others):
        names = [f"e{i}" for i in range(others)]
        records = [record("vae", s) for s in range(seeds)]
        records += [record(n, s, levers=["step"]) for n in names for s in range(seeds)]
        return section_of(page_of(records), "Against the plain VAE: lstm")[1]

    assert "too few seeds for any" in said(5, 1)
    assert "too few seeds" not in said(6, 1)
    assert "2^(1-n) = 0.0312, which after Holm's correction for m = 2 is 0.0625" in said(6, 2)
    assert "too few seeds for a difference to stay significant" in said(6, 2)
    assert "#### Against the plain VAE" not in page_of([language_model(), record()])


def test_several_tasks_are_summed_up_and_one_is_not():
    def of(architecture, shift):
        return [
            *(language_model(s, architecture=architecture, nll=103.5 - shift / 8) for s in (1, 2)),
            *(record("vae", s, architecture, useful_beyond=shift + s) for s in (1, 2)),
            *(record("dear", s, architecture, useful_beyond=9.0, nll=110.0, levers=["step"])
              for s in (1, 2)),
            *(record("good", s, architecture, useful_beyond=shift + 1 + s, levers=["step"])
              for s in (1, 2)),
        ]  # fmt: skip

    lonely = record("half", levers=["step"], useful_beyond=5.0)
    page = page_of([*of("lstm", 0.0), *of("transformer", 2.0), lonely])
    rows = rows_of(page.split("## Over all 2 tasks")[1].split("\n#")[0])[2:]
    # vae has 1, 2 and 3, 4; good 2, 3 and 4, 5: it wins three of four pairs and ties in one.
    assert [row[:1] + row[2:] for row in rows] == [
        ["good", "0.88", "+0.75", "2 + 2"],
        ["vae", "–", "+0.75", "2 + 2"],
        ["dear", "1.00", "+6.75", "2 + 2"],
    ]
    assert [row[1].split(" ")[0] for row in rows] == ["3.50", "2.50", "9.00"]
    assert "## Over all" not in page_of(of("lstm", 0.0))


def test_a_curve_goes_through_its_points_and_never_beyond():
    records = sweep((4.0, 3.0, 104.0), (1.0, 0.8, 103.0), (2.0, 1.5, 103.2), (9.0, 3.1, 107.0))
    curve = curve_of("knob", rows_in(records))
    assert curve.rates.tolist() == [1.0, 2.0, 4.0, 9.0]
    np.testing.assert_allclose(curve.at("nll", curve.rates), [103.0, 103.2, 104.0, 107.0])
    assert np.isnan(curve.at("nll", [0.99, 9.01, -1.0, 1e9])).all()
    path = curve.path()
    assert (path[0], path[-1]) == (1.0, 9.0)
    assert set(curve.rates) <= set(path)
    for name in ("nll", "useful_beyond"):
        along = curve.at(name, path)
        assert (np.diff(along) >= -1e-12).all()
        assert (np.diff(path) > 0).all()
    assert np.isnan(curve.at("gap", path)).all()  # there is no language model
    assert math.isnan(curve.most_useful(2.0))


def test_nothing_is_known_of_a_curve_across_a_jump():
    points = [(0.001, 0.0, 103.0), (5.0, 4.0, 104.0), (20.0, 5.0, 106.0), (80.1, 6.0, 103.5)]
    curve = curve_of("knob", rows_in([language_model(nll=103.0), *sweep(*points)])[1:])
    useful = curve.at("useful_beyond", [0.001, 2.0, 4.99, 5.0, 12.5, 20.0, 20.1, 80.1])
    # Of the only stretch, of two points, the cubic is the straight line whatever lies beyond.
    np.testing.assert_allclose(useful, [0, np.nan, np.nan, 4.0, 4.5, 5.0, np.nan, 6.0])
    path = curve.path()
    assert np.isnan(path).sum() == 2
    assert np.isnan(path[[1, -2]]).all()
    assert path[2:-2].min() == 5.0
    assert path[2:-2].max() == 20.0
    assert (np.isnan(curve.at("nll", path)) == np.isnan(path)).all()
    # A curve through all points would get more than the first one has where the gap is below 0.4.
    assert math.isnan(curve.most_useful(-0.1))
    assert [curve.most_useful(margin) for margin in (0.4, 0.5)] == [0.0, 6.0]
    assert float(curve.at("nll", 20.0)) == 106.0


def test_points_of_one_rate_become_their_mean_and_seeds_too():
    twice = [(1.0, 1.0, 103.0), (1.0, 2.0, 105.0), (2.0, 2.0, 104.0)]
    assert curve_of("knob", rows_in(sweep(*twice))) is None
    curve = curve_of("knob", rows_in(sweep(*twice, (3.0, 2.5, 106.0))))
    assert curve.rates.tolist() == [1.0, 2.0, 3.0]
    assert curve.measures["nll"].tolist() == [104.0, 104.0, 106.0]
    points = [(1.0, 1.0, 103.0), (2.0, 2.0, 104.0), (3.0, 3.0, 105.0)]
    seeds = [*sweep(*points), *sweep(*[(r + 1, u, n) for r, u, n in points], seed=2)]
    assert curve_of("knob", rows_in(seeds)).rates.tolist() == [1.5, 2.5, 3.5]


def test_a_failed_point_is_none_of_the_curves():
    records = sweep((1.0, 1.0, 103.0), (2.0, 2.0, 104.0), (3.0, 2.5, 106.0))
    failed = {**records[1], "status": "failed", "metrics": {}}
    assert curve_of("knob", rows_in([records[0], failed, records[2]])) is None
    rows = rows_in(records)
    assert swept(rows, {"knob": names_of(records), "gone": ["gone-1"]})["gone"] is None


def test_matched_tables_read_the_curve_where_it_was_measured():
    records = [
        language_model(nll=103.0),
        *sweep((1.0, 0.75, 103.0), (2.0, 1.5, 104.0), (4.0, 3.0, 106.0)),
    ]
    curves = {"knob": names_of(records), "few": ["few-1"]}
    rows, part = section_of(page_of(records, curves=curves), "At the same rate")
    # All three are straight lines, which a monotone cubic follows exactly.
    assert rows[1:4] == [
        ["knob", "NLL", "–", "103.00", "104.00", "106.00", "–", "–"],
        ["knob", "D", "–", "102.25", "102.50", "103.00", "–", "–"],
        ["knob", "beyond", "–", "0.75", "1.50", "3.00", "–", "–"],
    ]
    assert rows[5][0] == "knob"
    told = [float(cell) for cell in rows[5][1:]]
    assert told == pytest.approx([0.75, 1.125, 1.5, 2.25], abs=0.02)
    assert "No curve of few: fewer than 3 finished points" in part
    far = page_of([*records[1:], language_model(nll=90.0)], curves=curves)
    assert section_of(far, "At the same rate")[0][5] == ["knob", "–", "–", "–", "–"]
    assert "#### At the same rate" not in page_of(records)


def of_knob(entry, points, seed, trained_as=None):
    """Finished records of an entry swept through its beta, from (R, headline, NLL)."""
    return [
        record(
            f"{entry}-{beta}",
            seed,
            levers=["step"],
            remedies=[{"name": entry, "settings": {"beta": beta, "hidden": 8}}],
            trained_as=trained_as if beta != 1 else None,
            **{"kl": r, "useful_beyond": u, "nll": n, "distortion": n - u},
        )
        for beta, (r, u, n) in enumerate(points, 1)
    ]


def of_one_model(points, others, seeds=(1, 2), sweep="beta_vae"):
    records = [language_model(s, nll=103.0) for s in seeds]
    for s in seeds:
        records += of_knob("all", [(r, u, n + 0.1 * s) for r, u, n in points], s, "all-1")
        records += of_knob(sweep, others, s)
    curves = {}
    for r in records:
        curves.setdefault(r["entry"].rsplit("-", 1)[0], {})[r["entry"]] = None
    return records, {name: list(curves[name]) for name in ("all", sweep)}


def test_one_model_is_held_against_one_for_each_value_at_the_same_rate():
    points = [(1.0, 0.75, 103.5), (2.0, 1.5, 104.5), (4.0, 3.0, 106.5)]
    others = [(0.5, 0.5, 102.5), (1.0, 1.0, 103.0), (2.0, 2.0, 104.0)]
    records, curves = of_one_model(points, others)
    rows, part = section_of(page_of(records, curves=curves), "One model for all values of a knob")
    # Lines: 0.5 nats apart in NLL but for the seed's 0.1 and 0.2; beyond is 0.75 R and R.
    none = ["–"] * 3
    assert rows == [
        ["at the same value", "beta = 1", "beta = 2", "beta = 3"],
        ["R", "+0.50 ± 0.00", "+1.00 ± 0.00", "+2.00 ± 0.00"],
        ["NLL", "+1.15 ± 0.64", "+1.65 ± 0.64", "+2.65 ± 0.64"],
        ["beyond", "+0.25 ± 0.00", "+0.50 ± 0.00", "+1.00 ± 0.00"],
        ["at the same rate", "R = 0.5", "R = 1", "R = 2", "R = 4", "R = 8", "R = 16"],
        ["NLL", "–", "+0.65 ± 0.64", "+0.65 ± 0.64", *none],
        ["beyond", "–", "-0.25 ± 0.00", "-0.50 ± 0.00", *none],
    ]
    assert "all less beta_vae:" in part
    assert "Of one seed no interval is known" in part
    alone, curves = of_one_model(points, others, seeds=(1,))
    rows, _ = section_of(page_of(alone, curves=curves), "One model for all values of a knob")
    assert rows[5][2:4] == ["+0.60", "+0.60"]
    # Where the rates are others the values are still the same.
    far, curves = of_one_model(points, [(r + 10, u, n) for r, u, n in others])
    rows, _ = section_of(page_of(far, curves=curves), "One model for all values of a knob")
    assert [row[0] for row in rows] == ["at the same value", "R", "NLL", "beyond"]


def test_one_model_is_held_against_what_sweeps_the_same_knob_alone():
    points = [(1.0, 0.75, 103.5), (2.0, 1.5, 104.5), (4.0, 3.0, 106.5)]
    records, curves = of_one_model(points, points)
    title = "#### One model for all values"
    assert title in page_of(records, curves=curves)
    for r in records:
        if r["entry"].startswith("beta_vae"):
            settings = r["remedies"][0]["settings"]
            settings["target"] = settings.pop("beta")
    assert title not in page_of(records, curves=curves)
    records, _ = of_one_model(points, points)
    assert title not in page_of([{**r, "trained_as": None} for r in records], curves=curves)


def test_a_curve_is_drawn_between_its_ends_and_everything_is_in_sight(tmp_path):
    records = [language_model(nll=103.0)]
    records += sweep((0.01, 0.0, 103.2), (1.0, 0.7, 103.0), (4.0, 1.5, 104.0), (150.0, 3.0, 106.0))
    rows, names = rows_in(records), names_of(records)
    style = ("#0072B2", "o")
    of_entry = dict.fromkeys(["language_model", *names], style)
    curves = list(swept(rows, {"knob": names}).values())
    for panel, limits, drawn, start, ends in (
        (rate_panel, limits_of(rows), (1.0, 4.0), 102.3, (0.01, 150.0)),
        (use_panel, limits_of_use(rows), (0.0, 1.0), 0.7, (0.0, 3.0)),
        (prior_panel, limits_of_prior(rows), (1.0, 4.0), 0.05, (0.01, 150.0)),
    ):
        axes = Figure().subplots()
        panel(axes, rows, curves, limits, of_entry, {"knob": style})
        mine = [line for line in axes.lines if line.get_color() == style[0]]
        path, height = max((line.get_data() for line in mine), key=lambda data: len(data[0]))
        # A point, a gap, the stretch, a gap and a point.
        assert np.isnan(path[[1, -2]]).all()
        assert (path[2], path[-3], height[2]) == pytest.approx((*drawn, start))
        assert limits[0] < ends[0] < ends[1] < limits[1]
        assert sum(line.get_marker() == "o" for line in mine) == 4  # not the language model
    write_leaderboard("tiny", [], records, tmp_path / "with", {"knob": names})
    write_leaderboard("tiny", [], records, tmp_path / "without", {})
    pictures = [(tmp_path / place / "tiny.png").read_bytes() for place in ("with", "without")]
    assert pictures[0] != pictures[1]
