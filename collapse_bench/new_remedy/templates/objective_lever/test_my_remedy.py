"""What my_remedy promises beside the laws, which `check my_remedy.py` tells more of."""

from pathlib import Path

import torch

from collapse_bench.laws import check_file, make, noise_of, tiny_batch
from collapse_bench.plugins import remedy_files

FILE = Path(__file__).with_name("my_remedy.py")


def test_it_keeps_every_law() -> None:
    assert [each for each in check_file(FILE) if each.status == "BROKEN"] == []


# What only this remedy promises: rewrite it with the remedy.
def test_the_rate_has_the_weight_that_is_set() -> None:
    built = make("lstm", {"my_remedy": {"weight": 0.25}}, files=remedy_files([FILE]))
    before = built.model(tiny_batch(), noise_of(1))
    after = built.remedy.objective(before)
    torch.testing.assert_close(after.kl, 0.25 * before.kl)
