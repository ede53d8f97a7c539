"""The weight is the cosine's, and the remedy keeps every law."""

from pathlib import Path

import pytest
from my_remedies import cosine_annealing
from my_remedies.cosine_annealing import CosineAnnealing

from collapse_bench.laws import check_file


def test_the_weight_rises_along_half_a_cosine() -> None:
    weight = CosineAnnealing(warmup=0.5).weight
    weights = [weight(progress) for progress in (0, 0.125, 0.25, 0.375, 0.5, 1)]
    assert weights == pytest.approx([0, 0.1464466, 0.5, 0.8535534, 1, 1])


def test_it_keeps_every_law() -> None:
    findings = check_file(Path(cosine_annealing.__file__))
    assert [each for each in findings if each.status == "BROKEN"] == []
