"""What my_remedy promises beside the laws, which `check my_remedy.py` tells more of."""

from pathlib import Path

import torch
from torch import Tensor

from collapse_bench.laws import check_file, make, noise_of, tiny_batch
from collapse_bench.model.distributions import as_normal
from collapse_bench.plugins import remedy_files

FILE = Path(__file__).with_name("my_remedy.py")


def test_it_keeps_every_law() -> None:
    assert [each for each in check_file(FILE) if each.status == "BROKEN"] == []


# What only this remedy promises: rewrite it with the remedy.
def test_the_posterior_has_the_scale_that_is_set() -> None:
    def deviations(scale: float) -> Tensor:
        built = make("lstm", {"my_remedy": {"scale": scale}}, files=remedy_files([FILE]))
        return as_normal(built.model.posterior(tiny_batch(), noise_of(1))).stddev

    torch.testing.assert_close(deviations(0.25), 0.25 * deviations(1.0))
