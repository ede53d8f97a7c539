"""Exact against estimated: the checks pass, can fail, and are told."""

import dataclasses
import importlib
import itertools
import math

import numpy as np
import pytest
import torch

from collapse_bench import honesty_controls, verification
from collapse_bench.cli import main
from collapse_bench.diagnosis import diagnose
from collapse_bench.honesty_controls import Tried
from collapse_bench.metrics import Scores, score, verdict
from collapse_bench.metrics.mutual_information import Information, bounds
from collapse_bench.truth.controls import controls
from collapse_bench.verification import (
    MIXTURE,
    OPTIMUM,
    SMOOTH,
    Check,
    bracketed,
    measured,
    numbers,
    table,
    truths,
    verify,
)

NAMES = set(truths())


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """So few sentences and draws that all checks take seconds."""
    monkeypatch.setattr(verification, "SENTENCES", 400)
    monkeypatch.setattr(verification, "SAMPLES", 128)
    monkeypatch.setattr(verification, "CONTROLLED", 300)
    monkeypatch.setattr(verification, "ANNEALED", 16)


@pytest.fixture
def few(monkeypatch):
    """Only these models and one control, without the annealed bounds, which take longest."""

    def keep(*names):
        whole = truths()
        kept = {name: whole[name] for name in {*names, OPTIMUM, MIXTURE, SMOOTH}}
        monkeypatch.setattr(verification, "truths", lambda: kept)
        monkeypatch.setattr(verification, "controls", lambda n: controls(n)[:1])
        monkeypatch.setattr(verification, "bounds", lambda model: iter(()))
        monkeypatch.setattr(verification, "honesty", lambda: iter(()))

    return keep


def failed(checks):
    return {(check.model, check.what) for check in checks if not check.passed}


def test_everything_is_checked_and_passes(monkeypatch):
    # A few remedies and cheats: that the bound of each remedy is one is a law, and all that verify
    # asks are asked in `test_honesty`.
    monkeypatch.setattr(honesty_controls, "HONEST", ("pooling", "mixture_prior"))
    few = dict(itertools.islice(honesty_controls.CHEATS.items(), 2))
    monkeypatch.setattr(honesty_controls, "CHEATS", few)
    checks = list(verify())
    assert failed(checks) == set()
    assert {check.model for check in checks} >= NAMES | {control.name for control in controls(2)}
    whats = {check.what for check in checks}
    assert whats >= {"nll", "distortion", "kl", "useful_rate", "mutual_information", "verdict",
                     "fooled", "R + D at slope 1 = H(x)", "I is not below R(D)",
                     "log p(x), annealed from both sides"}  # fmt: skip
    assert any("perplexity, from D" in what for what in whats)
    for name in NAMES:
        assert sum(check.model == name for check in checks) >= 6
    assert "**FAIL**" not in "".join(table(checks))


def test_the_numbers_are_the_same_each_time(few):
    """However many threads there are, which sums would round by; afterwards there are as many."""
    few()
    threads = torch.get_num_threads()
    found = []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            found.append(list(verify()))
            assert torch.get_num_threads() == number
    finally:
        torch.set_num_threads(threads)
    assert found[0] == found[1]


# What is broken is found


METRICS = ("nll", "distortion", "kl", "useful_rate", "negative_elbo", "shuffle_gap")


def test_a_metric_that_is_off_fails_in_every_model_that_knows_it(few, monkeypatch):
    """All of them at once, in both directions: each has checks of its own."""
    few("linear VAE, posterior mis-set", "hidden Markov model")

    def wrong(arrays):
        metrics, errors = score(arrays)
        # More than twice what an honest estimate may be off.
        off = {
            name: metrics[name] + sign * (8.5 * errors[name] + 1e-6)
            for name, sign in zip(METRICS, itertools.cycle((1, -1)), strict=False)
        }
        return Scores(metrics | off, errors)

    monkeypatch.setattr(verification, "score", wrong)
    found = failed(verify())
    for name in METRICS:
        known = {model for model, truth in verification.truths().items() if name in truth.exact()}
        known |= {"linear VAE on linear_gaussian"}
        if name != "shuffle_gap":
            assert len(known) == 6
        assert {model for model, what in found if what == name} == known


