"""Every kind of point of `make growth` is measured, at sizes that take no time."""

import importlib.util
from pathlib import Path

import pytest

PATH = Path(__file__).parent / "benchmarks" / "growth_point.py"


@pytest.fixture(scope="module")
def growth_point():
    spec = importlib.util.spec_from_file_location("growth_point", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("work", ["information", "units"])
def test_a_metric_is_timed(growth_point, work):
    point = growth_point.Point(work=work, sentences=16, latent=2)
    measured = getattr(growth_point, work)(point, 0.0)
    assert measured["seconds"] > 0
