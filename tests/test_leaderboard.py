"""The leaderboard: a pure function of the records that hides nothing and cannot be written into."""

import copy
import json
import math
import random
import re
import shlex

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from scipy import stats

from collapse_bench.cli import build_parser
from collapse_bench.errors import UserError
from collapse_bench.leaderboard import write_leaderboard
from collapse_bench.leaderboard.curves import curve_of, swept
from collapse_bench.leaderboard.figure import limits_of, limits_of_use, rate_panel, use_panel
from collapse_bench.leaderboard.markdown import escape, number, shown
from collapse_bench.leaderboard.page import render
from collapse_bench.leaderboard.ranking import TOLERANCE, ranked
from collapse_bench.leaderboard.section import sections_of
from collapse_bench.leaderboard.statistics import (
    Estimate,
    bca_interval,
    estimate,
    holm,
    interquartile_interval,
    interquartile_mean,
    probability_of_improvement,
    sign_flip_p,
    t_interval,
)
from collapse_bench.leaderboard.table import DIAGNOSTICS, MAIN, diagnostics, main_table, unfinished
from collapse_bench.metrics import VERDICTS, key_of

METRICS = {
    "nll": 104.0,
    "nll_samples": 16,
    "nll_monte_carlo_error": 0.125,
    "nll_gain_of_doubling": 0.05,
    "ess": 12.0,
    "negative_elbo": 104.1,
    "distortion": 104.0,
    "kl": 0.1,
    "useful_rate": 0.04,
    "useful_information": 0.04,
    "mutual_information": 0.05,
    "mutual_information_upper": 0.06,
    "mutual_information_he2019": 0.03,
    "active_units": 0,
    "perplexity": 115.2,
}


