"""A dial: a setting that training ignores, so that one training serves all of its values."""

import re

import numpy as np
import pytest
import torch
from conftest import make
from safetensors.numpy import load_file, save_file

from collapse_bench.cell import run_cell
from collapse_bench.cli import main
from collapse_bench.diagnosis.dial import Setting, align, draw
from collapse_bench.errors import SuiteError, UserError
from collapse_bench.job import describe
from collapse_bench.laws import tried
from collapse_bench.laws.law import subject
from collapse_bench.laws.training import its_dial_changes_no_training
from collapse_bench.metrics import key_of
from collapse_bench.plugins import remedy_files
from collapse_bench.record import (
    MODEL,
    RECORD,
    SENTENCES,
    digest_of_model,
    read_records,
    text_of,
    write_record,
)
from collapse_bench.remedy import find_class
from collapse_bench.runner import is_due, plan
from collapse_bench.suite import cells_of, load_suite, trained_as

SUITE = """\
corpus: {{name: newswire, sentences: 60}}
architectures: [lstm]
sizes: {{embedding: 8, hidden: 8, latent: 4, layers: 1, heads: 2}}
training: {{budget: 1500, batch: 16, validations: 1}}
evaluation: {{samples: 2}}
entries:
  language_model: {{latent: 0}}
{entries}
"""
ALL = "  all: [{multi_rate: {beta: {sweep: [0.1, 0.5, 1.0]}}}]"


def suite(tmp_path, entries):
    path = tmp_path / "dialled.yaml"
    path.write_text(SUITE.format(entries=entries))
    return path


def test_what_turns_a_dial_is_trained_as_the_entry_of_its_default(tmp_path):
    entries = "  one: [multi_rate]\n  other: [{multi_rate: {beta: 0.7}}, kl_annealing]\n"
    entries += "  same: [multi_rate, kl_annealing]\n" + ALL
    cells = cells_of(load_suite(suite(tmp_path, entries), remedy_files()))
    found = {c.entry.name: (t := trained_as(c)) and t.entry.name for c in cells}
    assert found == {
        **dict.fromkeys(("language_model", "one", "same", "all-0.5")),
        **{"other": "same", "all-0.1": "one", "all-1.0": "one"},
    }
    assert all(trained_as(c).seed == c.seed for c in cells if trained_as(c))


@pytest.mark.parametrize(
    "entries",
    [
        "  all: [{multi_rate: {beta: {sweep: [0.1, 1.0]}}}]",
        "  all: [{multi_rate: {beta: 0.1}}]",
        # another training: its own budget, further settings, a chain
        "  all: [{multi_rate: {beta: 0.1}}]\n  long: {remedies: [multi_rate], budget: 9000}",
        "  all: [{multi_rate: {beta: 0.1, hidden: 8}}]\n  plain: [multi_rate]",
        "  all: [{multi_rate: {beta: 0.1}}, kl_annealing]\n  plain: [multi_rate]",
    ],
)
def test_a_dial_without_the_entry_that_is_trained_is_an_error_of_the_suite(tmp_path, entries):
    with pytest.raises(SuiteError, match=r"entry all.*: beta is the dial of multi_rate.*0\.5") as e:
        load_suite(suite(tmp_path, entries), remedy_files())
    assert re.search(r"dialled\.yaml:8", str(e.value))


def test_one_training_serves_every_value_and_each_has_its_own_numbers(tmp_path, capsys):
    path, out = suite(tmp_path, ALL), tmp_path / "runs"
    assert main(["run", str(path), "--out", str(out), "--workers", "2"]) == 0, capsys.readouterr()
    records = {r["entry"]: r for r in read_records(out / "dialled")}
    trained = records["all-0.5"]
    assert trained["trained_as"] is None
    assert trained["cost"]["tokens_decoded"] > 1000
    weights = load_file(out / "dialled" / trained["cell"] / MODEL)
    rates = {trained["metrics"][key_of("kl")]}
    for name in ("all-0.1", "all-1.0"):
        turned = records[name]
        assert turned["trained_as"] == trained["cell"]
        assert turned["validation"] == trained["validation"]
        assert (turned["cost"]["tokens_decoded"], turned["cost"]["decoder_updates"]) == (0, 0)
        assert turned["cost"]["parameters"] == trained["cost"]["parameters"]
        own = load_file(out / "dialled" / turned["cell"] / MODEL)
        assert own.keys() == weights.keys()
        assert all(np.array_equal(own[key], weights[key]) for key in own)
        rates.add(turned["metrics"][key_of("kl")])
    assert len(rates) == 3
    cells = [str(out / "dialled" / record["cell"]) for record in records.values()]
    assert main(["score", *cells]) == 0, capsys.readouterr()
    assert main(["diagnose", cells[0]]) == 0
    assert "the same model at other values of its dial" in capsys.readouterr().out
    assert (out / "dialled" / records["language_model"]["cell"] / "dial.png").exists() is False
    assert sum(1 for _ in (out / "dialled").glob("*/dial.png")) == 1
    page = ["leaderboard", str(path), "--runs", str(out), "--out", str(tmp_path / "pages")]
    assert main(page) == 0, capsys.readouterr()
    text = (tmp_path / "pages" / "dialled.md").read_text()
    assert [f"| all-{beta} ⟳" in text for beta in (0.1, 0.5, 1.0)] == [True, False, True]
    assert "of 2** finished cells gained less" in text


