"""The leaderboard: a pure function of the records that hides nothing and cannot be written into."""

import copy
import json
import math
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collapse_bench.errors import UserError
from collapse_bench.leaderboard import write_leaderboard
from collapse_bench.leaderboard.page import render
from collapse_bench.leaderboard.section import sections_of
from collapse_bench.leaderboard.statistics import Estimate, estimate, t_half_width
from collapse_bench.leaderboard.table import (
    COLUMNS,
    escape,
    number,
    shown,
    table,
    unfinished,
    verdict,
)

METRICS = {
    "nll": 104.0,
    "nll_samples": 16,
    "nll_monte_carlo_error": 0.125,
    "ess": 12.0,
    "negative_elbo": 104.1,
    "distortion": 104.0,
    "kl": 0.1,
    "mutual_information": 0.05,
    "mutual_information_upper": 0.06,
    "active_units": 0,
    "perplexity": 115.2,
}


def record(entry="vae", seed=1, architecture="lstm", corpus=(), status="done", **changes):
    """A finished record; metrics may be given by name."""
    metrics = METRICS | {name: changes.pop(name) for name in list(changes) if name in METRICS}
    levers = changes.pop("levers", [])
    return {
        "schema": 1,
        "suite": "tiny",
        "cell": f"{entry}-{architecture}-{seed}-00c0ffee",
        "entry": entry,
        "architecture": architecture,
        "seed": seed,
        "status": status,
        "error": None,
        "budget": 1000,
        "levers": levers,
        "settings": {
            "sizes": {"hidden": 8, "latent": 32},
            "training": {"batch": 32, "precision": "auto", "budget": 1000},
            "evaluation": {"samples": 32},
        },
        "corpus": {
            "name": "ptb",
            "requested": "ptb",
            "sha256": "0123abcd",
            "standard": True,
            "sentences": {"train": 100, "valid": 10, "test": 20},
            "tokens": {"train": 2000, "valid": 200, "test": 400},
            **dict(corpus),
        },
        "remedies": [{"name": entry, "settings": {}}] if levers else [],
        "latent": 32,
        "metrics": metrics if status == "done" else {},
        "standard_errors": {},
        "validation": {"negative_elbo": 104.0, "tokens": 900, "converged": False},
        "cost": {
            "seconds": 90.0,
            "tokens_decoded": 1_500_000,
            "encoder_updates": 1234,
            "decoder_updates": 1234,
        },
        "environment": {
            "collapse_bench": "0.1.0",
            "python": "3.11.9",
            "torch": "2.13.0",
            "device": "cpu",
            "threads": 1,
            "precision": {"training": "bfloat16", "evaluation": "float32"},
            "platform": "Linux",
            "commit": "79a4ff3",
        },
        **changes,
    }


def language_model(seed=1, **changes):
    changes = {"latent": 0, "kl": 0.0, "nll": 103.5, "distortion": 103.5} | changes
    return record("language_model", seed, **changes)


def keys(records):
    return [(r["entry"], r["architecture"], r["seed"]) for r in records]


def page_of(records, expected=None):
    return render("tiny", sections_of(expected or keys(records), records))


def rows_of(page):
    """The cells of every table line, split as GitHub splits them."""
    lines = [line for line in page.splitlines() if line.startswith("|")]
    return [[c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def row_of(page, entry):
    titles = [column.title for column in COLUMNS]
    cells = next(row for row in rows_of(page) if row[0] == entry and len(row) == len(titles))
    return dict(zip(titles, cells, strict=True))


def test_the_interval_is_students():
    # Quantiles of one and two degrees of freedom have closed forms.
    assert t_half_width([0.0, 2.0]) == pytest.approx(math.tan(math.pi * 0.475))
    quantile = 0.95 / math.sqrt(2 * 0.975 * 0.025)
    assert t_half_width([1.0, 2.0, 3.0]) == pytest.approx(quantile / math.sqrt(3))
    assert t_half_width([4.0, 4.0, 4.0]) == 0.0


def test_an_estimate_leaves_no_seed_out():
    assert estimate([]) is None
    assert estimate([1.0, None]) is None
    assert estimate([1.5], 0.2) == Estimate(1.5, 0.2, 1)
    assert shown(estimate([1.0, math.nan])) == "not finite"
    assert shown(estimate([1.0, 3.0], 0.2)) == "2.00 ± 12.71"
    assert shown(estimate([1.5], 0.25)) == "1.50 (0.25)"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (math.nan, "not finite"),
        (-math.inf, "not finite"),
        (-0.001, "0.00"),
        (1234.5, "1,234.50"),
    ],
)
def test_a_number_says_when_it_is_none(value, text):
    assert number(value) == text