def record(entry="vae", seed=1, architecture="lstm", corpus=(), status="done", **changes):
    """A finished record; metrics may be given by name."""
    metrics = METRICS | {name: changes.pop(name) for name in list(changes) if name in METRICS}
    errors = changes.pop("standard_errors", {})
    levers = changes.pop("levers", [])
    return {
        "schema": 2,
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
        "metrics": {key_of(n): v for n, v in metrics.items()} if status == "done" else {},
        "standard_errors": {key_of(name): value for name, value in errors.items()},
        "by_construction": [],
        "verdict": "collapsed" if status == "done" else None,
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
    changes = {"useful_rate": 0.0, "useful_information": 0.0, "verdict": "no latent"} | changes
    return record("language_model", seed, **changes)


def keys(records):
    return [(r["entry"], r["architecture"], r["seed"]) for r in records]


def page_of(records, expected=None, curves=()):
    return render("tiny", sections_of(expected or keys(records), records), dict(curves))


def rows_of(page):
    """The cells of every table line, split as GitHub splits them."""
    lines = [line for line in page.splitlines() if line.startswith("|")]
    return [[c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def row_of(page, entry, columns=MAIN):
    titles = [column.title for column in columns]
    at = titles.index("entry")
    cells = next(r for r in rows_of(page) if len(r) == len(titles) and r[at] == entry)
    return dict(zip(titles, cells, strict=True))


def rows_in(records):
    """The rows of the only architecture of the only section."""
    return sections_of(keys(records), records)[0].rows


def entries_in(page):
    """The first entries of the main tables, with the lines above groups."""
    at = [column.title for column in MAIN].index("entry")
    return [row[at] for row in rows_of(page) if len(row) == len(MAIN)][2:]


def seeds_of(entry, useful, nll=104.0, **changes):
    """A finished record for each value of useful information."""
    return [
        record(entry, seed, useful_information=value, nll=nll, levers=["step"], **changes)
        for seed, value in enumerate(useful, 1)
    ]


def test_the_interval_of_few_seeds_is_students():
    # Quantiles of one and two degrees of freedom have closed forms.
    low, high = t_interval([0.0, 2.0])
    assert (high - low) / 2 == pytest.approx(math.tan(math.pi * 0.475))
    assert (high + low) / 2 == 1.0
    quantile = 0.95 / math.sqrt(2 * 0.975 * 0.025)
    assert t_interval([1.0, 2.0, 3.0])[1] == pytest.approx(2 + quantile / math.sqrt(3))
    assert t_interval([4.0, 4.0, 4.0]) == (4.0, 4.0)


def test_from_ten_seeds_on_the_interval_is_bootstrapped():
    values = [float(v) for v in np.random.default_rng(0).exponential(size=10)]
    nine, ten = estimate(values[:9]), estimate(values)
    assert nine.interval == t_interval(values[:9])
    assert ten.interval == bca_interval(values) != t_interval(values)
    assert "±" in shown(nine)
    assert shown(ten).endswith("]")


def test_bca_follows_the_skew_and_tends_to_students():
    many = np.random.default_rng(1).normal(size=400)
    np.testing.assert_allclose(bca_interval(many), t_interval(many), atol=0.01)
    low, high = bca_interval([*np.linspace(0, 1, 11), 9.0])
    assert high - 14.5 / 12 > 14.5 / 12 - low > 0
    assert bca_interval([2.5] * 10) == (2.5, 2.5)


def test_bca_corrects_bias_and_acceleration():
    values = np.array([*np.linspace(0, 1, 11), 9.0])
    means = np.random.default_rng(3).choice(values, (40_000, len(values))).mean(axis=1)
    bias = stats.norm.ppf((means < values.mean()).mean())
    skew = values - values.mean()
    acceleration = (skew**3).sum() / (6 * (skew**2).sum() ** 1.5)
    corrected = bias + stats.norm.ppf([0.025, 0.975])
    levels = stats.norm.cdf(bias + corrected / (1 - acceleration * corrected))
    assert levels[0] > 0.03  # far from the 0.025 of the plain percentiles
    np.testing.assert_allclose(bca_interval(values), np.quantile(means, levels), rtol=0.05)


def test_an_estimate_leaves_no_seed_out():
    assert estimate([]) is None
    assert estimate([1.0, None]) is None
    assert estimate([1.5], 0.2) == Estimate(1.5, 1, error=0.2)
    assert shown(estimate([1.0, math.nan])) == "not finite"
    assert shown(estimate([1.0, 3.0], 0.2)) == "2.00 ± 12.71"
    assert shown(estimate([1.5], 0.25)) == "1.50 (0.25)"
    assert not estimate([1.5]).above_zero
    assert not estimate([1.0, 3.0]).above_zero
    assert not estimate([0.0, 0.0]).above_zero
    assert not estimate([-1.0, -1.1]).above_zero
    assert estimate([1.0, 1.1]).above_zero


def test_a_sign_flip_test_of_n_seeds_ends_at_2_to_the_1_minus_n():
    assert sign_flip_p([3.0]) == 1.0
    assert sign_flip_p([5.0, 4.0]) == 0.5
    assert sign_flip_p([-0.1] * 6) == 2.0**-5
    assert sign_flip_p([0.0, 0.0, 0.0]) == 1.0
    # The eight sums of +-1 +-2 +-4 are 7, 5, 3 and 1 from 0, two each.
    assert sign_flip_p([1.0, 2.0, -4.0]) == 1.0
    assert sign_flip_p([1.0, -2.0, 4.0]) == 0.75
    for broken in ([], [1.0, math.nan]):
        with pytest.raises(ValueError, match="finite"):
            sign_flip_p(broken)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(-9, 9).map(lambda x: round(x, 2)), min_size=2, max_size=8))
def test_the_sign_flip_test_is_scipys(differences):
    # Rounding, so that equal sums are equal in either order of addition.
    told = stats.permutation_test(
        (np.array(differences),),
        lambda x: round(abs(float(x.sum())), 6),
        permutation_type="samples",
        alternative="greater",
        vectorized=False,
        n_resamples=np.inf,
    )
    assert sign_flip_p(differences) == pytest.approx(told.pvalue)


def test_many_seeds_are_flipped_at_random_and_always_the_same_way():
    differences = np.random.default_rng(2).normal(0.5, 1, 40)
    p = sign_flip_p(differences)
    assert p == sign_flip_p(differences)
    assert p == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, rel=0.3)
    assert sign_flip_p([1.0] * 40) == 2.0**-14


def test_holm_by_hand():
    assert holm([]) == []
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.5, 0.001]) == pytest.approx([1.0, 1.0, 0.003])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_lies_between_no_correction_and_bonferronis(p):
    adjusted = holm(p)
    assert all(a <= b <= min(1, len(p) * a) + 1e-12 for a, b in zip(p, adjusted, strict=True))
    assert holm(p[::-1]) == adjusted[::-1]


