"""The command line from end to end: outcomes, exit codes, what is kept and what is run again."""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from collapse_bench.cell import run_cell
from collapse_bench.cli import main
from collapse_bench.cli.running import _threads_of_the_environment
from collapse_bench.errors import UserError
from collapse_bench.metrics import METRICS, VERDICTS, key_of, versioned
from collapse_bench.plugins import remedy_files
from collapse_bench.progress import reason
from collapse_bench.record import SCHEMA, read_arrays, read_record, read_records, write_record
from collapse_bench.remedy import find_class
from collapse_bench.runner import plan
from collapse_bench.suite import cells_of, load_suite

SUITE = """\
corpus: {{name: newswire, sentences: 60}}
architectures: [lstm]
sizes: {{embedding: 8, hidden: 8, latent: 4, layers: 1, heads: 2}}
training: {{budget: {budget}, batch: 16, validations: 1}}
evaluation: {{samples: 2}}
seeds: [1]
entries:
{entries}
"""

FAULT = '''\
"""A remedy that goes wrong at the first step, or a little later."""

import os
import signal
from dataclasses import dataclass, replace
from typing import Literal

from collapse_bench.remedy import Remedy


@dataclass(frozen=True)
class Fault(Remedy):
    kind: Literal["crash", "kill", "nan", "exit", "slow"] = "crash"
    after: int = 0

    def objective(self, forward):
        if forward.step < self.after:
            return forward
        if self.kind == "crash":
            raise RuntimeError("a crash on purpose")
        if self.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.kind == "exit":
            os._exit(7)
        if self.kind == "slow":
            import time
            time.sleep(60)
        return replace(forward, kl=forward.kl * float("nan"))
'''


DRAWS = '''\
"""A remedy that draws from generators that the bench has no use for."""

import random
from dataclasses import dataclass

import numpy as np

from collapse_bench.remedy import Remedy


@dataclass(frozen=True)
class Draws(Remedy):
    def step(self, step, run):
        run.state["draws"] = {"numpy": np.random.random(), "python": random.random()}
        return step
'''

KEEPER = '''\
"""A remedy that remembers what JSON does not know."""

from dataclasses import dataclass

import torch

from collapse_bench.remedy import Remedy


@dataclass(frozen=True)
class Keeper(Remedy):
    def step(self, step, run):
        run.state["keeper"] = {"seen": torch.tensor(1), "worst": float("nan"), "steps": 1}
        return step
'''


