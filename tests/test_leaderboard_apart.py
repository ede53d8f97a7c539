"""What a leaderboard shows apart, or with a mark: no bounds, own budgets, metrics that are none."""

import re

import pytest
from leaderboard_records import (
    METRICS,
    entries_in,
    keys,
    language_model,
    names_of,
    page_of,
    record,
    row_of,
    rows_in,
    section_of,
    seeds_of,
    sweep,
)

from collapse_bench.leaderboard import columns, section, table, write_leaderboard
from collapse_bench.leaderboard.columns import DIAGNOSTICS, MAIN, TOLD_OF_WHAT
from collapse_bench.leaderboard.ranking import NO_BOUND, TOLD, ranked
from collapse_bench.leaderboard.section import sections_of

CHEAT = {"bound": "invalid", "bound_reasons": ["the decoder sees what it has to predict"]}
PEEK = {"bound": "conditional", "bound_reasons": ["the prior looks at the sentence"]}
ORACLE = {"bound": "oracle", "bound_reasons": ["the length of the sentence"]}
SEEDS = (1, 2)


def suite():
    """An honest suite of two seeds."""
    return [
        *(language_model(s) for s in SEEDS),
        *(record(seed=s) for s in SEEDS),
        *seeds_of("honest", [2.0, 2.1]),
    ]


def told_length(seed=1, **changes):
    """A language model that the suite tells the length."""
    told = language_model(seed, **ORACLE | {"nll": 101.0} | changes)
    remedies = [{"name": "told_length", "settings": {}}]
    cell = f"told_length-lstm-{seed}-00c0ffee"
    return told | {"entry": "told_length", "cell": cell, "remedies": remedies, "levers": ["build"]}


def test_what_is_no_bound_is_shown_at_the_end_with_its_reason_and_compared_with_nothing():
    apart = [
        *seeds_of("cheat", [50.0, 50.0], nll=10.0, verdict="healthy", **CHEAT),
        *seeds_of("peek", [40.0, 40.0], nll=30.0, verdict="healthy", **PEEK),
    ]
    told = [told_length(s) for s in SEEDS]
    page = page_of([*apart, *told, *suite()])
    assert entries_in(page) == [
        *("language_model", "**NLL at most 1.0 nat above the language model**", "honest", "vae"),
        *(f"**{TOLD}**", "told_length ⊘", f"**{NO_BOUND}**", "cheat ⊘", "peek ⊘"),
    ]
    row = row_of(page, "cheat ⊘")
    assert (row["place"], row["gap to LM"], row["verdict"]) == ("–", "–", "no bound")
    assert row_of(page, "peek ⊘")["verdict"] == "conditional"
    row = row_of(page, "told_length ⊘")
    assert (row["place"], row["verdict"], row["beyond"]) == ("–", "told in advance", "–")
    assert row["gap to LM"] == "-2.50 ± 0.00"
    assert "\n- cheat ⊘ (seeds 1, 2): no bound: the decoder sees what it has to predict\n" in page
    assert "\n- told_length ⊘ (seeds 1, 2): told in advance: the length of the sentence\n" in page
    assert "12 of 12 cells finished, **6 of them shown apart (⊘)" in page
    assert "**0 of 6** finished cells gained" in page
    differences, _ = section_of(page, "Against the plain VAE: lstm")
    assert [line[0] for line in differences[1:]] == ["honest"]


def test_nothing_that_is_apart_changes_a_number_of_the_others():
    numbers = ("place", "beyond", "NLL", "gap to LM")
    apart = [*seeds_of("cheat", [50.0, 50.0], nll=10.0, **CHEAT), *(told_length(s) for s in SEEDS)]
    pages = [page_of(suite()), page_of([*apart, *suite()])]
    for entry in ("language_model", "vae", "honest"):
        first, second = (row_of(page, entry) for page in pages)
        assert [first[n] for n in numbers] == [second[n] for n in numbers]
    part = [section_of(page, "Against the plain VAE: lstm") for page in pages]
    assert part[0] == part[1]