def test_the_interquartile_mean_leaves_out_a_quarter_at_either_end():
    assert interquartile_mean([[-100.0, 1.0], [2.0, 100.0]]) == 1.5
    assert interquartile_mean([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 80.0]]) == 4.5
    assert interquartile_mean([[7.0]]) == 7.0


def test_its_interval_resamples_seeds_within_their_task():
    assert interquartile_interval([[1.0], [2.0, 3.0]]) is None
    assert interquartile_interval([[1.0, 1.0], [9.0, 9.0]]) == (5.0, 5.0)
    # Every resample keeps two of each task: the middle two are the larger and the smaller of them.
    assert interquartile_interval([[1.0, 2.0], [11.0, 12.0]]) == (6.0, 7.0)
    assert interquartile_interval([[0.0] * 7 + [1000.0], [0.0] * 8]) == (0.0, 0.0)


def test_probability_of_improvement_counts_ties_half():
    x, y = [1.0, 2.0, 3.0], [2.0, 0.0]
    u = stats.mannwhitneyu(x, y).statistic / 6
    assert probability_of_improvement([(x, y)]) == pytest.approx(u)
    assert probability_of_improvement([(x, y), (y, x)]) == 0.5
    assert probability_of_improvement([([1.0], [0.0]), ([1.0], [1.0])]) == 0.75


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
    groups = ranked(rows_in(records))
    squeezed = [re.sub(r" +", " ", line) for line in main_table(groups)]
    assert squeezed[:1] + squeezed[2:] == [
        "| place | entry | lever | verdict | useful information | NLL | gap to LM | U | R | MI"
        " | MI of He 2019 | AU | effective units | D |",
        "| – | language_model | – | no latent | – | 103.50 | – | – | – | – | – | – | – | 103.50 |",
        "| | **NLL at most 1.0 nat above the language model** | | | | | | | | | | | | |",
        "| – | vae | – | collapsed | 0.04 | 104.00 (0.70) | +0.50 | 0.04 | 0.10 (0.01)"
        " | 0.05 – 0.06 | 0.03 | 0/32 | – | 104.00 |",
        "| – | word_dropout | build | collapsed | 0.04 | 103.25 | -0.25 | 0.04 | 6.00"
        " | 2.00 – 0.06 † | 0.03 | 0/32 | – | 104.00 |",
        "| | **no gap to the language model, or no useful information, to rank by** | | | | | | | |"
        " | | | | |",
        "| – | kl_annealing | objective | diverged | – | – | – | – | – | – | – | – | – | – |",
    ]
    rows = [row for group in groups for row in group.rows]
    assert [re.sub(r" +", " ", line) for line in unfinished(rows)][2:] == [
        r"| kl_annealing | lstm | 1 | diverged | NaN \| loss |"
    ]
    row = row_of("\n".join(diagnostics(rows)), "vae", DIAGNOSTICS)
    assert row["ESS"] == "12.0 of 16.0"
    assert row["R + D"] == "104.10"
    assert row["updates"] == "1,234 / 1,234"
    assert row["shuffle gap"] == row["AU by threshold"] == "–"


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


@pytest.mark.parametrize("other", [{"budget": 2000}, {"corpus": {"sha256": "ffff"}.items()}])
def test_corpora_and_budgets_never_mix(other):
    page = page_of([language_model(), record(), record("vae", nll=99.0, **other)], [])
    assert page.count("\n## ptb") == 2
    assert "2 combinations of corpus, digest and budget" in page
    at = [column.title for column in MAIN].index("gap to LM")
    gaps = [row[at] for row in rows_of(page) if len(row) == len(MAIN) and row[1] == "vae"]
    assert sorted(gaps) == ["+0.50", "–"]


def test_rows_are_ordered_by_useful_information_among_those_that_do_not_pay_for_it():
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
        *("**no gap to the language model, or no useful information, to rank by**", "crashed"),
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
    for columns in (MAIN, DIAGNOSTICS):
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
    raised = ("useful information", "NLL", "gap to LM", "U", column)
    assert found == dict.fromkeys(raised, sign)
    assert "may be too high: such a row keeps its place" in page
    controls = [language_model(s) for s in (1, 2)]
    rows = [*controls, *seeds_of("plain", [1.0, 1.01]), *seeds_of("marked", [2.0, 2.01], **changes)]
    assert places(rows) == {"language_model": None, "marked": 1, "plain": 2}


