"""A whole cell, the corpus it begins with, and how long a command takes to begin at all."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import reference
from benchmarks.conftest import ROOT, pick, quiet
from collapse_bench import runner
from collapse_bench.cell import run_cell
from collapse_bench.corpus import load_corpus
from collapse_bench.metrics import key_of
from collapse_bench.plugins import remedy_files

SHARE = 60
"""One in so many tokens of the budget and held-out sentences: the cell's proportions hold, except
that the corpus is loaded whole."""
ROUNDS, LOADING_ROUNDS, START_UP_ROUNDS = 1, 3, 2
CHECKED = ROOT / "suites" / "ptb.yaml"
FIRST_STEP = Path(__file__).with_name("first_step.py")


@pytest.mark.benchmark(group="cell")
def test_cell(race, cells, corpus, suite, source, texts, tmp_path):
    cell = cells["lstm"]
    budget = suite.training.budget_for(corpus.name) // SHARE

    def plain():
        results = reference.run_cell(cell, texts, tmp_path / "reference", budget=budget, keep=SHARE)
        return results["nll"]

    def ours():
        whole = load_corpus(*source, quiet)
        part = slice(None, None, SHARE)
        shared = replace(whole, valid=pick(whole.valid, part), test=pick(whole.test, part))
        (job,) = runner.plan(
            [cell], shared, tmp_path, budget=budget, device="cpu", remedy_files=remedy_files()
        )
        record = run_cell(job, report=lambda progress: None)
        assert record["status"] == "done", record["error"]
        return record["metrics"][key_of("nll")]

    # No warm-up: a cell is a process of its own, and starts cold.
    race(
        reference=plain, bench=ours, rounds=ROUNDS, warmup_rounds=0, work=budget, unit="tokens"
    )  # fmt: skip


@pytest.mark.benchmark(group="corpus_loading")
def test_corpus_loading(race, corpus, source, texts):
    words = sum(len(split.tokens) for split in (corpus.train, corpus.valid, corpus.test))
    race(
        reference=lambda: reference.load(texts)[0],
        bench=lambda: load_corpus(*source, quiet).vocabulary.size,
        rounds=LOADING_ROUNDS,
        work=words,
        unit="words",
    )


def start_up(benchmark, *arguments):
    """Time a process from its start to its end; what it printed."""
    command = [sys.executable, *map(str, arguments)]

    def run():
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return benchmark.pedantic(run, rounds=START_UP_ROUNDS, warmup_rounds=1)


@pytest.mark.benchmark(group="start_up_help")
def test_help(benchmark):
    start_up(benchmark, "-m", "collapse_bench", "--help")


@pytest.mark.benchmark(group="start_up_check")
def test_check(benchmark):
    start_up(benchmark, "-m", "collapse_bench", "check", CHECKED)


@pytest.mark.benchmark(group="start_up_first_step")
def test_first_step(benchmark):
    benchmark.extra_info.update(json.loads(start_up(benchmark, FIRST_STEP)))
