"""The verdict: every rule, and either side of every threshold."""

import math

import pytest

from collapse_bench.diagnosis.report import ADVICE
from collapse_bench.metrics import METRICS, VERDICTS, fooled, verdict

CEILING = math.log(1000)
BELOW = 1 - 1e-9
HEALTHY = {
    "kl": 4.0, "mutual_information": 3.0, "useful_rate": 3.5, "useful_information": 3.0,
    "moment_kl": 0.1, "active_units": 5,
}  # fmt: skip


def told(refined_use=0.0, ceiling=CEILING, **changes):
    return verdict(HEALTHY | changes, ceiling, refined_use)


CASES = [
    ("healthy", {}),
    ("healthy", {"refined_use": 10.0}),
    # Half of the rate is used.
    ("healthy", {"useful_information": 2.0}),
    ("partly collapsed", {"useful_information": 2.0 * BELOW}),
    ("healthy", {"useful_information": 1.0, "kl": 2.0}),
    ("partly collapsed", {"useful_information": 1.0 * BELOW, "kl": 1.0}),
    ("partly collapsed", {"useful_information": 0.1, "kl": 0.1}),
    ("partly collapsed", {"useful_information": 0.1, "kl": 90.0, "moment_kl": 80.0}),
    ("partly collapsed", {"useful_information": 0.1, "refined_use": 10.0}),
    ("collapsed", {"useful_information": 0.1 * BELOW, "kl": 0.1}),
    ("collapsed", {"useful_information": 0.0, "kl": 0.5 * BELOW}),
    ("collapsed", {"useful_information": -0.2, "kl": 0.0, "refined_use": 0.5 * BELOW}),
    ("rate without use", {"useful_information": 0.0, "kl": 0.5}),
    ("rate without use", {"useful_information": 0.1 * BELOW, "kl": 80.0, "moment_kl": 70.0}),
    ("rate without use", {"useful_information": -3.0, "refined_use": 0.5 * BELOW}),
    ("inference collapse", {"useful_information": 0.0, "kl": 0.0, "refined_use": 0.5}),
    ("inference collapse", {"useful_information": 0.1 * BELOW, "refined_use": 0.5}),
    # More than a nat, and than half of the rate.
    ("healthy", {"moment_kl": 2.0}),
    ("prior holes", {"moment_kl": 2.0 / BELOW}),
    ("healthy", {"moment_kl": 1.0, "kl": 1.5, "useful_information": 1.2}),
    ("prior holes", {"moment_kl": 1.0 / BELOW, "kl": 1.5, "useful_information": 1.2}),
    ("saturated estimate", {"mutual_information": 0.601 * CEILING, "useful_rate": 9.0}),
    ("saturated estimate", {"mutual_information": 3.0, "useful_rate": 3.0 / BELOW, "ceiling": 4.9}),
    ("healthy", {"mutual_information": 3.0, "useful_rate": 3.0, "ceiling": 4.9}),
    ("healthy", {"mutual_information": 3.0, "useful_rate": 3.5, "ceiling": 5.0}),
    ("saturated estimate", {"kl": 90.0, "mutual_information": 6.0, "useful_rate": 80.0}),
    ("prior holes", {"kl": 90.0, "mutual_information": 6.0, "useful_rate": 80.0, "moment_kl": 46}),
]


@pytest.mark.parametrize(("expected", "changes"), CASES)
def test_every_rule_holds_on_either_side_of_its_threshold(expected, changes):
    assert told(**changes) == expected


def test_every_verdict_can_be_reached_is_explained_and_has_advice():
    assert {expected for expected, _ in CASES} == VERDICTS.keys() - {"no latent"} == ADVICE.keys()
    assert all(VERDICTS.values())
    assert all(ADVICE.values())


def test_the_numbers_that_a_verdict_needs_are_metrics():
    assert HEALTHY.keys() <= METRICS.keys()


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"kl": 0.5, "mutual_information": 0.5, "active_units": 1}, ["KL", "MI", "AU"]),
        ({"kl": 0.5, "mutual_information": 0.0, "active_units": 0}, ["KL"]),
        ({"kl": 0.4, "mutual_information": 0.5, "active_units": 0}, ["MI"]),
        ({"kl": 0.0, "mutual_information": 0.0, "active_units": 1}, ["AU"]),
        ({"kl": 0.5 * BELOW, "mutual_information": 0.5 * BELOW, "active_units": 0}, []),
    ],
)
def test_a_metric_is_fooled_where_it_calls_a_collapsed_model_alive(changes, names):
    assert fooled(HEALTHY | {"useful_information": 0.1 * BELOW} | changes) == names
    assert fooled(HEALTHY | {"useful_information": 0.1} | changes) == []