def test_the_headline_is_saturated_where_mutual_information_makes_it():
    # 0.6 ln 20 = 1.797
    assert marked(mutual_information=1.9, useful_rate=1.8)[0] == {"MI": "†"}
    both = {"MI": "†", "useful information": "†"}
    assert marked(mutual_information=1.9, useful_rate=2.5)[0] == both
    assert marked(mutual_information=1.7, useful_rate=2.5)[0] == {}


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


def section_of(page, title):
    """The table rows of a part of the page, without its heads."""
    part = page.split(f"#### {title}")[1].split("\n#")[0]
    return [row for row in rows_of(part) if not row[0].startswith("-")], part


def test_differences_to_the_plain_vae_are_paired_and_adjusted():
    records = [
        *(language_model(s) for s in (1, 2)),
        *(record("vae", s, useful_information=0.1 * s, nll=104.0 + s) for s in (1, 2)),
        *(record("a", s, useful_information=1 + 0.1 * s, nll=103.5 + s, levers=["step"])
          for s in (1, 2)),
        *(record("b", s, useful_information=0.3 * s, nll=104.0 + s, levers=["step"])
          for s in (1, 2, 3)),
        *(record("c", s, status="failed", levers=["step"]) for s in (1, 2)),
    ]  # fmt: skip
    rows, part = section_of(page_of(records), "Against the plain VAE: lstm")
    assert rows[1:] == [
        ["a", "2", "+1.00 ± 0.00", "0.500", "1.000", "-0.50 ± 0.00", "0.500", "1.000"],
        ["b", "2", "+0.30 ± 1.27", "0.500", "1.000", "+0.00 ± 0.00", "1.000", "1.000"],
    ]
    assert "no p is below 2^(1-n) = 0.5" in part
    assert "too few seeds for any difference to be significant" in part


def test_the_page_says_what_the_seeds_can_show():
    def said(seeds, others):
        names = [f"e{i}" for i in range(others)]
        records = [record("vae", s) for s in range(seeds)]
        records += [record(n, s, levers=["step"]) for n in names for s in range(seeds)]
        return section_of(page_of(records), "Against the plain VAE: lstm")[1]

    assert "too few seeds for any" in said(5, 1)
    assert "too few seeds" not in said(6, 1)
    assert "2^(1-n) = 0.0312, which after Holm's correction for m = 2 is 0.0625" in said(6, 2)
    assert "too few seeds for a difference to stay significant" in said(6, 2)
    assert "#### Against the plain VAE" not in page_of([language_model(), record()])


def test_several_tasks_are_summed_up_and_one_is_not():
    def of(architecture, shift):
        return [
            *(language_model(s, architecture=architecture, nll=103.5 - shift / 8) for s in (1, 2)),
            *(record("vae", s, architecture, useful_information=shift + s) for s in (1, 2)),
            *(record("dear", s, architecture, useful_information=9.0, nll=110.0, levers=["step"])
              for s in (1, 2)),
            *(record("good", s, architecture, useful_information=shift + 1 + s, levers=["step"])
              for s in (1, 2)),
        ]  # fmt: skip

    lonely = record("half", levers=["step"], useful_information=5.0)
    page = page_of([*of("lstm", 0.0), *of("transformer", 2.0), lonely])
    rows = rows_of(page.split("## Over all 2 tasks")[1].split("\n#")[0])[2:]
    # vae has 1, 2 and 3, 4; good 2, 3 and 4, 5: it wins three of four pairs and ties in one.
    assert [row[:1] + row[2:] for row in rows] == [
        ["good", "0.88", "+0.75", "2 + 2"],
        ["vae", "–", "+0.75", "2 + 2"],
        ["dear", "1.00", "+6.75", "2 + 2"],
    ]
    assert [row[1].split(" ")[0] for row in rows] == ["3.50", "2.50", "9.00"]
    assert "## Over all" not in page_of(of("lstm", 0.0))


