"""`examples/remedy_package` as its user sees it: installed, listed, checked, and run."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from collapse_bench.record import read_records

PACKAGE = Path(__file__).parents[1] / "examples" / "remedy_package"

SUITE = """architectures: [lstm]
corpus: {name: newswire, sentences: 100}
sizes: {embedding: 6, hidden: 6, latent: 4}
training: {budget: 500, batch: 8, validations: 1}
evaluation: {samples: 2}
entries:
  vae: []
  mine: [{cosine_annealing: {warmup: 0.5}}]
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """One in which the package is installed."""
    folder = tmp_path_factory.mktemp("environment")
    shutil.copytree(PACKAGE, folder / "source")  # a build leaves files beside what it builds
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    install += ["--no-build-isolation", "--target", str(folder / "site"), str(folder / "source")]
    subprocess.run(install, check=True, capture_output=True, text=True)
    root = Path(__file__).parents[1]
    path = os.pathsep.join([str(folder / "site"), str(root), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path}


@pytest.fixture
def bench(tmp_path, environment):
    (tmp_path / "mine.yaml").write_text(SUITE)

    def bench(*arguments: str, module: str = "collapse_bench") -> str:
        command = [sys.executable, "-m", module, *arguments]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return bench


def test_an_installed_remedy_is_listed_among_the_others(bench):
    table = bench("list", "remedies").partition("\nnot built in\n")[2]
    assert table.split()[:2] == ["cosine_annealing", "objective"]
    told = bench("list", "remedies", "cosine_annealing")
    assert "The rate's weight rises from 0 to 1, slowly at both ends" in told
    assert "cosine_annealing" not in bench("list", "remedies", "--page")


def test_a_suite_names_it_as_any_other_and_its_records_know_its_file(bench, tmp_path):
    assert "fine, 2 cells" in bench("check", "mine.yaml")
    bench("run", "mine.yaml", "--workers", "1")
    digests = {
        record["entry"]: [remedy["sha256"] for remedy in record["settings"]["remedies"]]
        for record in read_records(tmp_path / "runs" / "mine")
    }
    assert digests.keys() == {"vae", "mine"}
    [digest] = digests["mine"]
    assert len(digest) == 64


def test_its_own_tests_pass(bench):
    folder = str(PACKAGE / "tests")
    assert "2 passed" in bench("-p", "no:cacheprovider", folder, module="pytest")