def test_information_without_its_log_n_fails(few, monkeypatch):
    few()

    def forgetful(terms, log_prior, among):
        found = bounds(terms, log_prior, among)
        return Information(found.lower - np.log(among), found.upper - np.log(among))

    monkeypatch.setattr("collapse_bench.metrics.scores.bounds", forgetful)
    # Nothing but that is looked at: the identities would refuse it before.
    monkeypatch.setattr("collapse_bench.metrics.scores.check_identities", lambda *_: None)
    found = failed(verify())
    assert {(OPTIMUM, "mutual_information"), (MIXTURE, "mutual_information")} <= found
    assert (f"{MIXTURE}, R-D curve", "I is not below R(D)") in found


def test_a_perplexity_of_the_distortion_fails(few, monkeypatch):
    few()

    def cheating(arrays):
        metrics, errors = score(arrays)
        return Scores(metrics | {"perplexity": float(np.exp(metrics["distortion"]))}, errors)

    monkeypatch.setattr(verification, "score", cheating)
    assert any(model == "perplexity from D alone" for model, _ in failed(verify()))


def test_a_verdict_that_believes_the_rate_fails(monkeypatch):
    diagnoser = importlib.import_module("collapse_bench.diagnosis.diagnose")

    def believing(scores, sentences, refined_use=0.0):
        told = verdict(scores, sentences, refined_use)
        return "healthy" if told == "rate without use" else told

    monkeypatch.setattr(diagnoser, "verdict", believing)
    found = failed(check for control in controls(300) for check in verification.verdicts(control))
    assert found == {
        ("constant-shift posterior", "verdict"),
        ("delta-VAE at its floor", "verdict"),
        ("hash encoder under batch normalisation", "verdict"),
    }


def test_a_control_that_fools_another_metric_fails():
    control = dataclasses.replace(controls(300)[0], fooled=("KL",))
    assert failed(verification.verdicts(control)) == {(control.name, "fooled")}
    assert diagnose(control.model, control.sentences, control.lengths).verdict == control.verdict


def test_a_bound_on_the_wrong_side_fails(monkeypatch):
    honest = verification.annealed_importance_sampling

    def shifted(*arguments, **settings):
        found = honest(*arguments, **settings)
        return dataclasses.replace(found, lower=found.lower + 1, upper=found.upper + 1)

    monkeypatch.setattr(verification, "annealed_importance_sampling", shifted)
    assert failed(verification.bounds(truths()[OPTIMUM])) == {
        (OPTIMUM, "log p(x), annealed from both sides")
    }


def test_a_curve_that_is_off_fails(monkeypatch):
    honest = verification.point

    def worse(*arguments, **settings):
        found = honest(*arguments, **settings)
        return found._replace(rate=found.rate + 1e-4)

    monkeypatch.setattr(verification, "point", worse)
    model = truths()[MIXTURE]
    assert failed(verification.curve(model, measured(model))) == {
        (f"{MIXTURE}, R-D curve", "R + D at slope 1 = H(x)")
    }


def test_a_bound_that_is_told_wrong_fails(monkeypatch):
    tried = [
        Tried("a remedy, lstm", "valid", "invalid: causal"),
        Tried("cheat: one", "conditional: prior", "valid"),
        Tried("cheat: other", "invalid: leak", "invalid: leak"),
    ]
    monkeypatch.setattr(verification, "honesty_controls", lambda: iter(tried))
    assert failed(verification.honesty()) == {("a remedy, lstm", "bound"), ("cheat: one", "bound")}


# How far is too far


EXACT = {"nll": 5.0, "useful_rate": 2.0, "mutual_information": 1.5, "mutual_information_model": 9.0}
ESTIMATED = {
    "nll": 5.0, "useful_rate": 2.0, "mutual_information": 1.0, "mutual_information_upper": 2.0,
    "useful_information": 1.5,
}  # fmt: skip


def of_numbers(what, exact=None, error=0.1, **changes):
    """The check of this number, and whether all others pass."""
    metrics = ESTIMATED | changes
    errors = dict.fromkeys(metrics, 0.1) | {what: error}
    checks = {c.what: c for c in numbers("m", EXACT | (exact or {}), Scores(metrics, errors))}
    return checks.pop(what), all(check.passed for check in checks.values())


