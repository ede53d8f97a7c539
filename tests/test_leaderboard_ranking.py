"""The order of a leaderboard's rows, their and the marks beside their values."""

import math
import random
import re

import pytest
from leaderboard_records import (
    entries_in,
    language_model,
    page_of,
    record,
    row_of,
    rows_in,
    rows_of,
    seeds_of,
)

from collapse_bench.leaderboard.columns import DIAGNOSTICS, MAIN, TOLD_OF_WHAT
from collapse_bench.leaderboard.ranking import TOLERANCE, ranked
from collapse_bench.metrics import key_of


def test_rows_are_ordered_by_the_headline_among_those_that_do_not_pay_for_it():
    records = [
        *(language_model(s) for s in (1, 2)),
        *seeds_of("dear", [9.0, 9.1], nll=103.5 + TOLERANCE + 0.01),
        *seeds_of("little", [0.5, 0.6]),
        *seeds_of("dearer", [9.5, 9.6], nll=110.0),
        *seeds_of("much", [2.5, 2.6], nll=103.5 + TOLERANCE, kl=1.0),
        *seeds_of("blind", [0.0, 0.1], kl=50.0, mutual_information=8.0, active_units=32),
        *(record("crashed", s, status="failed", levers=["step"]) for s in (1, 2)),
    ]
    expected = [
        *("language_model", "**NLL at most 1.0 nat above the language model**"),
        *("much", "little", "blind"),
        *("**NLL more than 1.0 nat above the language model**", "dearer", "dear"),
        *('**no gap to the language model or no "beyond" to rank by**', "crashed"),
    ]
    assert entries_in(page_of(records)) == expected
    random.Random(0).shuffle(records)
    assert entries_in(page_of(records)) == expected


def places(records):
    return {row.entry: row.place for group in ranked(rows_in(records)) for row in group.rows}


def test_ties_share_a_place_unless_the_paired_interval_is_above_zero():
    control = [language_model(s) for s in (1, 2, 3)]
    best, tied = [3.0, 4.0, 5.0], [2.8, 4.1, 4.7]
    told = places(
        [
            *control,
            *seeds_of("best", best),
            *seeds_of("tied", tied),
            # Within the spread of the seeds, but lower by the same amount in each of them.
            *seeds_of("third", [2.5, 3.5, 4.51]),
            *seeds_of("as_third", [2.4, 3.6, 4.3]),
            *seeds_of("dear", [9.0, 9.0, 9.0], nll=120.0),
            *seeds_of("single", [8.0]),
        ]
    )
    assert told == {
        **{"language_model": None, "dear": None, "single": None},
        **{"best": 1, "tied": 1, "third": 3, "as_third": 3},
    }


def test_a_row_that_beats_the_leader_wherever_both_finished_is_not_behind_it():
    control = [language_model(s) for s in (1, 2, 3)]
    lucky = seeds_of("lucky", [3.0, 4.0, 9.0])
    steady = seeds_of("steady", [4.0, 5.01, 0.0])[:2]
    assert places([*control, *lucky, *steady]) == {"language_model": None, "lucky": 1, "steady": 1}


def test_a_single_seed_and_a_missing_language_model_give_no_place_and_say_why():
    one = [language_model(), *seeds_of("a", [1.0]), *seeds_of("b", [2.0])]
    assert set(places(one).values()) == {None}
    assert "No places: a single seed" in page_of(one)
    none = [*seeds_of("a", [1.0, 1.0]), *seeds_of("b", [2.0, 2.0])]
    assert places(none) == {"b": None, "a": None}
    assert "No places: without a language model" in page_of(none)
    both = [*none, language_model(1), language_model(2)]
    assert places(both) == {"language_model": None, "b": 1, "a": 2}
    assert "No places" not in page_of(both)


def marked(**changes):
    """The columns of each table that carry a mark, as title -> marks."""
    changes = {"settings": {"evaluation": {"standard_error": 0.2}}} | changes
    page = page_of([language_model(), record("idea", levers=["build"], **changes), record()])
    assert not re.search("[§†‡¶]", "".join(row_of(page, "vae").values()))
    found = {}
    for columns in (MAIN, TOLD_OF_WHAT, DIAGNOSTICS):
        for title, text in row_of(page, "idea", columns).items():
            if signs := re.findall("[§†‡¶]", text):
                found[title] = "".join(signs)
    return found, page


