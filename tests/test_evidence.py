"""A record held against itself and its arrays: what is found, what is said, and what is published.

Every edit here comes with a digest that fits: it is what the digest cannot find.
"""

import json
import os
import shutil
from dataclasses import dataclass

import pytest

from collapse_bench import lease
from collapse_bench.cli import main
from collapse_bench.errors import DamagedError, UserError
from collapse_bench.evidence import NOTE, hold, is_noted, note
from collapse_bench.record import MODEL, OLDEST, RECORD, SENTENCES, read_record, text_of

SUITE = """\
corpus: {name: newswire, sentences: 60}
architectures: [lstm]
sizes: {embedding: 8, hidden: 8, latent: 2}
training: {budget: 300, batch: 4, validations: 1, precision: float32}
evaluation: {samples: 4, precision: float32}
entries:
  language_model: {latent: 0}
  vae: []
  free: [{free_bits: {target: 8}}]
  oracle: {told: labels}
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A suite that has been run, which nothing is done to."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "trial.yaml").write_text(SUITE)
    suite = str(folder / "trial.yaml")
    assert main(["run", suite, "--workers", "1", "--out", str(folder / "runs")]) == 0
    return folder


@dataclass
class Bench:
    """A copy of it in the current folder, and the verbs that are done to it."""

    capsys: object

    def __call__(self, *arguments):
        self.capsys.readouterr()
        self.code = main([str(argument) for argument in arguments])
        self.out, self.err = self.capsys.readouterr()
        assert "Traceback" not in self.err
        return self.code


@pytest.fixture
def bench(trained, tmp_path, monkeypatch, capsys):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLLAPSE_BENCH_DATA", raising=False)
    return Bench(capsys)


@pytest.fixture
def cells(bench, tmp_path):
    """The folder of each entry's cell."""
    return {
        path.name.partition("-lstm")[0]: path
        for path in (tmp_path / "runs" / "trial").glob("*-lstm*")
    }  # fmt: skip


def forge(path, change):
    """Edit a record and give it a digest that fits."""
    record = json.loads(path.read_text())
    change(record)
    path.write_text(text_of(record))


def held(folder):
    return hold(read_record(folder / RECORD), folder)


# What is found


def test_an_untouched_record_differs_nowhere_with_arrays_or_without(cells):
    for name, folder in cells.items():
        evidence = held(folder)
        assert evidence.differences == evidence.not_held == ()
        assert evidence.from_arrays is not None
        (folder / SENTENCES).unlink()
        evidence = held(folder)
        assert evidence.differences == ()
        assert evidence.from_arrays is None
        assert evidence.held == ("digest", "cell id", "settings", MODEL, "verdict"), name
        assert SENTENCES in evidence.not_held[0]


EDITS = {
    "cell": ("cell", "free-lstm-1-00c0ffee"),
    "entry": ("entry", "vae"),
    "architecture": ("architecture", "transformer"),
    "seed": ("seed", 2),
    "budget": ("budget", 301),
    "remedies": ("remedies", []),
    "bound": ("bound", "oracle"),
    "verdict": ("verdict", "healthy"),
    "settings.seed": ("settings", {"seed": 2}),
    "corpus.sha256": ("corpus", {"sha256": "0" * 64}),
    "corpus.labels_sha256": ("corpus", {"labels_sha256": None}),
    "metrics.invented@1": ("metrics", {"invented@1": 1.0}),
    "standard_errors.nll@2": ("standard_errors", {"nll@2": -0.5}),
    "standard_errors.nll@9": ("standard_errors", {"nll@9": 0.5}),
}
"""Edits that are found without arrays, too."""

FOUND_BY_ID = {"entry", "settings.seed"}
"""Of these the id tells, which begins with the entry and is of the settings."""

EDITS_OF_ARRAYS = {
    "metrics.nll@2": ("metrics", {"nll@2": 68.3617}),
    "metrics.nll_jackknife@2": ("metrics", {"nll_jackknife@2": None}),
    "metrics.code_perplexity@1": ("metrics", {"code_perplexity@1": 1.0}),
    "standard_errors.nll@2": ("standard_errors", {"nll@2": 1e-6}),
    "label_entropy.topic": ("label_entropy", {"topic": 0.5}),
    "family": ("family", "flow"),
}