def here(folder, *arguments):
    """A verb in this process: loading takes seconds, and one fork server serves many runs."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(folder), redirect_stdout(out), redirect_stderr(err):
        try:
            code = main(list(arguments))
        except SystemExit as usage:
            code = usage.code
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """Run a verb in an empty folder that has a suite and a faulty remedy."""
    monkeypatch.delenv("COLLAPSE_BENCH_DATA", raising=False)
    (tmp_path / "fault.py").write_text(FAULT)

    def write(budget=3000, **entries):
        lines = "\n".join(f"  {name}: {value}" for name, value in entries.items())
        (tmp_path / "trial.yaml").write_text(SUITE.format(budget=budget, entries=lines))

    def run(*arguments, wait=True):
        if wait:
            return here(tmp_path, *arguments, "--plugin", "fault.py")
        command = [sys.executable, "-m", "collapse_bench", *arguments, "--plugin", "fault.py"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(
            command, cwd=tmp_path, env=environment, start_new_session=True, **pipes
        )

    run.write, run.folder = write, tmp_path
    return run


def outcomes(folder: Path) -> dict[str, dict]:
    return {record["entry"]: record for record in read_records(folder / "runs" / "trial")}


def test_a_cell_that_dies_diverges_or_crashes_is_an_outcome_and_the_others_go_on(bench):
    bench.write(
        crash="[fault]",
        kill="[{fault: {kind: kill}}]",
        nan="[{fault: {kind: nan, after: 6}}]",
        exit="[{fault: {kind: exit}}]",
        vae="[]",
    )
    result = bench("run", "trial.yaml", "--workers", "2")
    assert result.returncode == 1, result.stderr
    records = outcomes(bench.folder)
    assert {name: record["status"] for name, record in records.items()} == {
        "crash": "failed",
        "kill": "killed",
        "nan": "diverged",
        "exit": "failed",
        "vae": "done",
    }
    assert "a crash on purpose" in records["crash"]["error"]
    assert "Traceback" in records["crash"]["error"]
    assert "signal 9" in records["kill"]["error"]
    assert "step 6" in records["nan"]["error"]
    assert "exited with 7" in records["exit"]["error"]
    assert records["nan"]["cost"]["tokens_decoded"] > 0, "what a cell has cost is not lost"
    assert records["crash"]["metrics"] == {}
    assert records["crash"]["verdict"] is None
    assert records["vae"]["metrics"]["nll@2"] > 0
    assert records["vae"]["error"] is None

    again = bench("run", "trial.yaml")
    assert again.returncode == 1
    kept = [line for line in again.stdout.splitlines() if "kept" in line]
    assert len(kept) == 2, "done and diverged are kept; failed and killed are run again, once"
    for name in ("crash", "kill", "exit"):
        (before,) = outcomes(bench.folder)[name]["attempts"]
        assert (before["status"], before["error"]) == (
            records[name]["status"], records[name]["error"],
        ), "a failed one keeps its predecessor's traceback"  # fmt: skip

    again = bench("run", "trial.yaml")
    assert again.returncode == 1
    assert again.stdout.count("finished before") == 1
    assert again.stdout.count("failed before, in 2 attempts, kept; --retry failed runs it") == 2
    assert again.stdout.count("killed before, in 2 attempts, kept; --retry killed runs it") == 1
    again = bench("run", "trial.yaml", "--retry", "killed")
    assert len(outcomes(bench.folder)["kill"]["attempts"]) == 2
    assert len(outcomes(bench.folder)["crash"]["attempts"]) == 1

    board = bench("leaderboard", "trial.yaml", "--out", "board")
    assert board.returncode == 0, board.stderr
    page = (bench.folder / "board" / "trial.md").read_text()
    assert "a crash on purpose" in page
    assert "killed" in page
    assert "diverged" in page
    assert (bench.folder / "board" / "trial.png").exists()


def test_a_run_leaves_the_contract_and_is_not_repeated(bench):
    bench.write(vae="[]", annealed="[kl_annealing]")
    assert bench("run", "trial.yaml", "--only", "vae/*").returncode == 0
    (record,) = read_records(bench.folder / "runs" / "trial")
    assert (record["schema"], record["suite"], record["status"]) == (SCHEMA, "trial", "done")
    assert (record["entry"], record["architecture"], record["seed"]) == ("vae", "lstm", 1)
    assert set(record["corpus"]) >= {"name", "requested", "sha256", "sentences", "tokens"}
    attributes = {key for key in record["metrics"] if key.startswith("information_about_")}
    assert len(attributes) > 1
    # Two draws have no halves of two, a normal posterior no codes, and its prior no neighbours.
    absent = (
        *("information_about", "nll_gain_of_doubling", "refined_bound", "refinement_gain"),
        *("code_perplexity", "dead_codes", "negative_elbo_given_neighbours"),
    )
    assert record["metrics"].keys() - attributes == {
        key_of(name) for name in METRICS if name not in absent
    }
    assert record["standard_errors"].keys() == record["metrics"].keys()
    assert record["verdict"] in VERDICTS
    assert set(record["cost"]) >= {
        "seconds", "tokens_decoded", "encoder_updates", "decoder_updates", "peak_memory_mib",
    }  # fmt: skip
    assert 3000 <= record["cost"]["tokens_decoded"] < 3000 + 16 * 31
    folder = bench.folder / "runs" / "trial" / record["cell"]
    assert {path.name for path in folder.iterdir()} == {
        "record.json", "sentences.npz", "model.safetensors", "history.jsonl", "vocabulary.json",
        "held.json",
    }  # fmt: skip
    arrays = read_arrays(folder)
    assert arrays["log_weights"].shape == (record["corpus"]["sentences"]["test"], 2)

    written = (folder / "record.json").stat().st_mtime_ns
    assert bench("run", "trial.yaml").returncode == 0
    assert (folder / "record.json").stat().st_mtime_ns == written
    assert set(outcomes(bench.folder)) == {"vae", "annealed"}


def test_a_cell_that_another_run_finishes_meanwhile_is_kept(bench):
    """A is held at its first cell, which is told before it starts; B finishes the second."""
    bench.write(budget=300, first="[{fault: {kind: slow}}]", second="[]")
    a = bench("run", "trial.yaml", "--workers", "1", wait=False)
    assert "2 cells on newswire" in a.stdout.readline()
    b = bench("run", "trial.yaml", "--only", "second/*")
    assert b.returncode == 0, b.stderr
    folder = bench.folder / "runs" / "trial"
    [path] = folder.glob("second*/record.json")
    written = path.read_bytes(), path.stat().st_mtime_ns
    deadline = time.monotonic() + 60
    while not (workers := _workers(a.pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for worker in workers:
        os.kill(worker, signal.SIGKILL)  # the slow one; A goes on to the second
    out, err = a.communicate(timeout=120)
    assert a.returncode == 1, err
    assert "/2] second/lstm/1: finished before, kept" in out
    assert (path.read_bytes(), path.stat().st_mtime_ns) == written


def test_a_failure_never_replaces_a_result(tmp_path):
    told = {"schema": SCHEMA, "metrics": {}}
    for status in ("failed", "diverged", "killed", "done"):
        assert write_record(tmp_path, told | {"status": status})
        assert read_record(tmp_path / "record.json")["status"] == status
    for status in ("failed", "diverged", "killed", "timeout"):
        assert not write_record(tmp_path, told | {"status": status})
        assert read_record(tmp_path / "record.json")["status"] == "done"
    assert write_record(tmp_path, told | {"status": "done", "verdict": "healthy"})
    assert read_record(tmp_path / "record.json")["verdict"] == "healthy"


def test_a_copied_folder_is_named(bench):
    bench.write(budget=100, vae="[]")
    assert bench("run", "trial.yaml").returncode == 0
    runs = bench.folder / "runs" / "trial"
    [folder] = runs.glob("vae-*")
    shutil.copytree(folder, runs / "backup")
    board = bench("leaderboard", "trial.yaml")
    assert board.returncode == 2
    assert f"runs/trial/backup: holds the record of the cell {folder.name}, so" in board.stderr
    shutil.rmtree(runs / "backup")
    assert bench("leaderboard", "trial.yaml").returncode == 0


def test_an_entry_is_given_its_own_budget(bench):
    bench.write(budget=300, vae="[]", longer="{remedies: [], budget: 700}")
    said = bench("run", "trial.yaml")
    assert said.returncode == 0, said.stderr
    assert "2 cells on newswire, 300 to 700 tokens each" in said.stdout
    records = outcomes(bench.folder)
    assert {n: (r["budget"], r["suite_budget"]) for n, r in records.items()} == {
        "vae": (300, 300),
        "longer": (700, 300),
    }
    assert 700 <= records["longer"]["cost"]["tokens_decoded"] < 700 + 16 * 31
    assert bench("run", "trial.yaml", "--budget", "100", "--out", "all").returncode == 0
    for record in read_records(bench.folder / "all" / "trial"):
        assert record["budget"] == record["suite_budget"] == 100


def test_a_page_leaves_out_what_was_scored_with_labels_that_have_been_replaced(tmp_path, capsys):
    from collapse_bench.cli.verbs import _with_present_labels
    from collapse_bench.corpus import load_corpus
    from collapse_bench.suite import load_suite

    (tmp_path / "text").mkdir()
    for split in ("train", "valid", "test"):
        (tmp_path / "text" / f"{split}.txt").write_text("a b\nb c\n")
    (tmp_path / "trial.yaml").write_text(
        "corpus: {name: text, path: text}\narchitectures: [lstm]\ntraining: {budget: 9}\n"
        "entries: {vae: []}\n"
    )
    suite = load_suite(tmp_path / "trial.yaml", {})
    records = []
    for labels in ("x\ny\n", "y\nx\n", "\n\n"):
        (tmp_path / "text" / "test.labels").write_text(labels)
        records.append({"corpus": load_corpus(suite.corpus, None, print).record()})
        assert _with_present_labels(records, suite) == records[-1:]
        assert _with_present_labels(records[:1], suite) == records[:1], "nothing to choose from"
    assert "2 records of earlier labels are left out" in capsys.readouterr().err
    other = {"corpus": records[0]["corpus"] | {"sha256": "another text"}}
    assert _with_present_labels([other, *records], suite) == [other, records[-1]]


def test_a_changed_entry_an_edited_remedy_and_another_budget_are_new_cells(bench):
    bench.write(mine="[{fault: {kind: crash}}]", other="[{kl_annealing: {warmup: 0.5}}]")
    bench("run", "trial.yaml")
    assert len(read_records(bench.folder / "runs" / "trial")) == 2
    bench.write(mine="[{fault: {kind: crash}}]", other="[{kl_annealing: {warmup: 0.75}}]")
    source = bench.folder / "fault.py"
    source.write_text(source.read_text() + "\n# edited\n")
    bench("run", "trial.yaml")
    assert len(read_records(bench.folder / "runs" / "trial")) == 4
    bench("run", "trial.yaml", "--only", "other/*", "--budget", "300")
    assert len(read_records(bench.folder / "runs" / "trial")) == 5
    board = bench("leaderboard", "trial.yaml")
    assert "2 records of earlier settings are left out" in board.stderr


@pytest.mark.parametrize(
    ("whom", "number", "code"),
    [
        (os.killpg, signal.SIGINT, 130),  # as a terminal does
        (os.kill, signal.SIGTERM, 143),  # as a scheduler does, or with SIGKILL as for memory
        (os.kill, signal.SIGKILL, -9),
    ],
)
def test_a_signal_stops_the_workers_and_says_what_is_kept(bench, whom, number, code):
    bench.write(slow="[{fault: {kind: slow}}]", vae="[]")
    process = bench("run", "trial.yaml", "--workers", "1", wait=False)
    started = process.stdout.readline()
    assert "2 cells on newswire" in started
    deadline = time.monotonic() + 60
    while not (workers := _workers(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    whom(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert ("interrupted" in err) == (number != signal.SIGKILL)
    assert "Traceback" not in err
    deadline = time.monotonic() + 5
    while any(map(_alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(_alive, workers))
    assert not read_records(bench.folder / "runs" / "trial"), "an interruption is no outcome"


def _alive(process: int) -> bool:
    status = Path(f"/proc/{process}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


def _children(process: int) -> list[int]:
    children = Path(f"/proc/{process}/task/{process}/children")
    return [int(each) for each in children.read_text().split()] if children.exists() else []


def _workers(run: int) -> list[int]:
    """The processes of a run that hold a cell: they are forked from its fork server."""
    return [worker for server in _children(run) for worker in _children(server)]


def test_usage_and_suite_errors_are_text_with_exit_code_2(bench):
    bench.write(vae="[]", typo="[word_dropuot]")
    for verb in ("run", "check", "leaderboard"):
        result = bench(verb, "trial.yaml")
        assert result.returncode == 2
        assert "word_dropout" in result.stderr, "the nearest legal name is offered"
        assert "Traceback" not in result.stderr
    assert bench("run", "nowhere.yaml").returncode == 2
    assert bench("run", "trial.yaml", "--seeds", "1,x").returncode == 2
    assert bench("run", "trial.yaml", "--workers", "0").returncode == 2
    assert "write 1000000" in bench("run", "trial.yaml", "--budget", "1e6").stderr
    assert bench("bake", "trial.yaml").returncode == 2


def test_a_file_in_place_of_a_folder_is_an_error_in_words(bench):
    bench.write(vae="[]")
    for verb in ("run", "leaderboard"):
        if verb == "leaderboard":
            assert bench("run", "trial.yaml").returncode == 0
        result = bench(verb, "trial.yaml", "--out", "trial.yaml")
        assert result.returncode == 2
        assert "trial.yaml" in result.stderr
        assert "Traceback" not in result.stderr


@pytest.mark.parametrize("verb", [["list", "metrics"], ["list", "corpora"]])
def test_a_terminal_that_cannot_write_a_character_shows_a_question_mark(verb):
    command = [sys.executable, "-c", "import sys; from collapse_bench.cli import main; "
               "main(sys.argv[1:]); print('1.0 ± 0.1', file=sys.stderr)", *verb]  # fmt: skip
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "1.0 ? 0.1\n")


def test_check_finds_what_only_a_step_can_show(bench):
    bench.write(
        clash="[{delta_vae: {length: 2}}, limited_receptive_field]",
        indivisible="[{delta_vae: {length: 3}}]",
        crash="[fault]",
        vae="[]",
    )
    result = bench("check", "trial.yaml")
    assert result.returncode == 2
    assert "crash/lstm: RuntimeError: a crash on purpose" in result.stderr
    assert "fault.py:" in result.stderr
    assert "limited_receptive_field replaces the decoder that delta_vae installed" in result.stderr
    assert "length must divide the latent size" in result.stderr
    assert bench("run", "trial.yaml").returncode == 2
    assert not (bench.folder / "runs").exists()


def test_a_missing_corpus_is_exit_code_3_and_a_named_substitute_is_used_and_said(bench):
    bench.write(vae="[]")
    suite = bench.folder / "trial.yaml"
    text = suite.read_text()
    offline = text.replace("{name: newswire, sentences: 60}", "{name: ptb, path: nowhere}")
    suite.write_text(offline)
    missing = bench("run", "trial.yaml", "--data", "nowhere")
    assert missing.returncode == 3
    assert "Traceback" not in missing.stderr
    assert "train.txt" in missing.stderr


def test_the_corpus_of_a_substitute_is_named_in_every_record(bench):
    suite = bench.folder / "trial.yaml"
    bench.write(budget=100, vae="[]")
    text = suite.read_text()
    text = text.replace(
        "{name: newswire, sentences: 60}", "{name: ptb, otherwise: newswire, sentences: 60}"
    )
    suite.write_text(text)
    result = bench("run", "trial.yaml", "--data", "nowhere")
    assert result.returncode == 0, result.stderr
    assert "newswire" in result.stderr
    (record,) = read_records(bench.folder / "runs" / "trial")
    assert record["corpus"]["name"] == "newswire"
    assert record["corpus"]["requested"] == "ptb"
    assert bench("leaderboard", "trial.yaml", "--out", "board").returncode == 0
    page = (bench.folder / "board" / "trial.md").read_text()
    assert "newswire" in page


def test_the_same_seed_gives_the_same_numbers_whatever_runs_beside_it(bench):
    bench.write(vae="[]", annealed="[kl_annealing]")
    assert bench("run", "trial.yaml", "--out", "one", "--workers", "2").returncode == 0
    assert bench("run", "trial.yaml", "--out", "two", "--workers", "1").returncode == 0
    first, second = (read_records(bench.folder / out / "trial") for out in ("one", "two"))
    for a, b in zip(first, second, strict=True):
        assert a["cell"] == b["cell"]
        assert a["metrics"] == b["metrics"]
    other = bench("run", "trial.yaml", "--out", "one", "--seeds", "2", "--workers", "2")
    assert other.returncode == 0
    assert len({r["metrics"]["nll@2"] for r in read_records(bench.folder / "one" / "trial")}) == 4


def test_another_number_of_threads_is_another_cell(bench):
    bench.write(vae="[]", budget=300)
    for out, more in {"runs": [], "two": ["--threads", "2"]}.items():
        assert bench("run", "trial.yaml", "--out", out, *more).returncode == 0
        assert bench("leaderboard", "trial.yaml", "--runs", out).returncode == 0
    ((one,), (two,)) = (read_records(bench.folder / out / "trial") for out in ("runs", "two"))
    assert [r["environment"]["threads"] for r in (one, two)] == [1, 2]
    assert [r["settings"]["training"]["threads"] for r in (one, two)] == [1, 2]
    assert one["cell"] != two["cell"]
    shutil.copytree(bench.folder / "two/trial", bench.folder / "runs/trial", dirs_exist_ok=True)
    both = bench("leaderboard", "trial.yaml")
    assert both.returncode == 2
    assert "another number of threads" in both.stderr


def test_the_threads_of_the_environment_are_those_of_a_cell(monkeypatch):
    for value, threads in {"3": 3, "2,1": 2, "": 1}.items():
        monkeypatch.setenv("OMP_NUM_THREADS", value)
        assert _threads_of_the_environment() == threads
    for value in ("0", "many"):
        monkeypatch.setenv("OMP_NUM_THREADS", value)
        with pytest.raises(UserError, match=f"OMP_NUM_THREADS.*'{value}'; unset it"):
            _threads_of_the_environment()


def test_a_suite_that_names_its_threads_is_not_overruled_by_the_environment(bench):
    """OMP_NUM_THREADS is 1 here."""
    bench.write(vae="[]", budget=300)
    suite = bench.folder / "trial.yaml"
    suite.write_text(suite.read_text().replace("batch: 16,", "batch: 16, threads: 2,"))
    done = bench("run", "trial.yaml")
    assert "2 threads each" in done.stdout
    (record,) = read_records(bench.folder / "runs" / "trial")
    assert record["environment"]["threads"] == 2


def test_an_edited_plugin_fails_the_cells_that_were_planned_with_the_old_one(bench, corpus):
    bench.write(mine="[fault]")
    plugin, out = bench.folder / "fault.py", bench.folder / "runs"
    files = remedy_files([plugin])
    chosen = cells_of(load_suite(bench.folder / "trial.yaml", files))
    (job,) = plan(chosen, corpus, out, budget=None, device="cpu", remedy_files=files)
    plugin.write_text(FAULT + "\n# another one\n")
    record = run_cell(job, report=lambda told: None)
    assert record["status"] == "failed"
    assert "fault.py was edited while the suite was running" in record["error"]


def test_every_seed_has_its_own_state_of_all_generators(bench, corpus):
    (bench.folder / "draws.py").write_text(DRAWS)
    bench.write(mine="[draws]", budget=300)
    files = remedy_files([bench.folder / "draws.py"])
    suite = replace(load_suite(bench.folder / "trial.yaml", files), seeds=(1, 2, 1))
    jobs = plan(
        cells_of(suite), corpus, bench.folder, budget=None, device="cpu", remedy_files=files
    )
    one, other, again = (run_cell(job, lambda told: None)["state"]["draws"] for job in jobs)
    assert one == again
    assert all(one[name] != other[name] for name in one)


def test_a_file_that_is_called_as_a_module_is_does_no_harm(bench):
    for name in ("profile", "queue", "struct"):
        (bench.folder / f"{name}.py").write_text("raise AssertionError('a script of the user')")
    bench.write(vae="[]", budget=300)
    command = [sys.executable, "-P", "-m", "collapse_bench", "run", "trial.yaml"]
    done = subprocess.run(
        [*command, "--plugin", "fault.py"], cwd=bench.folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_an_interruption_before_the_first_cell_is_one_in_words(bench):
    bench.write(slow="[{fault: {kind: slow}}]")
    process = bench("run", "trial.yaml", wait=False)
    assert "1 cell on newswire" in process.stdout.readline()
    deadline = time.monotonic() + 60
    while len(_children(process.pid)) < 2 and time.monotonic() < deadline:  # tracker and server
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "interrupted; " in err
    assert "Traceback" not in err


def test_a_cell_whose_fork_server_dies_is_ended_and_told_of(bench):
    bench.write(slow="[{fault: {kind: slow}}]")
    process = bench("run", "trial.yaml", wait=False)
    deadline = time.monotonic() + 60
    while not (workers := _workers(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for server in _children(process.pid):
        if _children(server):
            os.kill(server, signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    (record,) = read_records(bench.folder / "runs" / "trial")
    assert "forked from was ended" in record["error"]
    assert not any(map(_alive, workers))


def test_what_a_remedy_remembers_never_costs_a_result(bench):
    bench.write(mine="[keeper]")
    (bench.folder / "keeper.py").write_text(KEEPER)
    result = bench("run", "trial.yaml", "--plugin", "keeper.py")
    assert result.returncode == 0, result.stderr
    (record,) = read_records(bench.folder / "runs" / "trial")
    assert record["state"] == {"keeper": {"seen": "tensor(1)", "worst": "NaN", "steps": 1}}


def test_help_is_fast_to_load_and_list_names_everything():
    code = "import sys, collapse_bench.cli as c; c.build_parser(); print('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "False"
    for what, names in {
        "remedies": ["kl_annealing", "delta_vae", "rate"],
        "corpora": ["ptb", "text", "newswire"],
        "architectures": ["lstm", "transformer"],
        "metrics": ["nll@2 (nats)", "mutual_information_upper", "cannot see: whether the decoder"],
    }.items():
        listed = here(".", "list", what).stdout
        assert all(name in listed for name in names), listed


def test_every_suite_that_ships_is_well_formed():
    paths = sorted((Path(__file__).parents[1] / "suites").glob("*.yaml"))
    assert len(paths) >= 3
    for path in paths:
        names = {entry.name for entry in load_suite(path, remedy_files()).entries}
        assert "language_model" in names
        assert names & {"vae", "unit"}


def test_records_are_json_without_nan(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_record(tmp_path, {"schema": 1, "nll": float("nan")})
    assert not list(tmp_path.iterdir())
    write_record(tmp_path, {"schema": 1})
    assert json.loads((tmp_path / "record.json").read_text()) == {"schema": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]


def trace_of(source, path, call="broken()"):
    """The traceback of a file's function."""
    path.write_text(source)
    names = {}
    exec(compile(source, str(path), "exec"), names)
    try:
        exec(call, names)
    except Exception:
        return traceback.format_exc()


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero (FILE:4)"),
        ("json.dumps({0: {1}})", "TypeError: Object of type set is not JSON serializable (FILE:4)"),
        ("raise ValueError('one\\n two')", "ValueError: one (FILE:4)"),
        ("raise ContractError('mine: wrong')", "mine: wrong (FILE:4)"),
    ],
)
def test_the_reason_of_a_failure_is_its_error_and_the_place_in_the_remedy(tmp_path, body, told):
    path = tmp_path / "mine.py"
    top = (
        "import json\nfrom collapse_bench.model.contract import ContractError\ndef broken():\n    "
    )
    trace = trace_of(top + body, path)
    assert reason(trace, {str(path)}) == told.replace("FILE", str(path))
    assert reason(trace, ()) == told.removesuffix(" (FILE:4)")
    assert reason("", ()) == ""


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_progress_is_live_on_a_terminal_and_one_line_a_cell_elsewhere(stream):
    from collapse_bench.progress import Progress

    def job(name):
        cell = SimpleNamespace(name=name, entry=SimpleNamespace(remedies=()))
        return SimpleNamespace(id=name, budget=100, cell=cell, remedy_files={})

    def ended(status, **metrics):
        return {
            "status": status,
            "error": "a\nlast line",
            "cost": {"seconds": 3.0},
            "metrics": versioned(metrics),
            "verdict": "partly collapsed" if metrics else None,
            "bound": "valid" if metrics else None,
            "latent": 4,
            "environment": {"eager": "the reason"},
        }

    out = stream()
    progress = Progress(4, out)
    progress.skipped(job("old"), {"status": "done"})
    for name in ("one", "two"):
        progress.started(job(name))
    progress.reported(job("one"), {"tokens": 50, "loss": 12.34, "kl": 1.5})
    progress.ended(job("one"), ended("done", nll=9.0, kl=1.0, useful_beyond=0.5))
    progress.started(job("three"))
    progress.ended(job("two"), ended("failed"))
    progress.close()
    text = out.getvalue()
    assert "[1/4] old: finished before, kept" in text
    assert (
        "[2/4] one: NLL 9.00  useful beyond length and first words 0.50 of rate 1.00, "
        "partly collapsed, in 3 s" in text
    )
    assert "[3/4] two: failed after 3 s: last line" in text
    assert ("loss 12.3 KL 1.50" in text) == (stream is Terminal)
    assert (len(text.splitlines()) == 3) == (stream is io.StringIO)
    told = Progress(4, stream(), verbose=True)
    told.ended(job("one"), ended("done", nll=9.0))
    assert told.stream.getvalue().endswith("    passes were not replayed: the reason\n")
    assert "the reason" not in text


@pytest.mark.parametrize(("name", "values"), [("smoke", False), ("smoke-values", True)])
def test_the_smoke_suite_has_every_remedy_and_runs(tmp_path, name, values):
    suite = Path(__file__).parents[1] / "suites" / f"{name}.yaml"
    done = here(tmp_path, "run", str(suite), "--budget", "1500", "--only", "*/lstm/1")
    assert done.returncode == 0, done.stdout + done.stderr
    records = read_records(tmp_path / "runs" / name)
    named = load_suite(suite, remedy_files())
    assert {record["entry"] for record in records} == {e.name for e in named.entries}
    assert set(named.architectures) == {"lstm", "transformer"}
    run = {remedy["name"] for record in records for remedy in record["remedies"]}
    classes = {each: find_class(each, path) for each, path in remedy_files().items()}
    everywhere = set(named.architectures)
    assert run == {
        each
        for each, remedy in classes.items()
        if everywhere <= set(remedy.architectures) and remedy.values == values
    }
    for record in records:
        if record["entry"] == "delta_vae":
            assert record["metrics"]["kl@1"] >= 4.8 - 1e-3