def test_golden_table():
    records = [
        language_model(),
        record("vae", standard_errors={"nll": 0.7, "kl": 0.01}),
        record("word_dropout", levers=["build"], nll=103.25, kl=6.0, mutual_information=2.0),
        record("kl_annealing", levers=["objective"], status="diverged", error="bad\nNaN | loss"),
    ]
    section = sections_of(keys(records), records)[0]
    squeezed = [re.sub(r" +", " ", line) for line in table(section.rows)]
    assert squeezed[:1] + squeezed[2:] == [
        "| entry | verdict | NLL | gap to LM | R | MI | AU | D | R + D | ESS | MC error | PPL | min"
        " | Mtokens | updates | ok/n |",
        "| **controls** | | | | | | | | | | | | | | | |",
        "| language_model | no latent | 103.50 | – | – | – | – | 103.50 | 104.10"
        " | – | – | 115.2 | 1.5 | 1.50 | 1,234 / 1,234 | 1/1 |",
        "| vae | collapsed | 104.00 (0.70) | +0.50 | 0.10 (0.01) | 0.05 – 0.06 | 0/32 | 104.00"
        " | 104.10 | 12.0 of 16.0 | 0.12 | 115.2 | 1.5 | 1.50 | 1,234 / 1,234 | 1/1 |",
        "| **build (what the model is)** | | | | | | | | | | | | | | | |",
        "| word_dropout | not collapsed | 103.25 | -0.25 | 6.00 | 2.00 – 0.06 † | 0/32 | 104.00"
        " | 104.10 | 12.0 of 16.0 | 0.12 | 115.2 | 1.5 | 1.50 | 1,234 / 1,234 | 1/1 |",
        "| **objective (how much each term counts)** | | | | | | | | | | | | | | | |",
        "| kl_annealing | – | – | – | – | – | – | – | – | – | – | – | – | – | – | 0/1 |",
    ]
    assert [re.sub(r" +", " ", line) for line in unfinished(section.rows)][2:] == [
        r"| kl_annealing | lstm | 1 | diverged | NaN \| loss |"
    ]


def test_golden_header():
    page = page_of([language_model(), record(), record(seed=2)])
    assert "## ptb, 1,000 tokens a cell" in page
    assert [line for line in page.splitlines() if line.startswith("- ")][:9] == [
        "- Corpus: **ptb**, sha256 0123abcd (the known digest of this corpus); train / valid /"
        " test: 100 / 10 / 20 sentences, 2,000 / 200 / 400 tokens with end of sentence",
        "- Budget: 1,000 decoded tokens a cell = 0.50 epochs of the training split",
        "- Converged: **0 of 3** finished cells gained less than 0.1 nats on validation since three"
        " quarters of the budget; the others gained more or have too few validations to tell, so"
        " **their numbers are of this budget and not final**",
        "- Seeds: 1, 2; 3 of 3 cells finished",
        "- NLL: importance weighted, S = 16.0 draws a sentence (effective: 12.0);"
        " ceiling of MI: ln N = 3.00 nats",
        "- Sizes: hidden 8",
        "- Training: batch 32, precision auto",
        "- Evaluation: samples 32",
        "- Machine: cpu, products in bfloat16 in training and float32 in evaluation, threads: 1,"
        " Linux; collapse_bench 0.1.0 (commit 79a4ff3), Python 3.11.9, torch 2.13.0",
    ]
    assert "ASKED FOR" not in page


def test_a_stand_in_corpus_is_never_shown_as_the_one_asked_for():
    page = page_of([record(corpus={"name": "newswire", "global_information": 5.25}.items())])
    assert "> **PTB WAS ASKED FOR AND NOT FOUND: every number below is of newswire" in page
    assert "## newswire" in page
    assert "## ptb" not in page
    assert "known exactly: 5.25 nats" in page


def test_an_unknown_digest_is_called_one():
    assert "not a digest known to the bench" in page_of(
        [record(corpus={"standard": False}.items())]
    )


