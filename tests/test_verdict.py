"""The verdict: every rule, and either side of every threshold."""

import math

import pytest

from collapse_bench.diagnosis.report import ADVICE
from collapse_bench.metrics import METRICS, VERDICTS, Scores, fooled, verdict

BELOW = 1 - 1e-9
HEALTHY = {
    "kl": 4.0, "mutual_information": 3.0, "useful_rate": 3.5, "moment_kl": 0.1, "active_units": 5,
    "shuffle_gap": 5.0, "shuffle_gap_any": 6.0, "length_entropy": 0.0, "trivial_information": 0.0,
}  # fmt: skip


def told(refined_use=0.0, sentences=1000, gap_error=0.0, any_error=0.0, without=(), **changes):
    """The verdict on a model that is healthy but for these; of the rest follows what depends on it.

    Where `useful_information` is given alone, it is all beyond length and first words.
    """
    metrics = HEALTHY | {"useful_information": 3.0} | changes
    # As in any scores: information is trivial, or beyond.
    trivial = metrics["trivial_information"]
    beyond = metrics["useful_information"] - trivial
    metrics |= {
        "information_beyond": beyond,
        "information_given_length": max(0.0, beyond),
    } | changes
    given = metrics["information_given_length"]
    metrics |= {
        "information_given_length_upper": given,
        "first_words_information": max(0.0, given - metrics["information_beyond"]),
    } | changes
    gap = metrics["shuffle_gap"]
    at_most = min(metrics["useful_rate"], metrics["information_beyond"])
    metrics |= {"useful_beyond": min(at_most, gap + 2 * gap_error)} | changes
    scores = Scores(
        {name: value for name, value in metrics.items() if name not in without},
        {"shuffle_gap": gap_error, "shuffle_gap_later": 0.0, "shuffle_gap_any": any_error},
    )
    return verdict(scores, sentences, refined_use)


BLIND = {"useful_information": 0.0}
SHORT = {"useful_information": 2.5, "useful_rate": 6.0, "kl": 12.0, "shuffle_gap": 9.0}
"""Of a rate of 12 nats a quarter is seen as information, and half as use."""

LENGTH = {"trivial_information": 3.0, "shuffle_gap": 0.0, "length_entropy": 3.1}
"""The length is all that z tells, and the decoder uses it."""

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
    # Nothing is lost with any other sentence's z, for certain.
    ("rate without use", {"shuffle_gap": 0.1 * BELOW, "shuffle_gap_any": 0.1 * BELOW}),
    ("rate without use", {"shuffle_gap": -0.3, "gap_error": 0.199, "shuffle_gap_any": 0.0}),
    ("partly collapsed", {"shuffle_gap": -0.3, "gap_error": 0.201, "shuffle_gap_any": 0.0}),
    ("partly collapsed", {"shuffle_gap": 0.1, "shuffle_gap_any": 0.1}),
    ("rate without use", LENGTH | {"shuffle_gap_any": -0.1, "any_error": 0.099}),
    ("trivial use", LENGTH | {"shuffle_gap_any": -0.1, "any_error": 0.101}),
    # Something is, but not with that of a sentence of the same length.
    ("trivial use", {"shuffle_gap": 0.1 * BELOW}),
    ("trivial use", {"shuffle_gap": -0.3, "gap_error": 0.199}),
    ("trivial use", LENGTH),
    ("trivial use", LENGTH | {"shuffle_gap": 5.0}),
    ("trivial use", LENGTH | {"kl": 90.0, "moment_kl": 80.0}),
    # Of first words: all that is told given the length.
    ("trivial use", {"trivial_information": 3.0, "information_given_length": 3.0}),
    ("trivial use", {"trivial_information": 3.0 - 0.1 * BELOW}),
    ("partly collapsed", {"trivial_information": 3.0 - 0.1 / BELOW}),
    # What the rate pays for length and first words is not asked for twice.
    ("healthy", {"trivial_information": 1.0, "kl": 5.0}),
    ("partly collapsed", {"trivial_information": 1.0, "kl": 5.0 / BELOW}),
    ("healthy", {"trivial_information": -1.0, "information_beyond": 3.0, "kl": 6.0}),
    ("partly collapsed", {"trivial_information": -1.0, "information_beyond": 3.0, "kl": 6.1}),
    # So few sentences of a length that nothing could be seen beyond it.
    ("saturated estimate", LENGTH | {"shuffle_gap": 5.0, "information_given_length_upper": 0.1}),
    ("trivial use", LENGTH | {"shuffle_gap": 5.0, "information_given_length_upper": 0.1 * BELOW}),
    # Nothing is lost after the first words.
    ("trivial use", {"shuffle_gap_later": 0.1 * BELOW}),
    ("rate without use", {"shuffle_gap_later": 0.0, "shuffle_gap_any": 0.0}),
    ("healthy", {"shuffle_gap_later": 3.0}),
    # Too little for certain, and not for want of information.
    ("trivial use", {"useful_beyond": 0.1 * BELOW}),
    ("partly collapsed", {"useful_beyond": 0.1}),
    ("trivial use", LENGTH | {"length_entropy": math.log(1000)}),
    ("too few sentences", {"sentences": 1}),
    ("too few sentences", BLIND | {"sentences": 0, "kl": 9.0}),
    (
        "partly collapsed",
        {"sentences": 2, "kl": 60.0, "mutual_information": 0.3, "information_given_length": 0.1},
    ),
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
    ("saturated estimate", SHORT | {"information_given_length": CAP}),
    ("partly collapsed", SHORT | {"information_given_length": CAP * BELOW}),
    ("saturated estimate", SHORT | {"length_entropy": 4.0, "information_given_length": CAP - 2.4}),
    ("partly collapsed", SHORT | {"mutual_information": 6.0, "shuffle_gap": 6.0 * BELOW}),
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
    assert {expected for expected, _ in CASES} == VERDICTS.keys() - {"no latent"}
    assert VERDICTS.keys() - {"no latent"} <= ADVICE.keys()
    assert all(VERDICTS.values())
    assert all(ADVICE.values())


@pytest.mark.parametrize(
    ("expected", "upper"), [("prior holes", 2.0 * BELOW), ("healthy", 2.0), ("healthy", 4.0)]
)
def test_without_moments_the_most_that_z_tells_shows_prior_holes(expected, upper):
    told_at_most = {"mutual_information_upper": upper, "without": ("moment_kl", "active_units")}
    assert told(**told_at_most) == expected


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
    no_units = {name: value for name, value in (HEALTHY | changes).items() if "units" not in name}
    assert fooled(no_units | BLIND) == [name for name in names if name != "AU"]
