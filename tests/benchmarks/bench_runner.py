"""What the runner costs beside the cells: the schedule, and looking at a suite of 1,000 cells."""

import io
from dataclasses import replace
from pathlib import Path

import pytest

from collapse_bench.job import describe
from collapse_bench.plugins import remedy_files
from collapse_bench.progress import Progress
from collapse_bench.record import RECORD, text_of, write_record
from collapse_bench.runner import Ended, Outcome, Reported, plan, run_jobs
from collapse_bench.status import status_of, table
from collapse_bench.suite import cells_of, load_suite

CELLS, ROUNDS = 1000, 3

SUITE = f"""\
corpus: {{name: newswire, sentences: 60}}
architectures: [lstm]
training: {{budget: 1000}}
seeds: {list(range(CELLS))}
entries: {{vae: []}}
"""


class Nothing:
    """An engine whose cells end at once, with a record that has been made before."""

    queues = False

    def __init__(self, jobs) -> None:
        self._texts = {
            job.folder: text_of(describe(job) | {"status": "done", "verdict": "collapsed"})
            for job in jobs
        }
        self._jobs = []

    def room(self):
        return not self._jobs

    def submit(self, job):
        self._jobs.append(job)

    def events(self, seconds):
        job = self._jobs.pop()
        job.folder.mkdir(parents=True)
        (job.folder / RECORD).write_text(self._texts[job.folder])
        return [Reported(job, {"began": True}), Ended(job, Outcome("recorded"))]

    def close(self, grace):
        pass


@pytest.fixture
def jobs(corpus, tmp_path):
    """A thousand cells that differ in their seed, none of them begun."""
    path = tmp_path / "many.yaml"
    path.write_text(SUITE)
    suite = load_suite(path, remedy_files())
    planned = plan(
        cells_of(suite), corpus, tmp_path / "runs", budget=None, device="cpu", remedy_files={}
    )
    return suite, planned


@pytest.mark.benchmark(group="runner_schedule")
def test_schedule(benchmark, jobs):
    """A second for each millisecond that it takes to choose a cell, begin it and tell of it."""
    count = iter(range(ROUNDS))

    def anew():
        at = next(count)
        there = [replace(job, folder=Path(f"{job.folder.parent}-{at}") / job.id) for job in jobs[1]]
        return (there, Nothing(there), Progress(CELLS, io.StringIO())), {}

    benchmark.extra_info.update(cells=CELLS)
    records = benchmark.pedantic(run_jobs, setup=anew, rounds=ROUNDS)
    assert len(records) == CELLS


@pytest.mark.benchmark(group="runner_status")
def test_status(benchmark, jobs):
    suite, planned = jobs
    for job in planned:
        write_record(job.folder, describe(job) | {"status": "done", "verdict": "collapsed"})
    folder = planned[0].folder.parent
    lines = benchmark.pedantic(
        lambda: table(status_of(suite, folder)[0], 200), rounds=ROUNDS, warmup_rounds=1
    )
    assert f"{CELLS} cells: {CELLS} done" in lines[-1]