def test_means_that_are_turned_are_turned_back_and_nothing_is_scaled():
    rng = np.random.default_rng(1)
    first = rng.normal(size=(200, 4)) * [3, 2, 1, 0.5]
    turn = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    shrunk = 0.5 * first
    means = [first, first @ turn + 7, shrunk, rng.normal(size=(200, 4))]
    same, turned, smaller, other = align(means)
    assert np.isnan([same.before, same.after]).all()
    assert turned.before > 0.3
    assert turned.after < 1e-12
    np.testing.assert_allclose(turned.mean, first - first.mean(0), atol=1e-9)
    # (1 - 0.5)^2 / (1 + 0.5^2)
    assert smaller.after == pytest.approx(0.2)
    np.testing.assert_allclose(smaller.mean, shrunk - shrunk.mean(0), atol=1e-9)
    assert other.after > 0.6
    assert np.isnan(align([0 * first, 0 * first])[1].after)


def test_a_picture_of_a_dial_shows_every_label_and_takes_points_and_single_dimensions(tmp_path):
    rng = np.random.default_rng(1)
    labels = np.array([*"abcdefghi", *[""] * 11])
    for means in ([rng.normal(size=(20, 3))] * 3, [np.zeros((20, 3))] * 2, [np.ones((20, 1))] * 2):
        settings = [Setting(f"beta = {i} $", mean) for i, mean in enumerate(means)]
        path = draw(tmp_path / "dial.png", settings, labels, "topic")
        assert path.stat().st_size > 5000


def test_a_cell_whose_training_is_not_there_is_told_before_anything_runs(tmp_path, capsys):
    path, out = suite(tmp_path, ALL), tmp_path / "runs"
    only = ["run", str(path), "--out", str(out), "--only"]
    assert main([*only, "all-1.0/*"]) == 2
    assert "all-1.0/lstm/1: shares the training of all-0.5/lstm/1" in capsys.readouterr().err
    assert main([*only, "all-0.5/*"]) == 0
    assert main([*only, "all-1.0/*"]) == 0, capsys.readouterr()


def test_a_cell_is_evaluated_anew_where_the_model_that_it_shares_is_another(tmp_path, capsys):
    path, out = suite(tmp_path, ALL), tmp_path / "runs"
    command = ["run", str(path), "--out", str(out), "--workers", "2", "--only", "all-*"]
    assert main(command) == 0
    [trained] = [r for r in read_records(out / "dialled") if r["trained_as"] is None]
    lender = out / "dialled" / trained["cell"]
    weights = load_file(lender / MODEL)
    capsys.readouterr()
    assert main(command) == 0
    assert capsys.readouterr().out.count("finished before, kept") == 3
    save_file({name: 1.1 * value for name, value in weights.items()}, lender / MODEL)
    write_record(lender, trained | {"model_sha256": digest_of_model(lender)})  # as if trained again
    assert main(command) == 0
    assert capsys.readouterr().out.count("finished before, kept") == 1
    shared = [r for r in read_records(out / "dialled") if r["trained_as"]]
    assert {r["trained_model"] for r in shared} == {digest_of_model(lender)}


@pytest.mark.parametrize("retry", [None, "killed", "all"])
def test_what_failed_for_want_of_a_training_is_due_once_that_is_there(corpus, tmp_path, retry):
    def planned():
        cells = [c for c in cells_of(given) if c.entry.name in ("all-0.5", "all-1.0")]
        return sorted(
            plan(
                cells, corpus, tmp_path, budget=300, device="cpu", remedy_files=files, retry=retry
            ),
            key=lambda job: job.trained_in is not None,
        )

    files = remedy_files()
    given = load_suite(suite(tmp_path, ALL), files)
    trained, shares = planned()
    write_record(trained.folder, describe(trained) | {"error": "ended by signal 9"})
    for _ in range(2):
        assert (
            "is killed; run the two together" in run_cell(planned()[1], lambda told: None)["error"]
        )
    trained, shares = planned()
    assert is_due(shares) == (retry == "all"), "the other one is not there yet"
    run_cell(trained, lambda told: None)
    assert is_due(planned()[1])
    assert run_cell(planned()[1], lambda told: None)["status"] == "done"
    assert not is_due(planned()[1])


