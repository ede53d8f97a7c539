"""A cell that is interrupted goes on from its last checkpoint: whole cells, and real signals."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from threading import Event

import pytest
from conftest import SIZES, TRAINING, same_arrays

from collapse_bench.cell import run_cell
from collapse_bench.cli import build_parser
from collapse_bench.corpus import load_corpus
from collapse_bench.evidence import NOTE
from collapse_bench.lease import LEASE, Lease
from collapse_bench.plugins import remedy_files
from collapse_bench.progress import Progress
from collapse_bench.provenance import CODE
from collapse_bench.record import HISTORY, MODEL, RECORD, SENTENCES, read_arrays, read_record
from collapse_bench.runner import Ended, Outcome, Reported, plan, run_jobs
from collapse_bench.runner.attempt import attempt, tidy
from collapse_bench.suite import Cell, CorpusSettings, Entry, Evaluation, cells_of, load_suite
from collapse_bench.training import StoppedError, TrainingRun, checkpoint

BUDGET = 700

TIMES = (
    "attempts", "seconds", "training_seconds", "validation_seconds", "checkpoint_seconds",
    "peak_memory_mib",
)  # fmt: skip


def quiet(told):
    """A report that nobody reads."""


def untimed(record):
    """A record without what differs from run to run."""
    return record | {
        "attempts": None,
        "cost": {k: v for k, v in record["cost"].items() if k not in TIMES},
    }


@pytest.fixture
def job(corpus, tmp_path, monkeypatch):
    """A cell of the plain VAE, whose first validation makes a checkpoint due."""
    monkeypatch.setattr(checkpoint, "SOONEST", 0.0)
    monkeypatch.setattr(checkpoint, "SHARE", float("inf"))

    def job(fresh=False):
        cell = Cell(
            "tiny", Entry("vae", ()), "lstm", 1, CorpusSettings(), SIZES,
            replace(TRAINING, validations=3), Evaluation(samples=8, precision="float32"),
        )  # fmt: skip
        (planned,) = plan([cell], corpus, tmp_path, budget=BUDGET, device="cpu", remedy_files={})
        return replace(planned, fresh=fresh)

    return job


def test_a_cell_that_fails_in_its_evaluation_has_been_trained(job, monkeypatch):
    expected = run_cell(job(), quiet)
    folder = job().folder
    arrays = read_arrays(folder)
    assert not list(folder.glob("*checkpoint*")), "a finished cell needs none"
    (folder / "record.json").unlink()
    with monkeypatch.context() as patch:
        patch.setattr("collapse_bench.cell.evaluate_cell", None)
        assert run_cell(job(), quiet)["status"] == "failed"
    told = []
    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "update", None)
        found = run_cell(job(), told.append)
    spent = expected["cost"]["tokens_decoded"]
    said = {"said": f"goes on from {spent:,} of {BUDGET:,} tokens"}
    assert told == [said, {"evaluating": True}, {"measuring": True}, {"recording": True}]
    assert untimed(found) == untimed(expected)
    assert same_arrays(read_arrays(folder), arrays)
    assert (expected["cost"]["attempts"], found["cost"]["attempts"]) == (1, 2)
    assert not list(folder.glob("*checkpoint*"))


def test_a_fresh_run_does_not_go_on(job, monkeypatch):
    monkeypatch.setattr("collapse_bench.cell.evaluate_cell", None)
    told = []
    assert run_cell(job(), told.append)["status"] == "failed"
    assert list(job().folder.glob("checkpoint-*"))
    assert run_cell(job(fresh=True), told.append)["cost"]["attempts"] == 1
    assert not any("said" in each for each in told)
    assert run_cell(job(), told.append)["cost"]["attempts"] == 2
    assert any("said" in each for each in told)
    assert build_parser().parse_args(["run", "a.yaml", "--fresh"]).fresh


def test_a_cell_of_edited_code_begins_anew_and_says_so(job, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("collapse_bench.cell.evaluate_cell", None)
        run_cell(job(), quiet)
    monkeypatch.setattr("collapse_bench.cell.CODE", 64 * "f")
    told = []
    edited = run_cell(replace(job(), code=64 * "f"), told.append)
    assert (edited["status"], edited["cost"]["attempts"]) == ("done", 1)
    assert f"of another code ({CODE[:12]}, now ffffffffffff); not" in told[0]["said"]
    assert told[-4:] == [
        {"said": "begins anew"}, {"evaluating": True}, {"measuring": True}, {"recording": True},
    ]  # fmt: skip


def test_what_an_interrupted_write_left_goes_with_the_cell(job):
    left = job().folder / ".checkpoint-000000000100.pt.123.tmp"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    assert run_cell(job(), quiet)["status"] == "done"
    assert not left.exists()


def test_what_an_attempt_left_that_was_killed_right_after_its_record_goes_with_the_next_run(
    job, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.Checkpoints, "remove", lambda self: None)
        assert run_cell(job(), quiet)["status"] == "done"
    folder = job().folder
    (folder / "lease.json").write_text("{}")
    (folder / ".model.safetensors.12.0123abcd.tmp").write_bytes(b"half")
    assert list(folder.glob("checkpoint-*"))
    tidy(job())
    assert {path.name for path in folder.iterdir()} == {
        "record.json", "history.jsonl", "sentences.npz", "model.safetensors", "vocabulary.json",
    }  # fmt: skip


def test_nothing_is_tidied_of_a_cell_that_is_to_be_run_or_that_another_process_is_at(
    job, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr("collapse_bench.cell.evaluate_cell", None)
        assert run_cell(job(), quiet)["status"] == "failed"
    left = sorted(job().folder.iterdir())
    assert len(left) == 6, "a record, what was trained, and two checkpoints to go on from"
    tidy(job())
    assert sorted(job().folder.iterdir()) == left
    monkeypatch.setattr(checkpoint.Checkpoints, "remove", lambda self: None)
    assert run_cell(job(), quiet)["status"] == "done"
    with job().hold():
        tidy(job())
        assert list(job().folder.glob("checkpoint-*"))


FATAL = '''\
"""A remedy whose update number 20 ends its process at the first attempt, and waits at the second.

