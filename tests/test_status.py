"""How far a suite is, told from its folder alone."""

import json
import os
import shutil
import time
from dataclasses import replace

import pytest

from collapse_bench import lease
from collapse_bench.cli import main
from collapse_bench.record import RECORD, read_record, write_record
from collapse_bench.status import CellStatus, status_of, summary, table
from collapse_bench.suite import cells_of, id_of, identity, load_suite

SUITE = """\
corpus: {name: newswire, sentences: 60}
architectures: [lstm]
sizes: {embedding: 8, hidden: 8, latent: 4, layers: 1, heads: 2}
training: {budget: 1000, batch: 16, validations: 1}
evaluation: {samples: 2}
seeds: [1]
entries: {vae: [], annealed: [kl_annealing], language_model: {latent: 0}}
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A suite of which one cell has been trained."""
    folder = tmp_path_factory.mktemp("status")
    path = folder / "trial.yaml"
    path.write_text(SUITE)
    assert main(["run", str(path), "--out", str(folder / "runs"), "--only", "vae/*"]) == 0
    return folder


@pytest.fixture
def suite(finished):
    return load_suite(finished / "trial.yaml", {"kl_annealing": _annealing()})


def _annealing():
    from collapse_bench.plugins import remedy_files

    return remedy_files()["kl_annealing"]


def rows(*arguments):
    return status_of(*arguments)[0]


def states(suite, folder):
    return {each.name: each for each in rows(suite, folder / "runs" / "trial")}


def leave_lease(suite, folder, budget=1000, **told):
    """A lease as another process at `annealed/lstm/1` would have left it."""
    cell = next(each for each in cells_of(suite) if each.entry.name == "annealed")
    settings = identity(cell, "newswire", "5ha", None, budget)
    folder = folder / "runs" / "trial" / id_of("annealed", settings)
    with lease.hold(folder, settings) as holding:
        holding.tell({"tokens": 400})
        held = holding._lease
    told = {**vars(replace(held, tokens_a_second=20.0)), **told}
    told.pop("age")
    (folder / lease.LEASE).write_text(json.dumps(told))
    return folder / lease.LEASE


def test_a_cell_is_finished_or_waits(suite, finished, tmp_path):
    found = states(suite, finished)
    assert list(found) == [cell.name for cell in cells_of(suite)], "in the order of the suite"
    assert [each.state for each in found.values()] == ["done", "waiting", "waiting"]
    assert found["vae/lstm/1"].tokens >= 1000
    assert found["vae/lstm/1"].tokens_a_second > 0
    assert [each.state for each in rows(suite, tmp_path / "nothing")] == 3 * ["waiting"]


def test_an_owner_that_lives_is_told_and_one_that_is_gone_is_none(suite, finished):
    elsewhere = {"machine": "another", "host": "far", "process": 7}
    path = leave_lease(suite, finished, process=os.getpid())
    try:
        told = states(suite, finished)["annealed/lstm/1"]
        assert (told.state, told.tokens, told.seconds_left) == ("training", 400, 30.0)
        assert told.told.startswith(f"process {os.getpid()} on ")

        leave_lease(suite, finished, **elsewhere)
        assert states(suite, finished)["annealed/lstm/1"].told == "process 7 on far"
        past = time.time() - 90
        os.utime(path, (past, past))
        assert "process 7 on far, not heard of for 90 s" in states(suite, finished)[
            "annealed/lstm/1"
        ].told  # fmt: skip
        past = time.time() - lease.EXPIRY - 1
        os.utime(path, (past, past))
        told = states(suite, finished)["annealed/lstm/1"]
        assert (told.state, told.told) == ("interrupted", "was with process 7 on far")

        leave_lease(suite, finished, **elsewhere, stopped=True)
        assert states(suite, finished)["annealed/lstm/1"].state == "interrupted"
        leave_lease(suite, finished, process=os.getpid(), phase="evaluating")
        told = states(suite, finished)["annealed/lstm/1"]
        assert (told.state, told.seconds_left) == ("evaluating", None)
    finally:
        shutil.rmtree(path.parent)


def test_what_a_cell_ended_with_and_what_is_damaged_is_told(suite, finished, tmp_path):
    (source,) = (finished / "runs" / "trial").glob("vae-*")
    folder = tmp_path / "runs" / "trial" / source.name
    told = read_record(source / RECORD)
    earlier = [{"status": "failed", "error": "first", "code": "c", "commit": None, "seconds": 1.0}]
    write_record(
        folder, told | {"status": "failed", "error": "Trace\nValueError: no", "attempts": earlier}
    )
    state = states(suite, tmp_path)["vae/lstm/1"]
    assert (state.state, state.told) == ("failed", "ValueError: no (in 2 attempts)")
    (folder / RECORD).write_text("{")
    state = states(suite, tmp_path)["vae/lstm/1"]
    assert state.state == "damaged"
    assert str(folder / RECORD) in state.told