def parsed(text):
    """The command lines in a text, as the command line understands them."""
    commands = re.findall(r"`python -m collapse_bench ([^`]*)`", text.replace("\n", " "))
    return [build_parser().parse_args(shlex.split(command)) for command in commands]


def test_every_command_that_is_printed_can_be_typed(tmp_path):
    old = record()
    old["metrics"]["nll@0"] = old["metrics"].pop(key_of("nll"))
    told = parsed(page_of([language_model(), old]))
    assert {options.verb.__name__ for options in told} == {"_leaderboard", "_score", "_diagnose"}
    assert [options.write for options in told if options.verb.__name__ == "_score"] == ["arrays"]
    for records, verb in (([], "_run"), ([record(schema=1)], "_score")):
        with pytest.raises(UserError) as refused:
            write_leaderboard("tiny", [], records, tmp_path, {})
        (options,) = parsed(str(refused.value))
        assert options.verb.__name__ == verb
        assert getattr(options, "write", "model") == "model"


def sweep(*points, seed=1):
    """Finished records of a swept entry from (R, useful information, NLL)."""
    return [
        record(f"knob-{i}", seed, levers=["step"], **values)
        for i, (r, u, n) in enumerate(points)
        for values in [{"kl": r, "useful_information": u, "nll": n, "distortion": n - u}]
    ]


def names_of(records):
    return list(dict.fromkeys(r["entry"] for r in records if r["entry"].startswith("knob")))


def test_a_curve_goes_through_its_points_and_never_beyond():
    records = sweep((4.0, 3.0, 104.0), (1.0, 0.8, 103.0), (2.0, 1.5, 103.2), (9.0, 3.1, 107.0))
    curve = curve_of("knob", rows_in(records))
    assert curve.rates.tolist() == [1.0, 2.0, 4.0, 9.0]
    np.testing.assert_allclose(curve.at("nll", curve.rates), [103.0, 103.2, 104.0, 107.0])
    assert np.isnan(curve.at("nll", [0.99, 9.01, -1.0, 1e9])).all()
    path = curve.path()
    assert (path[0], path[-1]) == (1.0, 9.0)
    assert set(curve.rates) <= set(path)
    for name in ("nll", "useful_information"):
        along = curve.at(name, path)
        assert (np.diff(along) >= -1e-12).all()
        assert (np.diff(path) > 0).all()
    assert np.isnan(curve.at("gap", path)).all()  # there is no language model
    assert math.isnan(curve.most_useful(2.0))


def test_nothing_is_known_of_a_curve_across_a_jump():
    points = [(0.001, 0.0, 103.0), (5.0, 4.0, 104.0), (20.0, 5.0, 106.0), (80.1, 6.0, 103.5)]
    curve = curve_of("knob", rows_in([language_model(nll=103.0), *sweep(*points)])[1:])
    useful = curve.at("useful_information", [0.001, 2.0, 4.99, 5.0, 12.5, 20.0, 20.1, 80.1])
    # Of the only stretch, of two points, the cubic is the straight line whatever lies beyond.
    np.testing.assert_allclose(useful, [0, np.nan, np.nan, 4.0, 4.5, 5.0, np.nan, 6.0])
    path = curve.path()
    assert np.isnan(path).sum() == 2
    assert np.isnan(path[[1, -2]]).all()
    assert path[2:-2].min() == 5.0
    assert path[2:-2].max() == 20.0
    assert (np.isnan(curve.at("nll", path)) == np.isnan(path)).all()
    # A curve through all points would get more than the first one has where the gap is below 0.4.
    assert math.isnan(curve.most_useful(-0.1))
    assert [curve.most_useful(margin) for margin in (0.4, 0.5)] == [0.0, 6.0]
    assert float(curve.at("nll", 20.0)) == 106.0


def test_points_of_one_rate_become_their_mean_and_seeds_too():
    twice = [(1.0, 1.0, 103.0), (1.0, 2.0, 105.0), (2.0, 2.0, 104.0)]
    assert curve_of("knob", rows_in(sweep(*twice))) is None
    curve = curve_of("knob", rows_in(sweep(*twice, (3.0, 2.5, 106.0))))
    assert curve.rates.tolist() == [1.0, 2.0, 3.0]
    assert curve.measures["nll"].tolist() == [104.0, 104.0, 106.0]
    points = [(1.0, 1.0, 103.0), (2.0, 2.0, 104.0), (3.0, 3.0, 105.0)]
    seeds = [*sweep(*points), *sweep(*[(r + 1, u, n) for r, u, n in points], seed=2)]
    assert curve_of("knob", rows_in(seeds)).rates.tolist() == [1.5, 2.5, 3.5]


