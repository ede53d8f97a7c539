"""One cell from its settings to its record, in this process."""

import hashlib
from dataclasses import replace

import pytest
import torch
from conftest import SIZES, TRAINING, make, needs_bfloat16

from collapse_bench.cell import run_cell
from collapse_bench.evaluation import evaluate
from collapse_bench.job import describe
from collapse_bench.metrics import METRICS, VERDICTS, score, verdict, versioned
from collapse_bench.model import GENERATIVE
from collapse_bench.plugins import remedy_files
from collapse_bench.record import MODEL, RECORD, SENTENCES, read_arrays, read_record
from collapse_bench.runner import plan
from collapse_bench.suite import Cell, CorpusSettings, Entry, Evaluation, RemedySettings


@pytest.fixture
def job(corpus, tmp_path):
    """A cell of the plain VAE, or with a latent of 0 of the language model."""

    def job(
        architecture="lstm", *, latent=8, remedies=(), budget=300, training=TRAINING, **evaluation
    ):
        cell = Cell(
            "tiny",
            Entry("vae" if latent else "language_model", remedies),
            architecture,
            1,
            CorpusSettings(),
            replace(SIZES, latent=latent),
            training,
            Evaluation(**{"samples": 16, "precision": "float32"} | evaluation),
        )
        (planned,) = plan(
            [cell], corpus, tmp_path, budget=budget, device="cpu", remedy_files=remedy_files()
        )
        return replace(planned, folder=tmp_path)

    yield job
    # A worker process has this for itself.
    torch.set_flush_denormal(False)


@pytest.mark.parametrize("native", [True, False])
def test_a_record_says_in_which_precision_it_was_computed(native, job, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": native})
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    auto = "bfloat16" if native else "float32"
    for training in ("auto", "float32", "bfloat16"):
        for evaluation in ("auto", "float32", "bfloat16"):
            settings = replace(TRAINING, precision=training)
            record = describe(job(training=settings, precision=evaluation))
            assert record["environment"]["precision"] == {
                "training": auto if training == "auto" else training,
                "evaluation": auto if evaluation == "auto" else evaluation,
            }
            # What was asked for is a setting of the cell.
            assert record["settings"]["training"]["precision"] == training
            assert record["settings"]["evaluation"]["precision"] == evaluation


@needs_bfloat16
def test_a_cell_is_evaluated_as_its_suite_asks(job, tmp_path, monkeypatch):
    asked = {}

    def spied(model, split, **keywords):
        asked.update(keywords)
        return evaluate(model, split, **keywords)

    monkeypatch.setattr("collapse_bench.cell.evaluate", spied)
    record = run_cell(job(standard_error=1e9, precision="bfloat16", batch=3), lambda said: None)
    assert record["status"] == "done", record["error"]
    expected = {"samples": 16, "standard_error": 1e9, "batch": 3, "precision": "bfloat16"}
    assert expected.items() <= asked.items()
    assert record["metrics"]["nll_samples@2"] == 8
    assert read_arrays(tmp_path)["draws"].tolist() == [8] * 6


def test_the_parameters_of_a_record_are_those_that_are_trained(architecture, job):
    records = {
        latent: run_cell(job(architecture, latent=latent), lambda said: None) for latent in (8, 0)
    }
    for latent, record in records.items():
        assert record["status"] == "done", record["error"]
        model = make(architecture, latent=latent).model
        count = {
            8: sum(parameter.numel() for parameter in model.parameters()),
            0: sum(parameter.numel() for parameter in model.parameters_of(GENERATIVE)),
        }[latent]
        assert record["cost"]["parameters"] == count
        assert record["cost"]["decoder_updates"] > 0
    assert records[8]["cost"]["encoder_updates"] == records[8]["cost"]["decoder_updates"]
    assert records[0]["cost"]["encoder_updates"] == 0
    # One draw of nothing is exact.
    assert records[0]["metrics"]["nll_samples@2"] == records[0]["metrics"]["ess@2"] == 1
    assert records[0]["verdict"] == "no latent"
    assert records[8]["verdict"] in VERDICTS.keys() - {"no latent"}


def test_the_record_has_the_scores_of_the_arrays_beside_it(job, tmp_path):
    record = run_cell(job(), lambda said: None)
    assert record["status"] == "done", record["error"]
    written = (tmp_path / SENTENCES).read_bytes()
    assert record["sentences_sha256"] == hashlib.sha256(written).hexdigest()
    scores = score(read_arrays(tmp_path, record["sentences_sha256"]))
    assert record["metrics"] == versioned(scores.metrics)
    assert record["standard_errors"] == versioned(scores.standard_errors)
    assert record["verdict"] == verdict(scores, 6)
    # What is known of the words and topics of newswire is scored, too.
    assert {"probe_information@1", "global_information_share@2"} <= record["metrics"].keys()
    assert read_record(tmp_path / RECORD) == record


def test_arrays_that_are_refused_are_kept_beside_a_failed_record(job, tmp_path, monkeypatch):
    def contradicting(model, split, **keywords):
        arrays = evaluate(model, split, **keywords)
        return arrays | {"distortion": arrays["distortion"] - 100}

    monkeypatch.setattr("collapse_bench.cell.evaluate", contradicting)
    record = run_cell(job(), lambda said: None)
    assert record["status"] == "failed"
    assert "D + R >= NLL is off by" in record["error"]
    assert record["metrics"] == {}
    assert record["verdict"] is None
    read_arrays(tmp_path, record["sentences_sha256"])
    assert (tmp_path / MODEL).exists()


def test_a_remedy_tells_what_holds_by_construction(job):
    committed = RemedySettings("delta_vae", {"length": 4, "stride": 3, "delta": 1.5})
    record = run_cell(job(remedies=(committed,)), lambda said: None)
    assert record["status"] == "done", record["error"]
    assert "kl" in record["by_construction"]
    assert set(record["by_construction"]) <= METRICS.keys()
    assert run_cell(job(), lambda said: None)["by_construction"] == []