def test_cells_of_earlier_settings_are_no_part_of_it(suite, finished):
    other = replace(suite, training=replace(suite.training, batch=8))
    assert {each.state for each in states(other, finished).values()} == {"waiting"}


def test_a_cell_that_was_interrupted_at_earlier_settings_is_no_part_of_it(suite, finished):
    path = leave_lease(suite, finished, stopped=True)
    try:
        assert states(suite, finished)["annealed/lstm/1"].state == "interrupted"
        other = replace(suite, training=replace(suite.training, batch=8))
        found = [each for each in rows(other, path.parents[1]) if "annealed" in each.name]
        assert [(each.state, each.tokens) for each in found] == [("waiting", 0)]
        assert status_of(suite, path.parents[1])[1] == 0
        assert status_of(other, path.parents[1])[1] == 2, "one that has finished, too"
    finally:
        shutil.rmtree(path.parent)


def test_a_lease_that_does_not_tell_its_cell_hides_no_other(suite, finished):
    folder = finished / "runs" / "trial" / "annealed-lstm-1-00000000"
    settings = {"training": {"budget": 1000}}
    try:
        for further in ({}, {"architecture": "lstm", "corpus": {}}):
            with lease.hold(folder, settings | further):
                assert states(suite, finished)["vae/lstm/1"].state == "done"
    finally:
        shutil.rmtree(folder)


def test_a_training_that_is_shared_is_counted_once(tmp_path):
    path = tmp_path / "trial.yaml"
    swept = "  dial: [{multi_rate: {beta: {sweep: [0.5, 1.0, 2.0]}}}]\n"
    path.write_text(SUITE.replace("entries: {vae: [], annealed: [kl_annealing], ", "entries:\n")
                    .replace("language_model: {latent: 0}}\n", swept))  # fmt: skip
    from collapse_bench.plugins import remedy_files

    found = rows(load_suite(path, remedy_files()), tmp_path / "nothing")
    assert [each.state for each in found] == 3 * ["waiting"]
    assert sorted(each.tokens_left for each in found) == [0, 0, 1000]


def test_a_cell_that_was_tried_with_a_smaller_budget_still_waits(suite, finished):
    larger = replace(suite, training=replace(suite.training, budget={"newswire": 2000}))
    folder = finished / "runs" / "trial"

    def of_vae(budget=None):
        found = (each for each in rows(larger, folder, budget) if "vae" in each.name)
        return [(each.state, each.budget) for each in found]

    assert of_vae() == [("done", 1000), ("waiting", 2000)]
    assert of_vae(1000) == [("done", 1000)]


def test_a_cell_that_is_trained_with_another_budget_is_told_once(suite, finished):
    path = leave_lease(suite, finished, budget=500, process=os.getpid())
    try:
        found = [each for each in rows(suite, path.parents[1]) if "annealed" in each.name]
        assert [(each.state, each.budget) for each in found] == [("training", 500)]
    finally:
        shutil.rmtree(path.parent)


def test_the_last_line_is_about_all():
    cells = [
        CellStatus("a/lstm/1", "training", 400, 1000, 10.0, "process 1 on here"),
        CellStatus("b/lstm/1", "training", 0, 1000, 10.0),
        CellStatus("c/lstm/1", "waiting", 0, 2000),
        CellStatus("d/lstm/1", "done", 1000, 1000, 10.0, "healthy"),
    ]
    told = "4 cells: 2 training, 1 waiting, 1 done; about 3 min of training left at 20 tokens/s"
    assert summary(cells) == told
    lines = table(cells, 59)
    assert lines[-1] == told
    assert lines[1].split() == ["a/lstm/1", "training", "400", "40%", "10", "1", "min", "process"]


def test_the_verb_shows_it_and_follows_until_there_is_nothing_to_follow(finished, capsys):
    path = finished / "trial.yaml"
    assert main(["status", str(path), "--out", str(finished / "runs")]) == 0
    assert "3 cells: 1 done, 2 waiting" in capsys.readouterr().out
    assert main(["run", str(path), "--out", str(finished / "runs")]) == 0
    capsys.readouterr()
    assert main(["status", str(path), "--out", str(finished / "runs"), "--watch", "9s"]) == 0
    assert "3 cells: 3 done" in capsys.readouterr().out