def edited(folder, part, value):
    def change(record):
        if isinstance(value, dict):
            record[part].update(value)
        else:
            record[part] = value

    forge(folder / RECORD, change)


@pytest.mark.parametrize("arrays", [True, False])
@pytest.mark.parametrize("field", EDITS)
def test_an_edit_is_found_by_what_a_record_tells_twice(cells, field, arrays):
    folder = cells["free"]
    edited(folder, *EDITS[field])
    if not arrays:
        (folder / SENTENCES).unlink()
    fields = {each.field for each in held(folder).differences}
    assert fields & ({"cell"} if field in FOUND_BY_ID else {field})


@pytest.mark.parametrize("field", EDITS_OF_ARRAYS)
def test_an_edit_of_what_is_said_of_the_arrays_is_found_by_them(cells, field):
    edited(cells["free"], *EDITS_OF_ARRAYS[field])
    assert field in {each.field for each in held(cells["free"]).differences}


def test_a_latent_that_no_remedy_can_have_changed_is_that_of_the_settings(cells):
    for name in ("vae", "language_model", "free"):
        edited(cells[name], "latent", 5)
        found = [each.field for each in held(cells[name]).differences]
        assert ("latent" in found) == (name != "free")


def test_an_oracle_has_no_verdict(cells):
    edited(cells["oracle"], "verdict", "healthy")
    (cells["oracle"] / SENTENCES).unlink()
    [difference] = held(cells["oracle"]).differences
    assert str(difference) == (
        "verdict is 'healthy' in the record, and has to be 'none, since labels was told in advance'"
    )


def test_a_number_may_be_off_by_the_arithmetic_of_another_machine(cells):
    folder = cells["vae"]
    nll = read_record(folder / RECORD)["metrics"]["nll@2"]
    for by, found in ((1e-10, 0), (1e-8, 1)):
        edited(folder, "metrics", {"nll@2": nll * (1 + by)})
        assert len(held(folder).differences) == found


def test_a_metric_of_another_version_is_not_held_and_no_difference(cells):
    def rename(record):
        for part in ("metrics", "standard_errors"):
            record[part]["nll@1"] = record[part].pop("nll@2")

    forge(cells["vae"] / RECORD, rename)
    evidence = held(cells["vae"])
    assert evidence.differences == ()
    assert evidence.not_held[0].startswith("nll@1, nll@2, which")


def test_a_verdict_that_takes_what_only_arrays_tell_is_not_held_without_them(cells):
    edited(cells["vae"], "family", "flow")
    (cells["vae"] / SENTENCES).unlink()
    evidence = held(cells["vae"])
    assert "verdict" not in evidence.held
    assert any(each.startswith("verdict") for each in evidence.not_held)


@pytest.mark.parametrize("name", [SENTENCES, MODEL])
def test_arrays_and_a_model_of_another_cell_are_refused(cells, name):
    shutil.copy(cells["free"] / name, cells["vae"])
    with pytest.raises(DamagedError, match=f"{name}: .*SHA-256 differs"):
        held(cells["vae"])


@pytest.mark.parametrize("part", ["sentences_sha256", "model_sha256"])
def test_no_page_is_made_of_an_edited_digest(bench, cells, tmp_path, part):
    edited(cells["vae"], part, "0" * 64)
    assert bench("leaderboard", "trial.yaml") in (1, 2)
    assert "SHA-256 differs" in bench.err
    assert cells["vae"].name in bench.err
    assert not (tmp_path / "leaderboard").exists()


def test_a_cell_that_is_computed_again_makes_no_page_meanwhile(bench, cells, tmp_path):
    shutil.copy(cells["free"] / MODEL, cells["vae"])
    with lease.hold(cells["vae"], {"training": {"budget": 300}}):
        assert bench("leaderboard", "trial.yaml") == 1
    assert f"{cells['vae'].name}: is computed again by process {os.getpid()} on" in bench.err
    assert not (tmp_path / "leaderboard").exists()


def test_a_model_of_which_nothing_is_told_is_not_held(cells):
    edited(cells["vae"], "model_sha256", None)
    evidence = held(cells["vae"])
    assert MODEL not in evidence.held
    assert any(each.startswith(MODEL) for each in evidence.not_held)


