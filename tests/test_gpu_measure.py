"""`make gpu` without a GPU: a rehearsal of all its steps, and that none takes another along."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parent / "gpu"
MEASURE = FOLDER / "measure.py"

FIGURES = {
    "chip": {"what", "reached", "unit", "share"},
    "kernels": {"part", "width", "dtype", "ms", "kernels", "busy ms", "kernel"},
    "parity": {"cell", "precision", "loss", "gradient", "distortion", "log_weights", "within"},
    "smoke": {"cell", "status", "seconds", "tokens", "nll", "host MiB", "GPU MiB"},
    "training_step": {
        "architecture", "tokens/s", "ms", "host ms", "busy ms", "kernels", "share of bandwidth",
        "share of bfloat16 rate",
    },
    "syncs": {"architecture", "work", "waits", "where"},
    "decoding": {"architecture", "precision", "rows", "ms", "tokens/s"},
    "evaluation": {
        "architecture", "precision", "draws", "seconds", "seconds for the whole split", "tokens/s",
    },
    "repeating": {"cell", "deterministic", "ms", "same"},
    "graph": {"architecture", "precision", "eager ms", "captured ms", "graph"},
    "together": {"architecture", "cells", "MPS", "tokens/s in all"},
    "cells": {"cell", "status", "seconds", "tokens"},
}  # fmt: skip
"""Columns that each step has, in the order of the steps."""


def python(*arguments, folder=None, first=""):
    """Run Python; what is in the folder `first` hides modules of the same name."""
    environment = os.environ | {"PYTHONPATH": f"{first}:{FOLDER.parents[1]}"}
    environment.pop("COLLAPSE_BENCH_DATA", None)
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)


def test_a_rehearsal_runs_every_step_and_reports_its_figures(tmp_path):
    (tmp_path / "datasets.py").write_text("raise AssertionError('not every GPU machine has it')")
    done = python(MEASURE, "--rehearse", "--out", tmp_path, first=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    page = (tmp_path / "gpu.md").read_text()
    assert list(found["steps"]) == list(FIGURES)
    assert found["head"]["corpus"] == "newswire"
    for name, columns in FIGURES.items():
        step = found["steps"][name]
        assert step["status"] == "done", step["error"]
        assert columns <= set(step["rows"][0]), name
        assert f"\n## {name}: " in page
        assert f"| {' | '.join(step['rows'][0])}" in page
    assert {row["within"] for row in found["steps"]["parity"]["rows"]} == {"yes"}
    assert {row["same"] for row in found["steps"]["repeating"]["rows"]} == {"yes"}
    for row in found["steps"]["graph"]["rows"]:
        assert row["graph"] == "replayed, weights differ by up to 0 after 10 updates"
    for name in ("smoke", "cells"):
        assert {row["status"] for row in found["steps"][name]["rows"]} == {"done"}
        assert all(row["nll"] > 0 for row in found["steps"][name]["rows"])
    assert all(row["tokens/s in all"] > 0 for row in found["steps"]["together"]["rows"])


STEPS = {
    "good": "def run(setting, tell):\n    tell.fact('sum', 1 + setting)\n    tell.row(a=1)\n",
    "bad": "def run(setting, tell):\n    tell.fact('before', 1)\n    raise ValueError('no')\n",
    "stuck": "def run(setting, tell):\n    tell.fact('before', 2)\n    while True:\n        pass\n",
    "dead": "import os\ndef run(setting, tell):\n    os.abort()\n",
}

RUN = f"""
import sys
sys.path[:0] = [{str(FOLDER)!r}, "."]
import harness
harness.PRELOADED = []
if __name__ == "__main__":
    import json
    from pathlib import Path
    from report import write
    limits = {{"bad": 30, "stuck": 2, "dead": 30, "good": 30, "late": 30}}
    steps = [harness.Step(name, "?", limit) for name, limit in limits.items()]
    counts = []
    def after(found):
        write(found, {{}}, Path("."))
        counts.append(len(json.loads(Path("gpu.json").read_text())["steps"]))
        if found[-1].step.name == "good":
            harness.time.monotonic = lambda: 1e12
    harness.run_steps(steps, 41, 60, after)
    assert counts == [1, 2, 3, 4, 5], counts
"""


@pytest.fixture
def steps(tmp_path):
    for name, text in STEPS.items():
        (tmp_path / f"{name}.py").write_text(text)
    (tmp_path / "main.py").write_text(RUN)
    return tmp_path


def test_a_step_that_fails_hangs_or_dies_is_reported_and_the_rest_goes_on(steps):
    done = python("main.py", folder=steps)
    assert done.returncode == 0, done.stderr
    found = json.loads((steps / "gpu.json").read_text())["steps"]
    assert {name: each["status"] for name, each in found.items()} == {
        "bad": "failed", "stuck": "cut off", "dead": "failed", "good": "done",
        "late": "not reached",
    }  # fmt: skip
    assert "ValueError: no" in found["bad"]["error"]
    assert found["stuck"]["error"] == "after its limit of 2 s"
    # What was told before the end is kept.
    assert found["bad"]["facts"] == {"before": 1}
    assert found["stuck"]["facts"] == {"before": 2}
    assert found["good"]["facts"] == {"sum": 42}
    assert found["good"]["rows"] == [{"a": 1}]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, and it would be measured")
def test_without_a_gpu_it_says_how_to_rehearse(tmp_path):
    done = python(MEASURE, "--out", tmp_path / "gpu")
    assert done.returncode == 2
    assert done.stderr == (
        "error: --device cuda: torch finds no GPU here; rehearse on this processor with"
        " --rehearse\n"
    )


CONTROL = """\
#!/bin/sh
echo "$CUDA_MPS_PIPE_DIRECTORY $* $(if [ $# = 0 ]; then cat; fi)" >> {log}
exit {code}
"""


@pytest.mark.parametrize("code", [0, 1])
def test_mps_is_started_and_ended_by_its_control(code, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    from together import mps

    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    control = tmp_path / "nvidia-cuda-mps-control"
    control.write_text(CONTROL.format(log=tmp_path / "log", code=code))
    control.chmod(0o755)
    with mps() as environment:
        assert bool(environment) == (code == 0)
    said = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    assert [words for _, *words in said] == ([["-d"], ["quit"]] if code == 0 else [["-d"]])
    if code == 0:
        assert {folder for folder, *_ in said} == set(environment.values())


def test_without_mps_there_is_none(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    from together import mps

    monkeypatch.setenv("PATH", str(tmp_path))
    with mps() as environment:
        assert environment == {}