def test_several_seeds_give_an_interval_over_seeds_and_paired_gaps():
    records = [language_model(s, nll=100.0 + s) for s in (1, 2)]
    records += [record(seed=s, nll=101.0 + s, standard_errors={"nll": 0.7}) for s in (1, 2)]
    row = row_of(page_of(records), "vae")
    assert row["NLL"] == "102.50 ± 6.35"
    assert row["gap to LM"] == "+1.00 ± 0.00"
    assert row["AU"] == "(0.0 ± 0.0)/32"
    assert row["ok/n"] == "2/2"


def test_the_gap_is_to_the_same_architecture():
    records = [language_model(), record(architecture="transformer")]
    assert row_of(page_of(records), "vae")["gap to LM"] == "–"


@pytest.mark.parametrize(
    ("kl", "information", "said"),
    [
        (0.49, 0.4, "collapsed"),
        (3.2, 0.04, "rate without information"),
        (3.2, 2.0, "not collapsed"),
        (math.nan, 2.0, "unknown"),
        (3.2, None, "unknown"),
    ],
)
def test_the_verdict_follows_its_rule(kl, information, said):
    assert verdict(record(kl=kl, mutual_information=information)) == said


def test_seeds_that_disagree_are_counted():
    row = row_of(page_of([record(seed=1), record(seed=2, kl=3.0)]), "vae")
    assert row["verdict"] == "collapsed 1/2, rate without information 1/2"


def test_nothing_that_failed_or_is_missing_disappears():
    expected = [("vae", "lstm", s) for s in (1, 2, 3)] + [("delta_vae", "lstm", 1)]
    page = page_of([record(), record(seed=2, status="killed", error=None)], expected)
    assert row_of(page, "vae")["ok/n"] == "1/3"
    assert row_of(page, "delta_vae")["ok/n"] == "0/1"
    assert ["vae", "lstm", "2", "killed", "no error was recorded"] in rows_of(page)
    assert ["vae", "lstm", "3", "missing", "no record"] in rows_of(page)


def test_records_beyond_the_suite_are_shown():
    page = page_of([record(), record("old_idea", levers=["step"])], [("vae", "lstm", 1)])
    assert row_of(page, "old_idea")["ok/n"] == "1/1"


def test_null_and_nan_are_never_a_number():
    row = row_of(page_of([language_model(), record(nll=math.nan, kl=None, cost={})]), "vae")
    assert row["NLL"] == row["gap to LM"] == "not finite"
    assert row["R"] == row["min"] == "–"
    assert row["verdict"] == "unknown"


@pytest.mark.parametrize("other", [{"budget": 2000}, {"corpus": {"sha256": "ffff"}.items()}])
def test_corpora_and_budgets_never_mix(other):
    page = page_of([language_model(), record(), record("vae", nll=99.0, **other)], [])
    assert page.count("\n## ptb") == 2
    assert "2 combinations of corpus, digest and budget" in page
    gaps = [row[3] for row in rows_of(page) if row[0] == "vae" and len(row) == len(COLUMNS)]
    assert sorted(gaps) == ["+0.50", "–"]


def test_levers_group_the_rows():
    records = [
        record("chain", levers=["build", "objective"]),
        record("plugin", levers=[], remedies=[{"name": "plugin", "settings": {}}]),
        record("stepper", levers=["step"]),
        record("vae"),
        language_model(),
    ]
    first = [row[0] for row in rows_of(page_of(records)) if len(row) == len(COLUMNS)][2:]
    names = ["language_model", "vae", "stepper", "chain", "plugin"]
    assert [name for name in first if not name.startswith("**")] == names


def test_a_cell_that_failed_early_takes_its_lever_from_its_siblings():
    failed = record("plugin", 9, status="failed", remedies=[{"name": "plugin", "settings": {}}])
    for records in ([record("plugin", levers=["step"]), failed], [failed]):
        kinds = {row.kind for row in sections_of([], records)[0].rows}
        assert kinds == {"step" if len(records) == 2 else "unknown"}