def test_one_cell_that_is_no_bound_takes_its_row_apart():
    broken = [record(seed=1), record(seed=2, verdict="healthy", **CHEAT), record(seed=3)]
    page = page_of([*suite()[:2], *suite()[4:], *broken])
    assert row_of(page, "vae ⊘")["verdict"] == "collapsed 2/3, no bound 1/3"
    assert "- vae ⊘ (seed 2): no bound: the decoder sees" in page
    assert "No differences to the plain VAE" in page


@pytest.mark.parametrize("bound", [CHEAT, PEEK, ORACLE])
def test_a_language_model_that_is_none_is_nobodys_reference(bound):
    controls = [language_model(1, **bound), language_model(2)]
    page = page_of([*controls, *seeds_of("honest", [2.0, 2.1])])
    assert row_of(page, "honest")["gap to LM"] == "–"
    assert row_of(page, "language_model ⊘")["NLL"] == "103.50 ± 0.00"
    assert "No language model control has a valid record" in page
    assert "No places: without a language model" in page


def test_the_reference_is_the_language_model_that_is_told_nothing():
    rows = rows_in([told_length(), language_model(), record()])
    assert {row.language_model[1]["entry"] for row in rows} == {"language_model"}


def test_an_oracle_that_failed_is_no_language_model():
    failed = told_length(status="failed")
    (group,) = [g for g in ranked(rows_in([failed, language_model(), record()])) if g.title == TOLD]
    assert [row.entry for row in group.rows] == ["told_length"]


def test_a_page_of_which_nothing_can_be_compared_says_so():
    assert "every row with a result is shown apart" in page_of([record(**CHEAT)])
    assert "no cell has a result" in page_of([record(status="failed")])
    for page in (page_of(suite()), page_of([*suite(), told_length()])):
        assert "Nothing here can be compared" not in page


def test_tasks_and_curves_leave_out_what_is_apart():
    points = [(1.0, 0.75, 103.0), (2.0, 1.5, 104.0), (3.0, 2.0, 105.0), (4.0, 3.0, 106.0)]
    records = sweep(*points)
    records[3] |= CHEAT
    page = page_of([language_model(), *records], curves={"knob": names_of(records)})
    known, _ = section_of(page, "At the same rate")
    assert known[1] == ["knob", "NLL", "–", "103.00", "104.00", "–", "–", "–"]
    tasks = []
    for architecture in ("lstm", "transformer"):
        tasks += [language_model(s, architecture=architecture) for s in SEEDS]
        tasks += [record("vae", s, architecture) for s in SEEDS]
        tasks += [record("cheat", s, architecture, levers=["step"], **CHEAT) for s in SEEDS]
    summary = page_of(tasks).split("## Over all 2 tasks")[1].split("\n#")[0]
    assert "| vae" in summary
    assert "cheat" not in summary


def test_the_picture_leaves_out_what_is_apart(tmp_path):
    honest = suite()
    cheats = seeds_of("cheat", [50.0, 50.0], nll=10.0, **CHEAT)
    for name, records in (("honest", honest), ("both", [*honest, *cheats])):
        write_leaderboard("tiny", keys(records), records, tmp_path / name, {})
    pictures = [(tmp_path / name / "tiny.png").read_bytes() for name in ("honest", "both")]
    assert pictures[0] == pictures[1]


def test_a_budget_of_its_own_stays_in_the_section_and_is_told():
    long = seeds_of("aggressive", [3.0, 3.1], budget=3000)
    page = page_of([*suite(), *long])
    assert page.count("\n## ptb, 50 types, 1,000 tokens a cell") == 1
    assert row_of(page, "aggressive ◊ 3,000 tokens")["place"] == "1"
    assert (
        "0.50 epochs of the training split; **budgets of their own (◊): aggressive 3,000**" in page
    )
    assert "Rows marked ◊ were trained with another number of tokens" in page
    for part in (TOLD_OF_WHAT, DIAGNOSTICS):
        assert row_of(page, "aggressive ◊", part)
    assert "◊" not in page_of(suite()).split("## How to read this")[0]


