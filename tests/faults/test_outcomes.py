"""A training that meets a number that is not finite has diverged, and has no other number."""

import json
import math
import re
from dataclasses import replace

import pytest
import torch
from conftest import KNOWN
from remedy_cells import job_of
from scale import FULL, told

from collapse_bench.cell import run_cell
from collapse_bench.plugins import KINDS
from collapse_bench.record import HISTORY, MODEL, RECORD, SENTENCES, is_finished, read_record
from collapse_bench.training import TrainingRun

UPDATES = range(20) if FULL else (3,)
"""Updates at which the reconstruction term breaks, the first being 0."""

BY_KIND = sorted(KNOWN, key=lambda name: (KINDS.index(KNOWN[name].parent.name), name))
NAMES = BY_KIND if FULL else BY_KIND[::3]
"""In `make test` every third one, kind by kind, so that each kind is among them."""


@pytest.fixture
def broken(monkeypatch):
    """Make the reconstruction term of the update with this number a value that is no number.

    Where that update decodes nothing, the next one that does is broken; no other is, and at which
    step that was is noted.
    """
    update = TrainingRun.update
    state = {"at": 0, "value": math.nan, "updates": 0, "breaking": False, "step": None}

    def break_terms(readout, arguments, found):
        if state["breaking"] and torch.is_tensor(found):
            state["step"] = state["now"]
            return found * state["value"]
        return None

    def counted(run, batch, **keywords):
        if not state["updates"]:
            run.model.readout.register_forward_hook(break_terms)
        state["breaking"] = state["updates"] >= state["at"] and state["step"] is None
        state["now"] = run.steps
        state["updates"] += 1
        try:
            return update(run, batch, **keywords)
        finally:
            state["breaking"] = False

    monkeypatch.setattr(TrainingRun, "update", counted)
    return state


@pytest.mark.parametrize("at", UPDATES)
@pytest.mark.parametrize("name", NAMES)
def test_a_loss_that_is_not_finite_is_told_with_its_step_and_as_no_number(
    name, at, broken, tmp_path
):
    broken |= {"at": at, "value": (math.nan, math.inf, -math.inf)[at % 3]}
    record = run_cell(replace(job_of(name, None, tmp_path), folder=tmp_path), lambda said: None)
    assert broken["step"] is not None, "nothing was broken"
    assert record["status"] == "diverged", record["error"]
    step = broken["step"]
    assert re.search(rf"DivergedError: .*not finite at step {step}, [\d,]+ tokens", record["error"])
    assert record["metrics"] == record["standard_errors"] == {}
    assert record["verdict"] is record["sentences_sha256"] is None
    assert not (tmp_path / MODEL).exists()
    assert not (tmp_path / SENTENCES).exists()
    assert {path.name for path in tmp_path.iterdir()} <= {RECORD, HISTORY}
    assert is_finished(tmp_path)
    assert read_record(tmp_path / RECORD) == json.loads(json.dumps(record))
    told(
        "remedies whose loss is nan, inf or -inf at one update of the first twenty",
        1,
        "diverged, told with the step, no metric, no verdict, no weights",
    )


def test_of_every_kind_a_remedy_is_tried():
    assert {KNOWN[name].parent.name for name in NAMES} == set(KINDS)