def test_the_same_records_in_any_order_give_the_same_bytes(tmp_path):
    records = [language_model(s) for s in (1, 2)] + [record(seed=s, kl=float(s)) for s in (1, 2)]
    records.append(record("word_dropout", architecture="transformer", levers=["build"], kl=9.0))
    expected = keys(records)
    first = write_leaderboard("tiny", expected, records, tmp_path / "a")
    random.Random(0).shuffle(records)
    write_leaderboard("tiny", expected, copy.deepcopy(records), tmp_path / "b")
    assert first == tmp_path / "a" / "tiny.md"
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.*"))
    assert len(files) == 2 + len(records)
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    copied = json.loads((tmp_path / "a" / "tiny" / f"{records[0]['cell']}.json").read_text())
    assert copied == records[0]


def test_only_the_records_of_the_page_stay_beside_it(tmp_path):
    write_leaderboard("tiny", [], [record(), record(seed=2)], tmp_path)
    (tmp_path / "tiny" / "notes.json").write_text("{}")
    write_leaderboard("tiny", [], [record()], tmp_path)
    names = {path.name for path in (tmp_path / "tiny").iterdir()}
    assert names == {"vae-lstm-1-00c0ffee.json", "notes.json"}


def test_a_page_without_a_finished_cell_is_written(tmp_path):
    page = write_leaderboard("tiny", [], [record(status="failed", error="boom")], tmp_path)
    assert "no cell has finished" in page.read_text(encoding="utf-8")
    assert (tmp_path / "tiny.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ([], ["no records of suite 'tiny'", "collapse_bench run"]),
        ([record(schema=7)], ["vae-lstm-1-00c0ffee", "schema 7", "schema 1"]),
        ([record(seed=None)], ["vae-lstm-None-00c0ffee", "'seed'", "int"]),
        ([{**record(), "corpus": None}], ["'name'", "str"]),
        ([record(), record(cell="vae-lstm-1-00c0ffe0")], ["vae/lstm/1", "00c0ffe0", "remove"]),
        ([record(cell="../../vae-lstm-1-00c0ffee")], ["not a cell id"]),
    ],
)
def test_what_cannot_be_shown_is_refused(tmp_path, records, words):
    with pytest.raises(UserError) as refused:
        write_leaderboard("tiny", [], records, tmp_path)
    assert all(word in str(refused.value) for word in words)
    assert not list(tmp_path.rglob("*"))


NASTY = st.one_of(
    st.text(max_size=30),
    st.text(alphabet="|\\`<>[]()!&*_~$#\n\r\u2028\u202ea:/.w", max_size=30),
    st.sampled_from(["![x](http://a.b)", "<img src=x>", "a\\|b", "`|`", "www.a.b", "|\n|-|\n"]),
)


@settings(max_examples=150, deadline=None)
@given(entry=NASTY, architecture=NASTY, corpus=NASTY, status=NASTY, error=NASTY)
def test_no_name_can_change_the_table(entry, architecture, corpus, status, error):
    records = [
        record(entry, architecture=architecture, corpus={"name": corpus}.items()),
        record(entry, 2, architecture, {"name": corpus}.items(), status, error=error),
    ]
    page = page_of(records)
    widths = {len(COLUMNS), 3} | ({5} if status != "done" else set())
    assert {len(row) for row in rows_of(page)} == widths
    for text in (entry, architecture, corpus, status):
        bare = re.sub(r"\\[\\|<>&\[\]()!`*~$#@:._]", " ", escape(text))
        assert not re.search(r"[|<>\[\]`*~$\\\x00-\x1f\u2028\u202e]|://|www\.", bare)
    assert len(page.split("\n")) == len(page.splitlines()) + 1


@pytest.mark.filterwarnings("ignore:Glyph")
@settings(max_examples=10, deadline=None)
@given(entry=NASTY)
def test_no_name_can_break_the_picture(tmp_path_factory, entry):
    cell = record(entry, cell="x-lstm-1-00c0ffee")
    write_leaderboard("tiny", [], [cell], tmp_path_factory.mktemp("out"))


def test_every_entry_is_told_with_all_its_settings():
    remedies = [
        {"name": "cyclical_annealing", "settings": {"cycles": 4, "ramp": 0.5}},
        {"name": "word_dropout", "settings": {"rate": 0.25}},
    ]
    page = page_of([language_model(), record(), record("both", remedies=remedies)])
    assert "- language\\_model: no remedy and no latent" in page.replace("language_", "language\\_")
    assert "- vae: no remedy\n" in page
    assert (
        "- both: cyclical_annealing (cycles = 4, ramp = 0.5), then word_dropout (rate = 0.25)"
        in page
    )
