"""What my_remedy promises beside the laws, which `check my_remedy.py` tells more of."""

from pathlib import Path

from collapse_bench.laws import check_file, make, tiny_corpus
from collapse_bench.plugins import remedy_files

FILE = Path(__file__).with_name("my_remedy.py")


def test_it_keeps_every_law() -> None:
    assert [each for each in check_file(FILE) if each.status == "BROKEN"] == []


# What only this remedy promises: rewrite it with the remedy.
def test_the_encoder_is_updated_more_often_until_the_rate_is_enough() -> None:
    for enough, updates in {1e6: 12, 1e-6: 6}.items():
        settings = {"inner": 2, "enough": enough}
        built = make("lstm", {"my_remedy": settings}, files=remedy_files([FILE]))
        run = built.steps(tiny_corpus(), 4)
        assert run.updates == {"encoder": updates, "decoder": 4}
        assert run.state["my_remedy"] == {"ended": enough < 1}