def test_a_failed_point_is_none_of_the_curves():
    records = sweep((1.0, 1.0, 103.0), (2.0, 2.0, 104.0), (3.0, 2.5, 106.0))
    failed = {**records[1], "status": "failed", "metrics": {}}
    assert curve_of("knob", rows_in([records[0], failed, records[2]])) is None
    rows = rows_in(records)
    assert swept(rows, {"knob": names_of(records), "gone": ["gone-1"]})["gone"] is None


def test_matched_tables_read_the_curve_where_it_was_measured():
    records = [
        language_model(nll=103.0),
        *sweep((1.0, 0.75, 103.0), (2.0, 1.5, 104.0), (4.0, 3.0, 106.0)),
    ]
    curves = {"knob": names_of(records), "few": ["few-1"]}
    rows, part = section_of(page_of(records, curves=curves), "At the same rate")
    # All three are straight lines, which a monotone cubic follows exactly.
    assert rows[1:4] == [
        ["knob", "NLL", "–", "103.00", "104.00", "106.00", "–", "–"],
        ["knob", "D", "–", "102.25", "102.50", "103.00", "–", "–"],
        ["knob", "useful information", "–", "0.75", "1.50", "3.00", "–", "–"],
    ]
    assert rows[5][0] == "knob"
    told = [float(cell) for cell in rows[5][1:]]
    assert told == pytest.approx([0.75, 1.125, 1.5, 2.25], abs=0.02)
    assert "No curve of few: fewer than 3 finished points" in part
    far = page_of([*records[1:], language_model(nll=90.0)], curves=curves)
    assert section_of(far, "At the same rate")[0][5] == ["knob", "–", "–", "–", "–"]
    assert "#### At the same rate" not in page_of(records)


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
    copied = json.loads((tmp_path / "a" / "tiny" / f"{records[0]['cell']}.json").read_text())
    assert copied == records[0]


def test_a_curve_is_drawn_between_its_ends_and_everything_is_in_sight(tmp_path):
    records = [language_model(nll=103.0)]
    records += sweep((0.01, 0.0, 103.2), (1.0, 0.7, 103.0), (4.0, 1.5, 104.0), (150.0, 3.0, 106.0))
    rows, names = rows_in(records), names_of(records)
    style = ("#0072B2", "o")
    of_entry = dict.fromkeys(["language_model", *names], style)
    curves = list(swept(rows, {"knob": names}).values())
    for panel, limits, drawn, start, ends in (
        (rate_panel, limits_of(rows), (1.0, 4.0), 102.3, (0.01, 150.0)),
        (use_panel, limits_of_use(rows), (0.0, 1.0), 0.7, (0.0, 3.0)),
    ):
        axes = Figure().subplots()
        panel(axes, rows, curves, limits, of_entry, {"knob": style})
        mine = [line for line in axes.lines if line.get_color() == style[0]]
        path, height = max((line.get_data() for line in mine), key=lambda data: len(data[0]))
        # A point, a gap, the stretch, a gap and a point.
        assert np.isnan(path[[1, -2]]).all()
        assert (path[2], path[-3], height[2]) == pytest.approx((*drawn, start))
        assert limits[0] < ends[0] < ends[1] < limits[1]
        assert sum(line.get_marker() == "o" for line in mine) == 4  # not the language model
    write_leaderboard("tiny", [], records, tmp_path / "with", {"knob": names})
    write_leaderboard("tiny", [], records, tmp_path / "without", {})
    pictures = [(tmp_path / place / "tiny.png").read_bytes() for place in ("with", "without")]
    assert pictures[0] != pictures[1]


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
        ([record(schema=1)], ["vae-lstm-1-00c0ffee", "schema 1", "schema 2", "--write model CELL"]),
        ([record(schema=3)], ["schema 3", "use the version that wrote it"]),
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
    widths = {len(MAIN), len(DIAGNOSTICS), 4} | ({5} if status != "done" else set())
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