@pytest.mark.parametrize("part", ["settings", "corpus", "status", "metrics", "latent"])
def test_a_record_that_lacks_a_part_is_told(cells, part):
    forge(cells["vae"] / RECORD, lambda record: record.pop(part))
    with pytest.raises(UserError, match=part):
        held(cells["vae"])


@pytest.mark.parametrize("part", ["settings", "corpus", "budget", "metrics"])
def test_no_page_is_made_of_a_record_that_lacks_a_part(bench, cells, tmp_path, part):
    forge(cells["vae"] / RECORD, lambda record: record.pop(part))
    assert bench("leaderboard", "trial.yaml") in (1, 2)
    assert part in bench.err
    assert cells["vae"].name in bench.err
    assert not (tmp_path / "leaderboard").exists()


# The leaderboard


def test_a_page_tells_that_its_records_were_held_and_is_the_same_without_the_arrays(
    bench, tmp_path
):
    assert bench("leaderboard", "trial.yaml") == 0
    assert bench.err == "", "the run has noted of which arrays they are"
    pages = tmp_path / "leaderboard"
    page = (pages / "trial.md").read_bytes()
    told = b"- Records: 4 of 4 were held against their arrays when this page was first made\n"
    assert told in page
    published = {path.name: path.read_bytes() for path in (pages / "trial").iterdir()}
    assert all(json.loads(text)["held"] == "arrays" for text in published.values())
    assert bench("leaderboard", "trial.yaml", "--runs", pages, "--out", "again") == 0
    assert "4 of 4 records could only be held against themselves" in bench.err
    assert (tmp_path / "again" / "trial.md").read_bytes() == page
    again = {path.name: path.read_bytes() for path in (tmp_path / "again" / "trial").iterdir()}
    assert again == published


def test_what_is_noted_is_computed_again_only_where_record_or_arrays_are_others(
    bench, cells, monkeypatch
):
    (cells["vae"] / NOTE).unlink()
    (cells["free"] / NOTE).write_text("{")
    assert bench("leaderboard", "trial.yaml") == 0
    told = "2 of 4 records are held against their arrays for the first time\n"
    assert bench.err == told
    assert all(is_noted(each, read_record(each / RECORD)) for each in cells.values())
    with monkeypatch.context() as patch:
        patch.setattr("collapse_bench.evidence.scores_of", None)
        assert bench("leaderboard", "trial.yaml") == 0
        assert bench.err == ""
    forge(cells["vae"] / RECORD, lambda record: record["metrics"].update({"kl@1": 7.5}))
    assert bench("leaderboard", "trial.yaml") == 1
    assert "metrics.kl@1 is 7.5 in the record" in bench.err
    record = read_record(cells["vae"] / RECORD)
    assert not is_noted(cells["vae"], record)
    note(cells["vae"])
    assert is_noted(cells["vae"], record)
    assert not is_noted(cells["vae"], record | {"sentences_sha256": 64 * "0"})


def test_a_page_tells_which_records_could_not_be_held(bench, cells, tmp_path):
    (cells["vae"] / SENTENCES).unlink()
    assert bench("leaderboard", "trial.yaml") == 0
    assert bench.err == (
        "1 of 4 records could only be held against themselves: their arrays are not here\n"
    )
    page = (tmp_path / "leaderboard" / "trial.md").read_text()
    assert (
        "- Records: **3 of 4** were held against their arrays when this page was first made, and"
        " not vae/lstm/1\n" in page
    )
    for folder in cells.values():
        (folder / SENTENCES).unlink(missing_ok=True)
    assert bench("leaderboard", "trial.yaml") == 0
    page = (tmp_path / "leaderboard" / "trial.md").read_text()
    assert "- Records: **none of 4** was held against its arrays when this page" in page