@pytest.mark.parametrize(
    ("estimate", "error", "passed"),
    [
        (5.0, 0.1, True),
        (5.39, 0.1, True),
        (4.61, 0.1, True),
        (5.41, 0.1, False),
        (4.59, 0.1, False),
        # Without an error only rounding is forgiven.
        (5.0 + 5e-10, 0.0, True),
        (5.0 + 5e-9, 0.0, False),
        (math.nan, 0.1, False),
        (math.inf, 0.1, False),
        (5.0, math.nan, False),
    ],
)
def test_four_standard_errors_are_allowed(estimate, error, passed):
    check, others = of_numbers("nll", nll=estimate, error=error)
    assert others
    assert (check.passed, check.exact) == (passed, "5.0000")
    assert check.passed == (abs(check.off) <= 4)


@pytest.mark.parametrize(
    ("truth", "passed"),
    [(1.0, True), (2.0, True), (0.61, True), (2.39, True), (0.59, False), (2.41, False)],
)
def test_a_truth_has_to_be_within_its_bounds_but_for_four_errors(truth, passed):
    check = bracketed("m", "w", truth, 1.0, 2.0, 0.1)
    assert check.passed == passed
    assert (check.off == 0) == (1 <= truth <= 2)
    check, _ = of_numbers("mutual_information", {"mutual_information": truth})
    assert check.passed == passed


@pytest.mark.parametrize("lower", [math.nan, math.inf])
def test_a_bound_that_is_no_number_does_not_pass(lower):
    assert not bracketed("m", "w", 1.5, lower, 2.0, 0.1).passed


def test_useful_information_is_checked_as_the_smaller_of_the_two():
    for exact, useful in (({}, 1.5), ({"useful_rate": 1.2}, 1.2)):
        check, _ = of_numbers("useful_information", exact, useful_information=useful)
        assert check.passed
        check, _ = of_numbers("useful_information", exact, useful_information=useful + 0.5)
        assert not check.passed


# What is told


CHECKS = [
    Check("a model", "nll", "5.0000", "5.0100", 0.01, 1.0, True),
    Check("m", "verdict", "collapsed", "healthy", None, None, False),
]


def test_the_table_is_markdown():
    lines = table(CHECKS)
    assert len(lines) == 4
    assert len({len(line) for line in lines}) == 1, "columns are aligned"
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert {len(row) for row in cells} == {7}
    assert all(line.startswith("| ") and line.endswith(" |") for line in lines)
    assert set("".join(cells[1])) == {"-"}
    assert cells[2] == ["a model", "nll", "5.0000", "5.0100", "0.0100", "1.0", "pass"]
    assert cells[3] == ["m", "verdict", "collapsed", "healthy", "", "", "**FAIL**"]
    assert all(cells[1]), "a column without a dash is none"


@pytest.mark.parametrize(("checks", "code"), [(CHECKS, 1), (CHECKS[:1], 0)])
def test_the_verb_says_all_and_ends_with_1_where_one_failed(monkeypatch, capsys, checks, code):
    monkeypatch.setattr(verification, "verify", lambda: iter(checks))
    assert main(["verify"]) == code
    told = capsys.readouterr()
    assert told.out.splitlines()[: len(checks) + 2] == table(checks)
    assert f"1 of {len(checks)} checks passed" in told.out
    assert "ok   a model: nll" in told.err
    assert ("FAIL m: verdict" in told.err) == bool(code)


def test_the_verb_ends_with_1_where_a_metric_is_broken(few, monkeypatch, capsys):
    few()

    def wrong(arrays):
        metrics, errors = score(arrays)
        return Scores(metrics | {"nll": metrics["nll"] + 1}, errors)

    monkeypatch.setattr(verification, "score", wrong)
    assert main(["verify"]) == 1
    out = capsys.readouterr().out
    assert "**FAIL**" in out
    counted = [line for line in out.splitlines() if line.endswith("checks passed")]
    assert len(counted) == 1


def test_the_models_draw_their_own_sentences_and_the_same_each_time():
    one, other = truths(), truths()
    for name in NAMES:
        first, second = (
            model.draw(7, torch.Generator().manual_seed(3)) for model in (one[name], other[name])
        )
        assert len(first) == 7
        assert torch.equal(first, second)
        assert one[name].exact() == other[name].exact()
