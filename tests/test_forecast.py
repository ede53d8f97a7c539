"""`plan` and `check` of a suite on a text of one's own: what is left, how long, which labels."""

import re

import pytest

from collapse_bench.cli import main
from collapse_bench.corpus import load_corpus
from collapse_bench.durations import in_words
from collapse_bench.job import checkpoint_of
from collapse_bench.runner import plan, what_has_changed
from collapse_bench.suite import cells_of, load_suite
from collapse_bench.training.checkpoint import write_checkpoint

SUITE = """
corpus: {name: text, path: texts}
architectures: [lstm]
sizes: {embedding: 8, hidden: 8, latent: 2}
training: {budget: BUDGET, batch: 4, dropout: 0.0, validations: 1, precision: float32}
evaluation: {samples: 8}
entries:
  language_model: {latent: 0}
  vae: []
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A suite `mine.yaml` of a text with labels, in the working folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts").mkdir()
    for split in ("train", "valid", "test"):
        (tmp_path / "texts" / f"{split}.txt").write_text("a b\nb c a\nc\na a\n")
        (tmp_path / "texts" / f"{split}.labels").write_text("x\ny\n\nx\n")
    (tmp_path / "mine.yaml").write_text(SUITE.replace("BUDGET", "200"))
    return tmp_path


def test_what_is_left_is_counted_and_timed(folder, capsys, monkeypatch):
    monkeypatch.setattr("collapse_bench.forecast.TIMED", 0.1)
    (folder / "mine.yaml").write_text(SUITE.replace("BUDGET", "50000000"))
    assert main(["plan", "mine.yaml", "--workers", "1"]) == 0
    said = capsys.readouterr().out
    assert "mine on text: 2 of 2 cells to run, 0 are kept; 100,000,000 tokens to train" in said
    assert re.search(r"^memory: about [1-9][\d,]* MiB a cell", said, re.MULTILINE)
    assert re.search(r"^disk: about \d+ MiB needed, [\d,]+ MiB free$", said, re.MULTILINE)
    rates = [int(rate.replace(",", "")) for rate in re.findall(r"model ([\d,]+)|VAE ([\d,]+)", said)
             for rate in rate if rate]  # fmt: skip
    expected = sum(5e7 / rate for rate in rates)
    assert len(rates) == 2
    hours, minutes = re.search(r"about (?:(\d+) h )?(\d+) min", said).groups()
    # The rates are told as whole numbers.
    assert 3600 * int(hours or 0) + 60 * int(minutes) == pytest.approx(expected, rel=0.01)
    assert not (folder / "runs").exists()


def test_nothing_is_timed_where_nothing_is_left(folder, capsys):
    assert main(["run", "mine.yaml", "--workers", "1"]) == 0
    capsys.readouterr()
    assert main(["plan", "mine.yaml"]) == 0
    told = "mine on text: 0 of 2 cells to run, 2 are kept; 0 tokens to train\n"
    assert capsys.readouterr().out == told


def test_what_has_finished_tells_how_long_the_others_will_take(folder, capsys, monkeypatch):
    (folder / "mine.yaml").write_text(SUITE.replace("BUDGET", "200") + "seeds: [1, 2]\n")
    assert main(["run", "mine.yaml", "--seeds", "1"]) == 0
    capsys.readouterr()
    monkeypatch.setattr("collapse_bench.forecast.tokens_a_second", None)
    assert main(["plan", "mine.yaml", "--workers", "1"]) == 0
    said = capsys.readouterr().out
    assert "2 of 4 cells to run, 2 are kept; 400 tokens to train" in said
    assert "as 2 finished cells were" in said
    assert "evaluation comes on top" not in said


def left_of(folder, capsys):
    """Tokens that are left to train, as `plan` tells them."""
    capsys.readouterr()
    assert main(["plan", "mine.yaml"]) == 0
    return re.search(r"([\d,]+) tokens to train", capsys.readouterr().out)[1]


def saved(job, tokens):
    """As much of a checkpoint as `plan` looks at."""
    return {"of": checkpoint_of(job), "run": {"tokens": tokens}}


def test_what_a_cell_goes_on_from_is_not_left_unless_it_is_refused(folder, capsys, monkeypatch):
    monkeypatch.setattr("collapse_bench.forecast.tokens_a_second", lambda job: 100.0)
    assert left_of(folder, capsys) == "400"
    suite = load_suite(folder / "mine.yaml", {})
    corpus = load_corpus(suite.corpus, None, say=print)
    of = {"budget": None, "device": "cpu", "remedy_files": {}}
    job = plan(cells_of(suite), corpus, folder / "runs", **of)[1]
    write_checkpoint(job.folder / "checkpoint-000000000150.pt", saved(job, 150))
    assert left_of(folder, capsys) == "250"
    for name in ("code", "torch"):
        other = checkpoint_of(job) | {name: "another"}
        write_checkpoint(job.folder / "checkpoint-000000000150.pt", saved(job, 150) | {"of": other})
        assert left_of(folder, capsys) == "400"
        told = f"begin anew: 1, whose checkpoints are of another {name}: go back to that"
        assert told in what_has_changed([job])[0]
        others = what_has_changed([job], elsewhere=True)
        assert bool(others) == (name == "code"), "versions are those of the other machine"
    write_checkpoint(job.folder / "checkpoint-000000000060.pt", saved(job, 60))
    assert left_of(folder, capsys) == "340"
    assert what_has_changed([job]) == []
    (job.folder / "checkpoint-000000000060.pt").write_bytes(b"")
    assert left_of(folder, capsys) == "400"


@pytest.mark.parametrize("loss", ["removed", "damaged"])
def test_a_cell_whose_arrays_are_lost_is_not_trained_again(folder, capsys, loss):
    assert main(["run", "mine.yaml", "--workers", "1"]) == 0
    [cell] = (folder / "runs" / "mine").glob("vae-*")
    arrays = cell / "sentences.npz"
    arrays.unlink() if loss == "removed" else arrays.write_bytes(b"")
    assert left_of(folder, capsys) == "0"
    model = cell / "model.safetensors"
    model.unlink() if loss == "removed" else model.write_bytes(b"")
    # One that has neither is kept, as it is where a record was published.
    assert left_of(folder, capsys) == ("0" if loss == "removed" else "200")


def test_cells_of_other_settings_and_damaged_ones_are_told(folder, capsys):
    assert main(["run", "mine.yaml", "--workers", "1", "--budget", "100"]) == 0
    [cell] = (folder / "runs" / "mine").glob("vae-*")
    (cell / "record.json").write_text("{")
    capsys.readouterr()
    assert main(["plan", "mine.yaml", "--budget", "100"]) == 0
    said = capsys.readouterr().err
    assert f"{cell.relative_to(folder)}: record.json is damaged; a run puts it aside" in said
    assert "other settings" not in said
    assert main(["plan", "mine.yaml"]) == 0
    assert "other settings" not in capsys.readouterr().err, "a budget is for each run to say"
    (folder / "mine.yaml").write_text(
        SUITE.replace("BUDGET", "200").replace("hidden: 8", "hidden: 9")
    )
    assert left_of(folder, capsys) == "400"
    assert main(["plan", "mine.yaml"]) == 0
    assert "cells of other settings, text or remedies: 1, such as runs" in capsys.readouterr().err
    assert main(["status", "mine.yaml"]) == 0
    assert "1 more are of other settings" in capsys.readouterr().out, "and one tells not of which"


def test_a_budget_of_less_than_an_update_can_be_timed(folder, capsys, monkeypatch):
    monkeypatch.setattr("collapse_bench.forecast.TIMED", 0.1)
    assert main(["plan", "mine.yaml", "--budget", "1"]) == 0
    assert "they take about 1 min" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("seconds", "words"), [(1, "1 min"), (89, "1 min"), (3540, "59 min"), (7810, "2 h 10 min")]
)
def test_a_time_in_words(seconds, words):
    assert in_words(seconds) == words


def test_check_says_which_labels_were_found(folder, capsys):
    assert main(["check", "mine.yaml"]) == 0
    assert "labels found: label (2 values, 3 sentences without one)" in capsys.readouterr().err
    (folder / "texts" / "valid.labels").unlink()
    assert main(["check", "mine.yaml"]) == 0
    assert "2 sentences without one, none in valid)" in capsys.readouterr().err
    (folder / "texts" / "valid.labels").write_text("x\ny\n\nx\n")
    for split in ("train", "valid", "test"):
        (folder / "texts" / f"{split}.labels").unlink()
    assert main(["check", "mine.yaml"]) == 0
    assert "labels found: none" in capsys.readouterr().err


def test_check_finds_an_oracle_without_labels_and_a_missing_text(folder, capsys):
    (folder / "mine.yaml").write_text(SUITE.replace("BUDGET", "200") + "  oracle: {told: labels}\n")
    assert main(["check", "mine.yaml"]) == 0
    (folder / "texts" / "valid.labels").unlink()
    assert main(["check", "mine.yaml"]) == 2
    said = capsys.readouterr().err
    assert "error: mine.yaml: corpus text: told: labels needs labels" in said
    assert "train: label; valid: none; test: label" in said
    (folder / "texts" / "test.txt").unlink()
    assert main(["check", "mine.yaml"]) in (2, 3)
    assert "test.txt" in capsys.readouterr().err


def test_a_checkpoint_that_another_run_removes_meanwhile_is_none(folder, capsys, monkeypatch):
    """Its name is still in the folder when that is listed, and it is gone when it is asked for."""
    monkeypatch.setattr("collapse_bench.forecast.tokens_a_second", lambda job: 100.0)
    assert main(["run", "mine.yaml", "--workers", "1", "--only", "language_model/*"]) == 0
    suite = load_suite(folder / "mine.yaml", {})
    corpus = load_corpus(suite.corpus, None, say=print)
    of = {"budget": None, "device": "cpu", "remedy_files": {}}
    job = plan(cells_of(suite), corpus, folder / "runs", **of)[1]
    job.folder.mkdir()
    (job.folder / "checkpoint-000000000150.pt").symlink_to("gone")
    assert left_of(folder, capsys) == "200"