(new)
"""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from collapse_bench.model import SLOTS, plain
from collapse_bench.remedy import Remedy
from collapse_bench.training import checkpoint

checkpoint.SOONEST = 0.0  # the first validation of an attempt makes one due
ATTEMPTS = Path(__file__).with_name("attempts")


@dataclass(frozen=True)
class Fatal(Remedy):
    def step(self, step, run):
        updates = 0

        def fatal(batch, *, only=SLOTS, then=plain):
            nonlocal updates
            updates += 1
            attempts = len(ATTEMPTS.read_text()) if ATTEMPTS.exists() else 0
            if updates == 20 and attempts < 2:
                ATTEMPTS.write_text("x" * (attempts + 1))
                if attempts == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(100)
            return step(batch, only=only, then=then)

        return fatal
'''

SUITE = """\
corpus: {name: newswire, sentences: 60}
architectures: [lstm]
sizes: {embedding: 8, hidden: 8, latent: 4, layers: 1, heads: 2}
training: {budget: 15000, batch: 16, validations: 10}
evaluation: {samples: 2}
seeds: [1]
entries:
  mine: [fatal, {aggressive_inference: {window: 2, longest: 4}}, word_dropout]
"""


def test_a_cell_whose_process_is_killed_ends_as_one_that_was_not(tmp_path, monkeypatch):
    """The worker is killed inside an inner loop, then the whole run is, then it ends."""
    monkeypatch.setattr(checkpoint, "SOONEST", checkpoint.SOONEST)  # which the remedy's file sets
    (tmp_path / "fatal.py").write_text(FATAL)
    (tmp_path / "trial.yaml").write_text(SUITE)
    command = [sys.executable, "-m", "collapse_bench", "run", "trial.yaml", "--plugin", "fatal.py"]

    def start():
        return subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, start_new_session=True
        )

    out, _ = start().communicate(timeout=300)
    assert "killed" in out
    run, attempts = start(), tmp_path / "attempts"
    deadline = time.monotonic() + 300
    while attempts.read_text() != "xx" and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(run.pid, signal.SIGKILL)
    out, _ = run.communicate(timeout=60)
    assert "mine/lstm/1: goes on from" in out
    out, _ = start().communicate(timeout=300)
    assert "mine/lstm/1: goes on from" in out
    (folder,) = (tmp_path / "runs" / "trial").glob("mine-*")
    found = read_record(folder / "record.json")
    assert found["cost"]["attempts"] == 3

    files = remedy_files([tmp_path / "fatal.py"])
    suite = load_suite(tmp_path / "trial.yaml", files)
    suite = replace(suite, training=replace(suite.training, threads=1))
    corpus = load_corpus(suite.corpus, None, say=quiet)
    (job,) = plan(
        cells_of(suite), corpus, tmp_path / "whole", budget=None, device="cpu", remedy_files=files
    )
    assert job.id == folder.name
    assert untimed(run_cell(job, quiet)) == untimed(found)
    for name in (MODEL, SENTENCES):
        assert (job.folder / name).read_bytes() == (folder / name).read_bytes()
    whole, resumed = (
        [json.loads(row) for row in (each / HISTORY).read_text().splitlines()]
        for each in (job.folder, folder)
    )
    assert [row | {"seconds": 0} for row in whole] == [row | {"seconds": 0} for row in resumed]
    (folder / NOTE).unlink()  # which `attempt` leaves
    assert {path.name for path in folder.iterdir()} == {path.name for path in job.folder.iterdir()}
    seconds = [row["seconds"] for row in resumed]
    assert seconds == sorted(seconds)


class Here:
    """An engine that makes its attempts in this process, one after the other."""

    queues = False

    def room(self):
        return True

    def submit(self, job):
        self.job, self.told = job, []
        self.outcome = attempt(job, self.told.append, Event())

    def events(self, seconds):
        said = [Reported(self.job, each) for each in self.told]
        return [*said, Ended(self.job, self.outcome)]

    def close(self, grace):
        pass


def run_here(job):
    shown = io.StringIO()
    (result,) = run_jobs([job], Here(), Progress(1, shown))
    return result, shown.getvalue()


def test_a_result_that_cannot_be_made_whole_again_is_kept_and_told_of(job, monkeypatch):
    """Its arrays are lost, and its evaluation fails."""
    assert run_here(job())[0]["status"] == "done"
    folder = job().folder
    (folder / SENTENCES).unlink()
    with monkeypatch.context() as patch:
        patch.setattr("collapse_bench.cell.evaluate_cell", None)
        result, shown = run_here(replace(job(), tried=1))
    assert result["status"] == "failed"
    assert "failed after" in shown
    assert "it has kept its record" in result["error"]
    assert read_record(folder / RECORD)["status"] == "done"
    assert run_here(replace(job(), tried=1))[0]["status"] == "done"
    assert (folder / SENTENCES).exists()


@pytest.mark.parametrize(("lost", "damaged"), [(SENTENCES, MODEL), (MODEL, SENTENCES)])
def test_a_cell_that_has_neither_arrays_nor_a_model_any_more_is_run_again(job, lost, damaged):
    assert run_here(job())[0]["status"] == "done"
    folder = job().folder
    whole = {name: (folder / name).read_bytes() for name in (SENTENCES, MODEL)}
    (folder / lost).unlink()
    (folder / damaged).write_bytes(b"damaged")
    result, shown = run_here(replace(job(), tried=1))
    assert result["status"] == "done"
    assert "what it was made from is damaged" in shown
    assert {name: (folder / name).read_bytes() for name in whole} == whole


def test_what_a_killed_cell_has_cost_is_told_and_a_damaged_record_before_it_put_aside(job):
    class Dies(Here):
        def submit(self, job):
            self.job, self.told = job, [{"began": True}]
            self.outcome = Outcome("killed", "by whoever")
            lease = Lease("t", "far", "another", 1, 0.0, job.settings, 345, stopped=True)
            told = {name: value for name, value in vars(lease).items() if name != "age"}
            (job.folder / LEASE).write_text(json.dumps(told))

    folder = job().folder
    folder.mkdir(parents=True)
    (folder / RECORD).write_text("{")
    (result,) = run_jobs([job()], Dies(), Progress(1, io.StringIO()))
    assert (result["status"], result["cost"]["tokens_decoded"]) == ("killed", 345)
    assert (folder.parent / "quarantine" / f"{folder.name}-{RECORD}").read_text() == "{"


def test_a_training_is_not_shared_by_damaged_weights(job):
    lender = job()
    assert run_cell(lender, quiet)["status"] == "done"
    path = lender.folder / MODEL
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    borrower = replace(
        lender, id="b", folder=lender.folder.with_name("b"), trained_in=lender.folder
    )
    result = run_cell(borrower, quiet)
    assert result["status"] == "failed"
    assert f"{path}: not the file that the record was made from" in result["error"]


def test_an_evaluation_that_is_stopped_goes_on_from_the_end_of_the_training(job, monkeypatch):
    expected = run_cell(job(), quiet)
    arrays = read_arrays(job().folder)
    (job().folder / RECORD).unlink()
    stop, told = Event(), []
    with pytest.raises(StoppedError):
        run_cell(job(), lambda each: stop.set() if "evaluating" in each else None, stop)
    monkeypatch.setattr(TrainingRun, "update", None)
    found = run_cell(job(), told.append)
    assert untimed(found) == untimed(expected)
    assert same_arrays(read_arrays(job().folder), arrays)
