"""The rule by which the settings of `suites/quick.yaml` are chosen."""

import importlib.util
from pathlib import Path

import pytest

from collapse_bench.plugins import remedy_files
from collapse_bench.suite.loading import load_suite

SUITES = Path(__file__).parents[1] / "suites"


@pytest.fixture(scope="module")
def chosen():
    spec = importlib.util.spec_from_file_location("choose", SUITES / "choose.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.chosen


def end(distortion, information):
    return {"distortion": distortion, "mutual_information": information}


def test_the_most_information_near_the_language_model_is_chosen(chosen):
    ends = {"language_model": end(40.0, 0.0), "a": end(39.5, 1.0), "b": end(38.9, 2.0)}
    assert chosen(ends, ["a", "b"]) == "b"  # D + I is 40.9, at most 1 nat above


def test_what_tells_more_at_a_higher_cost_is_not(chosen):
    ends = {"language_model": end(40.0, 0.0), "a": end(39.5, 1.0), "b": end(39.1, 2.0)}
    assert chosen(ends, ["a", "b"]) == "a"


def test_of_several_that_tell_as_much_the_least_loss_is_chosen(chosen):
    ends = {"language_model": end(40.0, 0.0), "a": end(40.2, 0.04), "b": end(40.0, 0.0)}
    assert chosen(ends, ["a", "b"]) == "b"


def test_the_least_loss_is_chosen_where_none_is_near(chosen):
    ends = {"language_model": end(40.0, 0.0), "a": end(44.0, 0.1), "b": end(43.0, 3.0)}
    assert chosen(ends, ["a", "b"]) == "a"


def test_quick_has_only_settings_of_the_grid_and_is_trained_alike():
    """And not on the grid's seed, by which they were chosen."""
    files = remedy_files()
    quick, grid = (load_suite(SUITES / f"{name}.yaml", files) for name in ("quick", "quick-grid"))
    offered = [entry.remedies for entry in grid.entries]
    known = {"vae", "oracle"}
    assert all(e.remedies in offered for e in quick.entries if e.name not in known)
    assert (quick.corpus, quick.sizes, quick.training) == (grid.corpus, grid.sizes, grid.training)
    assert not set(quick.seeds) & set(grid.seeds)
