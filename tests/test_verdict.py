"""The verdict: every rule, and either side of every threshold."""

import math

import pytest

from collapse_bench.diagnosis.report import ADVICE
from collapse_bench.metrics import METRICS, VERDICTS, Scores, fooled, verdict

BELOW = 1 - 1e-9
HEALTHY = {
    "kl": 4.0, "mutual_information": 3.0, "useful_rate": 3.5, "useful_information": 3.0,
    "moment_kl": 0.1, "active_units": 5, "shuffle_gap": 5.0,
}  # fmt: skip


def told(refined_use=0.0, sentences=1000, gap_error=0.0, **changes):
    scores = Scores(HEALTHY | changes, {"shuffle_gap": gap_error})
    return verdict(scores, sentences, refined_use)


BLIND = {"useful_information": 0.0}
SHORT = {"useful_information": 2.5, "useful_rate": 6.0, "kl": 12.0}
"""Of a rate of 12 nats a quarter is seen as information, and half as use."""

CAP = 0.6 * math.log(1000)

CASES = [
    ("healthy", {}),
    ("healthy", {"refined_use": 10.0}),
    # Half of the rate is used, and a nat.
    ("healthy", {"useful_information": 2.0}),
    ("partly collapsed", {"useful_information": 2.0 * BELOW}),
    ("healthy", {"useful_information": 1.0, "kl": 2.0}),
    ("healthy", {"useful_information": 1.0, "kl": 0.2}),
    ("partly collapsed", {"useful_information": 1.0 * BELOW, "kl": 1.0}),
    ("partly collapsed", {"useful_information": 0.1, "kl": 0.1}),
    ("partly collapsed", {"useful_information": 0.1, "kl": 90.0, "moment_kl": 80.0}),
    ("partly collapsed", {"useful_information": 0.1, "refined_use": 10.0}),
    ("collapsed", {"useful_information": 0.1 * BELOW, "kl": 0.1}),
    ("collapsed", BLIND | {"kl": 0.5 * BELOW}),
    ("collapsed", {"useful_information": -0.2, "kl": 0.0, "refined_use": 0.5 * BELOW}),
    ("rate without use", BLIND | {"kl": 0.5}),
    ("rate without use", {"useful_information": 0.1 * BELOW, "kl": 80.0, "moment_kl": 70.0}),
    ("rate without use", {"useful_information": -3.0, "refined_use": 0.5 * BELOW}),
    # Nothing is lost with another sentence's z, for certain.
    ("rate without use", {"shuffle_gap": 0.1 * BELOW}),
    ("rate without use", {"shuffle_gap": -0.3, "gap_error": 0.199}),
    ("healthy", {"shuffle_gap": -0.3, "gap_error": 0.201}),
    ("healthy", {"shuffle_gap": 0.1}),
    ("inference collapse", BLIND | {"kl": 0.0, "refined_use": 0.5}),
    ("inference collapse", {"useful_information": 0.1 * BELOW, "refined_use": 0.5}),
    # More than a nat, and than half of the rate.
    ("healthy", {"moment_kl": 2.0}),
    ("prior holes", {"moment_kl": 2.0 / BELOW}),
    ("healthy", {"moment_kl": 1.0, "kl": 1.5}),
    ("prior holes", {"moment_kl": 1.0 / BELOW, "kl": 1.5}),
    ("prior holes", {"moment_kl": 46.0, "kl": 90.0, "useful_information": 1.0}),
    ("partly collapsed", {"moment_kl": 46.0, "kl": 90.0, "useful_information": 1.0 * BELOW}),
    # Near log N it may be more than is seen.
    ("saturated estimate", SHORT | {"mutual_information": CAP / BELOW}),
    ("partly collapsed", SHORT | {"mutual_information": CAP}),
    ("partly collapsed", SHORT | {"mutual_information": CAP / BELOW, "sentences": 1100}),
    ("partly collapsed", SHORT | {"mutual_information": 6.0, "useful_rate": 6.0 * BELOW}),
    ("healthy", {"mutual_information": 6.0}),
    ("prior holes", SHORT | {"mutual_information": 6.0, "moment_kl": 7.0}),
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