@pytest.mark.parametrize(("part", "value"), [*EDITS_OF_ARRAYS.values(), EDITS["verdict"]])
def test_no_page_is_made_of_an_edited_record(bench, cells, tmp_path, part, value):
    edited(cells["free"], part, value)
    edited(cells["vae"], "metrics", {"kl@1": 99.0})
    assert bench("leaderboard", "trial.yaml") == 1
    assert not (tmp_path / "leaderboard").exists()
    for name, field in (("free", part), ("vae", "metrics.kl@1 is 99.0 in the record")):
        [line] = [line for line in bench.err.splitlines() if cells[name].name in line]
        assert line.startswith(f"error: {cells[name].name}: {field}")
        assert f"score --write arrays runs/trial/{cells[name].name}`" in line
        assert bench("score", "--write", "arrays", cells[name]) == 0
        bench("leaderboard", "trial.yaml")
    assert bench.code == 0


def test_no_page_is_made_of_damaged_arrays_or_a_damaged_record(bench, cells, tmp_path):
    (cells["vae"] / SENTENCES).write_bytes(b"")
    assert bench("leaderboard", "trial.yaml") == 1
    assert "score --write model runs/trial/vae-lstm-1-" in bench.err
    path = cells["vae"] / RECORD
    path.write_text(path.read_text().replace("e-0", "e-1", 1))
    assert bench("leaderboard", "trial.yaml") == 2
    assert "damaged, or edited by hand" in bench.err
    assert not (tmp_path / "leaderboard").exists()


def test_an_edited_published_record_makes_no_page(bench, tmp_path):
    assert bench("leaderboard", "trial.yaml") == 0
    [path] = (tmp_path / "leaderboard" / "trial").glob("vae-*.json")
    forge(path, lambda record: record.update(verdict="healthy"))
    before = {each: each.read_bytes() for each in path.parent.iterdir()}
    assert bench("leaderboard", "trial.yaml", "--runs", "leaderboard") == 1
    assert f"put back leaderboard/trial/{path.name} as it was published" in bench.err
    assert {each: each.read_bytes() for each in path.parent.iterdir()} == before


def test_records_of_the_schema_before_are_held_and_published_as_they_are(bench, cells, tmp_path):
    def older(record):
        record.update(schema=OLDEST)
        for name in ("sha256", "model_sha256", "attempts"):
            del record[name]

    forge(cells["vae"] / RECORD, older)
    assert bench("leaderboard", "trial.yaml") == 0
    [path] = (tmp_path / "leaderboard" / "trial").glob("vae-*.json")
    assert json.loads(path.read_text()) == read_record(cells["vae"] / RECORD) | {"held": "arrays"}
    edited(cells["vae"], "metrics", {"kl@1": 99.0})
    assert bench("leaderboard", "trial.yaml") == 1


def test_a_record_cannot_be_published_as_held_against_something_else(bench, cells):
    (cells["vae"] / SENTENCES).unlink()
    edited(cells["vae"], "held", "everything")
    assert bench("leaderboard", "trial.yaml") == 2
    assert "'held' in its record should be one of arrays" in bench.err


# score, of what is published


def test_a_published_record_is_held_as_far_as_it_can_be(bench, cells, tmp_path):
    assert bench("leaderboard", "trial.yaml") == 0
    [path] = (tmp_path / "leaderboard" / "trial").glob("vae-*.json")
    assert bench("score", path) == 0
    assert bench.out == (
        f"{path}: agrees\n  held: digest, cell id, settings, verdict\n"
        f"  not held: metrics and standard errors, since {SENTENCES} is not here\n"
    )
    assert bench("score", "--write", "model", path) == 2
    assert f"give the folder of its cell, such as runs/<suite>/{path.stem}" in bench.err
    renamed = path.with_name("vae-lstm-2-00c0ffee.json")
    shutil.copy(path, renamed)
    assert bench("score", renamed) == 2
    assert "give it the name of its cell" in bench.err
    forge(path, lambda record: record.update(verdict="healthy"))
    assert bench("score", path) == 1
    assert f"{path}: DIFFERS" in bench.out
    path.write_text(path.read_text().replace("healthy", "collapsed"))
    assert bench("score", path) == 2
    assert "damaged, or edited by hand" in bench.err


def test_the_record_of_a_cell_is_the_cell(bench, cells):
    assert bench("score", cells["vae"] / RECORD) == 0
    assert "from model" in bench.out
    (cells["vae"] / MODEL).unlink()
    (cells["vae"] / SENTENCES).unlink()
    assert bench("score", cells["vae"] / RECORD) == 0
    assert "held: digest, cell id, settings, verdict\n" in bench.out