def test_marks_say_what_a_value_is_worth():
    found, page = marked(by_construction=["kl", "active_units"])
    assert found == {"R": "§", "AU": "§"}
    assert "may be too high: such a row" not in page
    for mark in "§†‡¶":
        assert f"\n- {mark} " in page


@pytest.mark.parametrize(
    ("changes", "sign", "column"),
    [
        ({"nll_gain_of_doubling": 0.11}, "¶", "gain"),
        ({"nll_monte_carlo_error": 0.21}, "‡", "MC error"),
    ],
)
def test_what_rises_with_the_nll_is_marked_with_it_and_keeps_its_place(changes, sign, column):
    found, page = marked(**changes)
    raised = ("beyond", "useful", "NLL", "gap to LM", "U", column)
    assert found == dict.fromkeys(raised, sign)
    assert "may be too high: such a row keeps its place" in page
    controls = [language_model(s) for s in (1, 2)]
    rows = [*controls, *seeds_of("plain", [1.0, 1.01]), *seeds_of("marked", [2.0, 2.01], **changes)]
    assert places(rows) == {"language_model": None, "marked": 1, "plain": 2}


def test_a_minimum_is_saturated_where_what_z_tells_makes_it():
    # 0.6 ln 20 = 1.797
    assert marked(mutual_information=1.9, useful_rate=1.8)[0] == {"MI": "†"}
    both = {"MI": "†", "useful": "†"}
    assert marked(mutual_information=1.9, useful_rate=2.5)[0] == both
    assert marked(mutual_information=1.7, useful_rate=2.5)[0] == {}


def test_beyond_is_saturated_where_the_groups_of_one_length_are_too_small():
    # ln 20 - 1.5 = 1.496, of which 0.6 are 0.897.
    room = {"mutual_information": 1.7, "length_entropy": 1.5, "information_given_length": 0.9}
    parts = {"useful_rate": 3.0, "shuffle_gap": 3.0, "information_beyond": 0.9}
    given = {"MI given length": "†", "MI beyond": "†"}
    assert marked(**room, **parts)[0] == given | {"beyond": "†"}
    assert marked(**room, **parts | {"shuffle_gap": 0.5})[0] == given
    assert marked(**room | {"information_given_length": 0.89}, **parts)[0] == {}
    # Where no two sentences are of one length, nothing can be known beyond it.
    alone = {"length_entropy": math.log(20), "information_given_length": 0.0}
    assert "beyond" in marked(**room | alone, **parts | {"information_beyond": 0.0})[0]


def test_a_minimum_is_set_where_what_a_remedy_sets_makes_it():
    told = ["mutual_information", "information_given_length"]
    parts = {"mutual_information": 0.8, "information_given_length": 0.7, "information_beyond": 0.7}
    used = {"useful_rate": 1.0, "shuffle_gap": 1.0}
    marks = {"MI": "§", "MI given length": "§", "MI beyond": "§"}
    found = marked(by_construction=told, **parts, **used)[0]
    assert found == marks | {"useful": "§", "beyond": "§"}
    assert marked(by_construction=told, **parts, **used | {"useful_rate": 0.5})[0] == marks


def test_one_unsettled_seed_marks_the_row():
    records = [record(seed=1, nll_gain_of_doubling=0.15), record(seed=2, nll_gain_of_doubling=0.0)]
    assert row_of(page_of(records), "vae")["NLL"].endswith("¶")


def test_a_metric_of_another_version_is_no_number_and_is_listed():
    old = record()
    old["metrics"]["nll@0"] = old["metrics"].pop(key_of("nll"))
    old["metrics"]["retired@3"] = 1.0
    page = page_of([language_model(), old, record(seed=2)])
    row = row_of(page, "vae")
    assert row["NLL"] == "–"
    assert row["R"] == "0.10 ± 0.00"
    assert "### Cells scored by another version" in page
    assert "`python -m collapse_bench score --write arrays CELL`" in page
    assert ["vae-lstm-1-00c0ffee", "nll"] in rows_of(page)
    assert "Cells scored by another version" not in page_of([language_model(), record()])