def test_cells_of_one_section_that_differ_in_their_settings_are_told():
    other = record("wide", settings={"sizes": {"hidden": 16}, "training": {}, "evaluation": {}})
    assert "- Sizes: hidden 8, 16 (**cells differ in hidden**)" in page_of([*suite(), other])


def test_labels_and_lengths_are_in_the_header():
    labelled = {"topic": {"train": 90, "valid": 9, "test": 18}, "style": {"test": 20}}
    page = page_of([record(length_entropy=2.5, corpus={"labelled": labelled}.items())])
    told = "- Labels, test sentences that carry one: style on 20 of 20, topic on 18 of 20"
    assert told in page
    assert (
        "- Entropy of the length in test: 2.50 nats; ceiling of MI given length: 0.50 nats" in page
    )
    assert "- Labels" not in page_of([record()])


def test_a_metric_that_a_family_does_not_have_leads_to_the_reason(monkeypatch):
    lacks = {"active_units": "every point is on the sphere", "dimension_kl": "no dimensions"}
    for module in (section, table):
        monkeypatch.setattr(module, "absent", {"sphere": lacks, "normal": {}}.__getitem__)
    ball = record("ball", family="sphere", levers=["build"])
    for name in [name for name in ball["metrics"] if name.startswith("active_units@")]:
        del ball["metrics"][name]
    page = page_of([language_model(), record(), ball])
    row = row_of(page, "ball", DIAGNOSTICS)
    assert row_of(page, "ball")["AU"] == row["dimension KL"] == row["AU by threshold"] == "– ∅"
    assert row["TC"] == row_of(page, "vae", DIAGNOSTICS)["dimension KL"] == "–"
    assert row_of(page, "language_model", DIAGNOSTICS)["dimension KL"] == "–"
    part = page.split("### Metrics that a family does not have")[1].split("\n#")[0]
    assert re.search(r"\| sphere +\| active_units +\| every point is on the sphere +\|", part)
    assert re.search(r"\| sphere +\| dimension_kl +\| no dimensions +\|", part)
    assert "Metrics that a family does not have\n" not in page_of([record()])


def test_one_test_sentence_gives_a_page_without_numbers():
    corpus = {"sentences": {"train": 100, "valid": 10, "test": 1}}.items()
    alone = record(verdict="too few sentences", corpus=corpus)
    alone["metrics"] = dict.fromkeys(alone["metrics"])
    page = page_of([alone])
    assert row_of(page, "vae")["verdict"] == "too few sentences"
    assert row_of(page, "vae")["beyond"] == "–"


def test_every_number_of_a_record_has_a_column():
    shown = {name for name in METRICS if name not in ("nll_samples", "mutual_information_upper")}
    told = " ".join(c.meaning for c in (*MAIN, *TOLD_OF_WHAT, *DIAGNOSTICS))
    meanings = {name: columns.METRICS[name].meaning.replace("|", r"\|") for name in shown}
    assert [name for name, meaning in meanings.items() if meaning not in told] == []


def test_the_bound_of_a_row_is_the_worst_of_the_seeds():
    seeds = [record(seed=1), record(seed=2, **PEEK), record(seed=3, **CHEAT)]
    for count, bound in ((1, "valid"), (2, "conditional"), (3, "invalid")):
        (row,) = sections_of([], seeds[:count])[0].rows
        assert row.bound == bound


def test_weights_of_before_four_fifths_of_the_budget_are_told_by_the_row():
    late, early = {"tokens": 800.0}, {"tokens": 505.0}
    steady = [record("steady", seed, validation=late) for seed in SEEDS]
    fallen = [record("fallen", s, validation=v) for s, v in zip(SEEDS, (late, early), strict=True)]
    page = page_of([*suite(), *steady, *fallen])
    assert {"steady", "fallen ◔ at 50 %"} <= set(entries_in(page))
    unknown = page_of([*suite(), record("old", validation={"tokens": None})])
    assert "old" in entries_in(unknown)