def test_what_shares_a_training_is_kept_where_both_have_records_alone(tmp_path):
    """Arrays and models may be deleted to have room; no cell is due that cannot be made again."""
    path, out = suite(tmp_path, ALL), tmp_path / "runs"
    command = ["run", str(path), "--out", str(out), "--only", "all-*"]
    assert main(command) == 0
    before = {each: each.read_bytes() for each in (out / "dialled").glob(f"*/{RECORD}")}
    for cell in before:
        (cell.parent / MODEL).unlink()
        (cell.parent / SENTENCES).unlink()
    assert main(command) == 0
    assert {each: each.read_bytes() for each in before} == before


def test_what_shares_a_training_is_evaluated_again_by_its_own_model_alone(tmp_path):
    path, out = suite(tmp_path, ALL), tmp_path / "runs"
    command = ["run", str(path), "--out", str(out), "--only", "all-*"]
    assert main(command) == 0
    before = {record["cell"]: record for record in read_records(out / "dialled")}
    for cell, told in before.items():
        (out / "dialled" / cell / SENTENCES).unlink()
        if told["trained_as"] is None:
            (out / "dialled" / cell / MODEL).unlink()
    assert main(command) == 0
    for record in read_records(out / "dialled"):
        told = before[record["cell"]]
        for name in ("metrics", "trained_as", "trained_model", "sentences_sha256", "status"):
            assert record[name] == told[name]
        assert (out / "dialled" / record["cell"] / SENTENCES).exists() == bool(told["trained_as"])


def test_what_shares_a_training_that_diverged_has_diverged(tmp_path):
    path, out = suite(tmp_path, ALL), tmp_path / "runs"
    command = ["run", str(path), "--out", str(out), "--only", "all-*"]
    assert main(command) == 0
    for record in read_records(out / "dialled"):
        told = out / "dialled" / record["cell"] / RECORD
        if record["trained_as"] is None:
            told.write_text(text_of(record | {"status": "diverged"}))
        else:
            told.unlink()
    assert main(command) == 1
    assert {r["status"] for r in read_records(out / "dialled")} == {"diverged"}


@pytest.mark.parametrize("beta", [0.01, 3.0])
def test_a_weight_that_training_does_not_draw_is_refused(beta):
    multi_rate = find_class("multi_rate", remedy_files()["multi_rate"])
    way_out = "raise beta, or lower least" if beta < 0.05 else "lower beta, or raise most"
    with pytest.raises(UserError, match=rf"multi_rate: beta must be among the weights.*{way_out}"):
        multi_rate(beta=beta)
    with pytest.raises(UserError, match=r"least must be at most most, got least = 3.0 and most"):
        multi_rate(beta=beta, least=3.0)


def test_the_encoder_is_told_the_weight_and_the_decoder_is_not(corpus, batch):
    one = make("lstm", {"multi_rate": {"beta": 0.1}})
    one.steps(corpus, 4)
    other = make("lstm", {"multi_rate": {"beta": 1.0}})
    other.model.load_state_dict(one.model.state_dict())
    z = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        models = [each.model.eval() for each in (one, other)]
        posteriors = [model.posterior(batch, torch.zeros) for model in models]
        likelihoods = [model.log_likelihood(batch, z) for model in models]
    assert not torch.equal(posteriors[0].mean, posteriors[1].mean)
    assert torch.equal(*likelihoods)


BROKEN = '''\
"""Nobody (2026): {what}."""

from dataclasses import dataclass, replace
from typing import ClassVar

from collapse_bench.remedy import Remedy


@dataclass(frozen=True)
class BadDial(Remedy):
    """{what}.

    Attributes:
        weight: of the rate.
    """

    dial: ClassVar[str | None] = "weight"
    weight: float = 1.0

    def objective(self, forward):
        return replace(forward, kl={kl} * forward.kl)
'''


@pytest.mark.parametrize(
    ("kl", "seen"),
    [
        ("self.weight", "weights, buffers or state after 6 steps are others"),
        ("0.5", "the evaluation is that of"),
    ],
)
def test_a_dial_that_trains_or_does_nothing_breaks_the_law(tmp_path, kl, seen):
    path = tmp_path / "bad_dial.py"
    path.write_text(BROKEN.format(what="A dial that is none", kl=kl))
    outcome = tried(its_dial_changes_no_training, subject("bad_dial", "lstm", path))
    assert outcome.status == "BROKEN"
    assert seen in outcome.seen


def test_a_dial_that_is_no_setting_is_told(tmp_path):
    path = tmp_path / "bad_dial.py"
    text = BROKEN.format(what="No dial", kl="1").replace('= "weight"', '= "other"')
    path.write_text(text)
    entries = "  all: [bad_dial]"
    with pytest.raises(SuiteError, match="dial must be the name of a setting, not 'other'"):
        load_suite(suite(tmp_path, entries), remedy_files([path]))
