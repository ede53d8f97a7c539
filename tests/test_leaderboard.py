"""The leaderboard: a pure function of the records that hides nothing and cannot be written into."""

import copy
import math
import random
import re
import shlex

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from leaderboard_records import (
    entries_in,
    keys,
    language_model,
    names_of,
    page_of,
    record,
    row_of,
    rows_in,
    rows_of,
    section_of,
    sweep,
)

from collapse_bench.cli import build_parser
from collapse_bench.errors import UserError
from collapse_bench.leaderboard import write_leaderboard
from collapse_bench.leaderboard.columns import DIAGNOSTICS, MAIN, TOLD_OF_WHAT
from collapse_bench.leaderboard.markdown import escape
from collapse_bench.leaderboard.ranking import ranked
from collapse_bench.leaderboard.section import sections_of
from collapse_bench.leaderboard.table import diagnostics, main_table, told_of_what, unfinished
from collapse_bench.metrics import VERDICTS, key_of
from collapse_bench.record import read_published


def test_golden_table():
    records = [
        language_model(),
        record("vae", standard_errors={"nll": 0.7, "kl": 0.01}),
        record("word_dropout", levers=["build"], nll=103.25, kl=6.0, mutual_information=2.0),
        record("kl_annealing", levers=["objective"], status="diverged", error="bad\nNaN | loss"),
    ]
    groups = ranked(rows_in(records))
    squeezed = [re.sub(r" +", " ", line) for line in main_table(groups)]
    assert squeezed[:1] + squeezed[2:] == [
        "| place | entry | lever | verdict | beyond | useful | NLL | gap to LM | U | R | MI | AU"
        " | D |",
        "| – | language_model | – | no latent | – | – | 103.50 | – | – | – | – | – | 103.50 |",
        "| | **NLL at most 1.0 nat above the language model** | | | | | | | | | | | |",
        "| – | vae | – | collapsed | 0.03 | 0.04 | 104.00 (0.70) | +0.50 | 0.04 | 0.10 (0.01)"
        " | 0.05 – 0.06 | 0/32 | 104.00 |",
        "| – | word_dropout | build | collapsed | 0.03 | 0.04 | 103.25 | -0.25 | 0.04 | 6.00"
        " | 2.00 – 0.06 † | 0/32 | 104.00 |",
        '| | **no gap to the language model or no "beyond" to rank by** | | | | | | | | | | | |',
        "| – | kl_annealing | objective | diverged | – | – | – | – | – | – | – | – | – |",
    ]
    rows = [row for group in groups for row in group.rows]
    assert [re.sub(r" +", " ", line) for line in unfinished(rows)][2:] == [
        r"| kl_annealing | lstm | 1 | diverged | NaN \| loss |"
    ]
    row = row_of("\n".join(diagnostics(rows)), "vae", DIAGNOSTICS)
    assert row["ESS"] == "12.0 of 16.0"
    assert row["R + D"] == "104.10"
    assert row["updates"] == "1,234 / 1,234"
    assert row["AU by threshold"] == "–"
    row = row_of("\n".join(told_of_what(rows)), "vae", TOLD_OF_WHAT)
    assert row["MI of He 2019"] == "0.03"
    assert row["shuffle gap"] == row["MI given length"] == "–"


