"""An oracle whose latent is the labels: what it is told, what it is worth, and who else sees it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SIZES, TRAINING

from collapse_bench.cell import build, run_cell, seen_by
from collapse_bench.cli import main
from collapse_bench.corpus import encoded, load_corpus, training_batches, with_kinds
from collapse_bench.corpus.corpus import SPLITS, Texts
from collapse_bench.errors import UserError
from collapse_bench.plugins import remedy_files
from collapse_bench.record import read_record
from collapse_bench.runner import plan
from collapse_bench.suite import Cell, CorpusSettings, Entry, Evaluation
from collapse_bench.suite.loading import load_suite


@pytest.fixture(scope="module")
def labelled():
    return load_corpus(CorpusSettings(name="newswire", level="easy", sentences=200), None, print)


def cell_of(told, architecture="lstm"):
    entry = Entry("oracle", told=told)
    evaluation = Evaluation(samples=16, precision="float32")
    return Cell("tiny", entry, architecture, 1, CorpusSettings(), SIZES, TRAINING, evaluation)


def test_labels_are_told_to_an_oracle_and_to_nobody_else(labelled):
    told = seen_by(cell_of("labels"), labelled)
    for cell in (cell_of(None), cell_of("length")):
        assert seen_by(cell, labelled) is labelled
    for batch in training_batches(labelled.train, 8, seed=1, epoch=0):
        assert batch.kinds.tolist() == [-1] * len(batch.lengths)
    for batch in training_batches(told.train, 8, seed=1, epoch=0):
        for i, kind in zip(batch.index.tolist(), batch.kinds.tolist(), strict=True):
            known = {name: values[i] for name, values in labelled.train.labels.items()}
            assert told.kinds[kind] == known


@pytest.mark.parametrize("architecture", ["lstm", "transformer"])
def test_its_rate_is_what_the_labels_cost_and_its_draws_are_they(labelled, architecture):
    told = with_kinds(labelled)
    model, _ = build(cell_of("labels", architecture), told, remedy_files())
    (batch,) = training_batches(told.train, 200, seed=1, epoch=0)
    forward = model(batch, lambda shape: torch.randn(shape))
    met = np.bincount(told.train.kinds, minlength=len(told.kinds)) + 0.5
    expected = -np.log(met / met.sum())[batch.kinds.numpy()]
    assert forward.kl.sum(1).detach().numpy() == pytest.approx(expected, rel=1e-5)
    # A one for each label, at the place of its value.
    values = sorted({pair for kind in told.kinds for pair in kind.items()})
    assert forward.z.shape == (200, len(values))
    for z, kind in zip(forward.z.tolist(), batch.kinds.tolist(), strict=True):
        assert {v for v, told_so in zip(values, z, strict=True) if told_so} == set(
            told.kinds[kind].items()
        )


def test_a_combination_that_the_training_split_has_not_is_told_at_a_price(labelled):
    labels = {**labelled.test.labels, "topic": np.array(["new"] * len(labelled.test))}
    told = with_kinds(replace(labelled, test=replace(labelled.test, labels=labels)))
    model, _ = build(cell_of("labels"), told, remedy_files())
    (batch,) = training_batches(told.test, 20, seed=1, epoch=0)
    forward = model(batch, lambda shape: torch.randn(shape))
    assert (forward.z.sum(1) == 3).all()
    mass = len(told.train) + len(told.kinds) / 2
    assert forward.kl.sum(1).tolist() == pytest.approx([np.log(2 * mass)] * 20, rel=1e-5)


def test_labels_that_tell_sentences_from_each_other_are_refused(labelled, monkeypatch):
    monkeypatch.setattr("collapse_bench.corpus.corpus.MOST_KINDS", 20)
    with pytest.raises(UserError, match=r"at most 20 combinations .* topic: 8 values"):
        with_kinds(labelled)


def test_its_record_is_an_oracles_and_measured_as_any_latent(labelled, tmp_path):
    cell = cell_of("labels")
    (job,) = plan(
        [cell], labelled, tmp_path, budget=30_000, device="cpu", remedy_files=remedy_files()
    )
    record = run_cell(replace(job, folder=tmp_path), lambda said: None)
    torch.set_flush_denormal(False)
    assert record["status"] == "done", record["error"]
    assert (record["bound"], record["bound_reasons"]) == ("oracle", ["labels of each sentence"])
    assert record["verdict"] == "told in advance"
    assert record["latent"] == 13  # 8 topics, 3 tenses, 2 polarities
    assert record["family"] == "codes"
    # q is certain: a sentence costs at most what its labels do, and what is left of it.
    metrics = {name.partition("@")[0]: value for name, value in record["metrics"].items()}
    bound = metrics["distortion"] + metrics["kl"]
    assert metrics["negative_elbo"] == pytest.approx(bound, abs=1e-3)
    assert metrics["nll"] < bound + 1e-3  # other labels than its own may tell of a sentence, too
    # What tells labels apart tells sentences apart that have others.
    share = np.unique(with_kinds(labelled).test.kinds, return_counts=True)[1] / 20
    known = -(share * np.log(share)).sum()
    assert metrics["mutual_information"] == pytest.approx(known, abs=1e-3)
    told = record["label_entropy"]
    assert set(told) == {"topic", "tense", "polarity"}
    for name, values in labelled.test.labels.items():
        share = np.unique(values, return_counts=True)[1] / len(values)
        assert told[name] == pytest.approx(-(share * np.log(share)).sum())


def test_a_text_without_labels_is_told_before_anything_is_trained():
    bare = encoded(Texts("text", {split: ["a b", "b c a"] for split in SPLITS}), CorpusSettings())
    told = r"needs labels, .*train: none; valid: none; test: none\. .*train\.labels"
    with pytest.raises(UserError, match=told):
        seen_by(cell_of("labels"), bare)


@pytest.mark.parametrize("other", ["latent: 0", "remedies: []"])
def test_a_suite_says_labels_alone(other, tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(
        "corpus: {name: newswire}\narchitectures: [lstm]\ntraining: {budget: 9}\nentries:\n"
        f"  oracle: {{told: labels, {other}}}\n"
    )
    with pytest.raises(UserError, match=f"told: labels .*; remove {other.partition(':')[0]}"):
        load_suite(path, remedy_files())
    path.write_text(path.read_text().replace(f", {other}", ""))
    assert load_suite(path, remedy_files()).entries[0].told == "labels"


def test_cells_of_a_level_are_scored_diagnosed_and_shown_again(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(
        "corpus: {name: newswire, level: easy, sentences: 200}\n"
        "architectures: [lstm]\n"
        "sizes: {embedding: 8, hidden: 8, latent: 2}\n"
        "training: {budget: 3000, validations: 1, precision: float32}\n"
        "evaluation: {samples: 8, precision: float32, refinement: 1}\n"
        "entries:\n  language_model: {latent: 0}\n  oracle: {told: labels}\n  vae: []\n"
    )
    assert main(["run", "mine.yaml", "--workers", "1"]) == 0
    cells = {
        path.name.partition("-")[0]: str(path) for path in (tmp_path / "runs/mine").glob("*-*")
    }
    for name in ("vae", "oracle"):
        assert main(["score", cells[name]]) == 0, capsys.readouterr()
        before = read_record(Path(cells[name]) / "record.json")
        assert main(["score", "--write", "model", cells[name]]) == 0
        after = read_record(Path(cells[name]) / "record.json")
        assert main(["score", "--write", "arrays", cells[name]]) == 0
        again = read_record(Path(cells[name]) / "record.json")
        for part in ("metrics", "verdict", "label_entropy", "bound", "latent"):
            assert before[part] == after[part] == again[part]
    assert main(["diagnose", cells["vae"]]) == 0
    capsys.readouterr()
    assert main(["diagnose", cells["oracle"]]) == 2
    assert "told in advance what it knows" in capsys.readouterr().err
    assert main(["leaderboard", "mine.yaml"]) == 0
    page = (tmp_path / "leaderboard" / "mine.md").read_text()
    assert "**newswire**, level easy," in page
    assert "| oracle ⊘" in page
    assert "told in advance: labels of each sentence" in page
    [row] = [line for line in page.splitlines() if line.startswith("| *all there is to know*")]
    known = [round(nats, 2) for _, nats in sorted(before["label_entropy"].items())]
    assert [float(cell) for cell in row.split("|")[3:-1]] == known
    # An oracle is no size of the latent that entries were given.
    assert ", latent 2\n" in page