def test_golden_header():
    page = page_of([language_model(), record(), record(seed=2)])
    assert "## ptb, 50 types, 1,000 tokens a cell" in page
    assert [line for line in page.splitlines() if line.startswith("- ")][:10] == [
        "- Corpus: **ptb**, sha256 0123abcd (the known digest of this corpus); train / valid /"
        " test: 100 / 10 / 20 sentences, 2,000 / 200 / 400 tokens with end of sentence",
        "- Vocabulary: **50 types**, tokenizer words, `<unk>` in test: 1.25 %; NLL and perplexity"
        " under another vocabulary must not be compared with these",
        "- Budget: 1,000 decoded tokens a cell = 0.50 epochs of the training split",
        "- Converged: **0 of 3** finished cells gained less than 0.1 nats on validation, or lost,"
        " since three quarters of the budget; the others gained more or have too few validations to"
        " tell, so **their numbers are of this budget and not final**",
        "- Seeds: 1, 2; 3 of 3 cells finished",
        "- NLL: importance weighted, S = 16.0 draws a sentence (effective: 12.0);"
        " ceiling of MI: ln N = 3.00 nats",
        "- Sizes: hidden 8, latent 32",
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
    assert row["verdict"] == "collapsed"


def test_the_gap_is_to_the_same_architecture():
    records = [language_model(), record(architecture="transformer")]
    assert row_of(page_of(records), "vae")["gap to LM"] == "–"


def test_seeds_that_disagree_are_counted():
    page = page_of([record(seed=1), record(seed=2, verdict="healthy", useful_information=3.0)])
    assert row_of(page, "vae")["verdict"] == "collapsed 1/2, healthy 1/2"


def test_the_page_lists_the_verdicts_that_a_record_can_hold():
    page = page_of([record()])
    listed = re.findall(r"^- \*([a-z ]+)\*: ", page, re.MULTILINE)
    assert sorted([*listed, "inference collapse"]) == sorted(VERDICTS)
    legend = next(row for row in rows_of(page) if row[0] == "**verdict**")
    assert "*inference collapse*" in legend[3]
    assert "`python -m collapse_bench diagnose CELL`" in legend[3]


def test_nothing_that_failed_or_is_missing_disappears():
    expected = [("vae", "lstm", s) for s in (1, 2, 3)] + [("delta_vae", "lstm", 1)]
    page = page_of([record(), record(seed=2, status="killed", error=None)], expected)
    assert row_of(page, "vae")["verdict"] == "collapsed 1/3, killed 1/3, missing 1/3"
    assert row_of(page, "delta_vae")["verdict"] == "missing"
    assert row_of(page, "vae", DIAGNOSTICS)["ok/n"] == "1/3"
    assert row_of(page, "delta_vae", DIAGNOSTICS)["ok/n"] == "0/1"
    assert ["vae", "lstm", "2", "killed", "no error was recorded"] in rows_of(page)
    assert ["vae", "lstm", "3", "missing", "no record"] in rows_of(page)


def test_records_beyond_the_suite_are_shown():
    page = page_of([record(), record("old_idea", levers=["step"])], [("vae", "lstm", 1)])
    assert row_of(page, "old_idea", DIAGNOSTICS)["ok/n"] == "1/1"


def test_null_and_nan_are_never_a_number():
    changes = {"nll": math.nan, "kl": None, "cost": {}, "verdict": None}
    page = page_of([language_model(), record(**changes)])
    row = row_of(page, "vae")
    assert row["NLL"] == row["gap to LM"] == "not finite"
    assert row["R"] == row["place"] == "–"
    assert row_of(page, "vae", DIAGNOSTICS)["min"] == "–"
    assert row["verdict"] == "unknown"
    assert entries_in(page)[1].startswith("**no gap")


@pytest.mark.parametrize(
    "other",
    [
        {"budget": 2000, "suite_budget": 2000},
        {"corpus": {"sha256": "ffff"}.items()},
        {"corpus": {"vocabulary": {"types": 8, "tokenizer": "words"}}.items()},
        {"corpus": {"labels_sha256": "ffff"}.items()},
    ],
)
def test_corpora_and_budgets_never_mix(other):
    page = page_of([language_model(), record(), record("vae", nll=99.0, **other)], [])
    assert page.count("\n## ptb") == 2
    assert "2 combinations of corpus, digest, labels, vocabulary and budget" in page
    at = [column.title for column in MAIN].index("gap to LM")
    gaps = [row[at] for row in rows_of(page) if len(row) == len(MAIN) and row[1] == "vae"]
    assert sorted(gaps) == ["+0.50", "–"]


def parsed(text):
    """The command lines in a text, as the command line understands them."""
    commands = re.findall(r"`python -m collapse_bench ([^`]*)`", text.replace("\n", " "))
    return [build_parser().parse_args(shlex.split(command)) for command in commands]


def test_every_command_that_is_printed_can_be_typed(tmp_path):
    old = record()
    old["metrics"]["nll@0"] = old["metrics"].pop(key_of("nll"))
    told = parsed(page_of([language_model(), old]))
    assert {options.verb.__name__ for options in told} == {"leaderboard", "score", "diagnose"}
    assert [options.write for options in told if options.verb.__name__ == "score"] == ["arrays"]
    for records, verb in (([], "run"), ([record(schema=1)], "score")):
        with pytest.raises(UserError) as refused:
            write_leaderboard("tiny", [], records, tmp_path, {})
        (options,) = parsed(str(refused.value))
        assert options.verb.__name__ == verb
        assert getattr(options, "write", "model") == "model"


def test_what_z_tells_of_attributes_is_shown_where_they_are_known():
    known = record()
    known["metrics"] |= {
        key_of("information_about_topic"): 0.75,
        key_of("global_information_share"): 0.25,
    }
    page = page_of([language_model(), known])
    rows, _ = section_of(page, "What z tells of the known attributes: lstm")
    assert rows == [["entry", "share", "topic"], ["vae", "0.25", "0.75"]]
    assert "#### What z tells" not in page_of([record()])


@pytest.mark.parametrize(
    ("levers", "said"),
    [(["build"], "build"), (["build", "step"], "several"), (["<b>"], "?"), ([], "?")],
)
def test_the_lever_is_a_column(levers, said):
    page = page_of([record("idea", levers=levers, remedies=[{"name": "idea", "settings": {}}])])
    assert row_of(page, "idea")["lever"] == said


def test_a_cell_that_failed_early_takes_its_lever_from_its_siblings():
    failed = record("plugin", 9, status="failed", remedies=[{"name": "plugin", "settings": {}}])
    for records in ([record("plugin", levers=["step"]), failed], [failed]):
        levers = {row.lever for row in sections_of([], records)[0].rows}
        assert levers == {"step" if len(records) == 2 else "unknown"}


def test_the_same_records_in_any_order_give_the_same_bytes(tmp_path):
    records = [language_model(s) for s in (1, 2)] + [record(seed=s, kl=float(s)) for s in (1, 2)]
    records.append(record("word_dropout", architecture="transformer", levers=["build"], kl=9.0))
    records += sweep((1.0, 0.7, 103.0), (2.0, 1.5, 104.0), (150.0, 3.0, 106.0))
    expected, curves = keys(records), {"knob": names_of(records)}
    first = write_leaderboard("tiny", expected, records, tmp_path / "a", curves)
    random.Random(0).shuffle(records)
    write_leaderboard("tiny", expected, copy.deepcopy(records), tmp_path / "b", curves)
    assert first == tmp_path / "a" / "tiny.md"
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.*"))
    assert len(files) == 2 + len(records)
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert read_published(tmp_path / "a" / "tiny" / f"{records[0]['cell']}.json") == records[0]


def test_only_the_records_of_the_page_stay_beside_it(tmp_path):
    write_leaderboard("tiny", [], [record(), record(seed=2)], tmp_path, {})
    (tmp_path / "tiny" / "notes.json").write_text("{}")
    write_leaderboard("tiny", [], [record()], tmp_path, {})
    names = {path.name for path in (tmp_path / "tiny").iterdir()}
    assert names == {"vae-lstm-1-00c0ffee.json", "notes.json"}


def test_a_page_without_a_finished_cell_is_written(tmp_path):
    page = write_leaderboard("tiny", [], [record(status="failed", error="boom")], tmp_path, {})
    assert "no cell has finished" in page.read_text(encoding="utf-8")
    assert (tmp_path / "tiny.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ([], ["no records of suite 'tiny'", "collapse_bench run"]),
        (
            [record(schema=1)],
            ["vae-lstm-1-00c0ffee", "schema 1", "schemas 3 to 4", "--write model CELL"],
        ),
        (
            [record(schema=2)],
            ["vae-lstm-1-00c0ffee", "schema 2", "schemas 3 to 4", "--write model CELL"],
        ),
        ([record(schema=5)], ["schema 5", "use the version that wrote it"]),
        ([record(kl="0.1")], ["vae-lstm-1-00c0ffee", f"{key_of('kl')!r}", "'0.1'", "arrays CELL"]),
        ([record(nll=True)], ["vae-lstm-1-00c0ffee", f"{key_of('nll')!r}", "True"]),
        ([record(standard_errors={"kl": [1]})], ["standard error", f"{key_of('kl')!r}", "[1]"]),
        ([record(family="gamma")], ["'family'", "'gamma'", "normal, flow, sphere, codes, other"]),
        ([record(bound="fine")], ["'bound'", "'fine'", "valid, oracle, conditional, invalid"]),
        ([record(suite_budget=None)], ["'suite_budget'", "int", "None"]),
        ([record(corpus={"vocabulary": {"types": "5"}}.items())], ["'types'", "int", "'5'"]),
        ([record(seed=None)], ["vae-lstm-None-00c0ffee", "'seed'", "int"]),
        ([{**record(), "corpus": None}], ["'name'", "str"]),
        ([record(), record(cell="vae-lstm-1-00c0ffe0")], ["vae/lstm/1", "00c0ffe0", "remove"]),
        ([record(cell="../../vae-lstm-1-00c0ffee")], ["not a cell id"]),
    ],
)
def test_what_cannot_be_shown_is_refused(tmp_path, records, words):
    with pytest.raises(UserError) as refused:
        write_leaderboard("tiny", [], records, tmp_path, {})
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
        record(entry, architecture=architecture, corpus={"name": corpus}.items(), verdict=error),
        record(entry, 2, architecture, {"name": corpus}.items(), status, error=error),
    ]
    page = page_of(records)
    widths = {4, *map(len, (MAIN, TOLD_OF_WHAT, DIAGNOSTICS)), *([5] if status != "done" else [])}
    assert {len(row) for row in rows_of(page)} == widths
    for text in (entry, architecture, corpus, status, error):
        bare = re.sub(r"\\[\\|<>&\[\]()!`*~$#@:._]", " ", escape(text))
        assert not re.search(r"[|<>\[\]`*~$\\\x00-\x1f\u2028\u202e]|://|www\.", bare)
    assert len(page.split("\n")) == len(page.splitlines()) + 1


@pytest.mark.filterwarnings("ignore:Glyph")
@settings(max_examples=10, deadline=None)
@given(entry=NASTY)
def test_no_name_can_break_the_picture(tmp_path_factory, entry):
    cell = record(entry, cell="x-lstm-1-00c0ffee")
    write_leaderboard("tiny", [], [cell], tmp_path_factory.mktemp("out"), {entry: [entry]})


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


def test_a_number_given_neighbours_has_a_column_where_there_is_one():
    title = "R + D given neighbours"
    told = record("acn", levers=["build"], negative_elbo_given_neighbours=93.25)
    page = page_of([language_model(), record(), told])
    rows, _ = section_of(page, "Diagnostics: lstm")
    place = rows[0].index(title)
    assert {row[0]: row[place] for row in rows[1:]} == {
        "language_model": "–", "vae": "–", "acn": "93.25",
    }  # fmt: skip
    assert title in page.split("### Diagnostics")[-1]  # in the legend
    assert title not in page_of([language_model(), record()])
