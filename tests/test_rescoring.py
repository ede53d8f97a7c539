"""A finished cell scored again: what agrees, what differs, what is refused, and the way out."""

import hashlib
import json
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SIZES, TRAINING
from safetensors.torch import load_file, save_file

from collapse_bench.cell import run_cell
from collapse_bench.cli import main
from collapse_bench.corpus import load_corpus
from collapse_bench.metrics import key_of
from collapse_bench.model import SequenceVAE
from collapse_bench.plugins import fingerprint, remedy_files
from collapse_bench.record import (
    HISTORY,
    MODEL,
    OLDEST,
    RECORD,
    SCHEMA,
    SENTENCES,
    VOCABULARY,
    digest_of_model,
    read_record,
    text_of,
)
from collapse_bench.runner import plan
from collapse_bench.suite import (
    Cell,
    CorpusSettings,
    Entry,
    Evaluation,
    RemedySettings,
    Sizes,
)

OLD_METRICS = (
    "nll", "nll_samples", "nll_monte_carlo_error", "ess", "negative_elbo", "distortion", "kl",
    "mutual_information", "mutual_information_upper", "active_units", "perplexity",
)  # fmt: skip

MINE = '''\
"""A remedy of one's own."""

from dataclasses import dataclass

from collapse_bench.remedy import Remedy


@dataclass(frozen=True)
class Mine(Remedy):
    pass
'''


def finish(
    folder: Path,
    settings: CorpusSettings,
    *,
    remedies: tuple[RemedySettings, ...] = (),
    files: dict[str, Path] | None = None,
    sizes: Sizes = SIZES,
) -> Path:
    """Train a tiny cell in this process; its folder."""
    corpus = load_corpus(settings, None, print)
    entry = Entry("vae" if sizes.latent else "language_model", remedies)
    evaluation = Evaluation(samples=16, precision="float32")
    cell = Cell("tiny", entry, "lstm", 1, settings, sizes, TRAINING, evaluation)
    known = files or remedy_files()
    (job,) = plan([cell], corpus, folder, budget=300, device="cpu", remedy_files=known)
    try:
        record = run_cell(job, lambda said: None)
    finally:
        # A worker process has this for itself.
        torch.set_flush_denormal(False)
    assert record["status"] == "done", record["error"]
    return job.folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a cell that nothing has been done to."""
    return finish(
        tmp_path_factory.mktemp("runs"), CorpusSettings(sentences=60, vocabulary=41)
    )  # fmt: skip


@pytest.fixture
def folder(finished, tmp_path):
    """A copy of it."""
    shutil.copytree(finished, tmp_path / finished.name)
    return tmp_path / finished.name


@dataclass(frozen=True)
class Said:
    """What a verb said, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def differing(self) -> list[str]:
        """The metrics in the lines that say so."""
        return [line.split()[0] for line in self.out.splitlines() if line.endswith("  differs")]


@pytest.fixture
def bench(capsys, monkeypatch):
    """Run a verb in this process."""
    monkeypatch.delenv("COLLAPSE_BENCH_DATA", raising=False)

    def run(*arguments) -> Said:
        code = main([str(argument) for argument in arguments])
        told = capsys.readouterr()
        assert "Traceback" not in told.err
        return Said(code, told.out, told.err)

    return run


def edit(folder, change):
    """Edit a record by hand, and give it a digest that fits, as whoever means to deceive does."""
    path = folder / RECORD
    record = json.loads(path.read_text())
    change(record)
    path.write_text(text_of(record))


def replace_arrays(folder, *, digest=True, **changes):
    """Put other arrays into the file, and its digest into the record; None takes one out."""
    path = folder / SENTENCES
    with np.load(path) as arrays:
        kept = {name: arrays[name] for name in arrays} | changes
    np.savez(path, **{name: array for name, array in kept.items() if array is not None})
    if digest:
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        edit(folder, lambda record: record.update(sentences_sha256=sha256))


def refused(said, *words):
    """Whether it is an error in words that has all of these."""
    assert said.code == 2
    assert said.err.startswith("error: ")
    for word in words:
        assert str(word) in said.err, said.err
    return said


def follow(bench, said):
    """Do what the message gives as the way out; it has to work as it stands."""
    (command,) = re.findall(r"`python -m collapse_bench ([^`]*)`", said.err)
    done = bench(*shlex.split(command))
    assert done.code == 0, done.err
    return done


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# What agrees, and what differs


def test_an_untouched_cell_agrees_and_is_left_as_it_was(folder, bench):
    before = contents(folder)
    said = bench("score", folder)
    assert said.code == 0
    assert f"{folder}: agrees" in said.out
    assert said.differing == []
    record = read_record(folder / RECORD)
    for name, value in record["metrics"].items():
        (line,) = [line for line in said.out.splitlines() if line.split()[0] == name]
        assert [float(number) for number in line.split()[1:3]] == [round(value, 6)] * 2
        assert float(line.split()[3]) == pytest.approx(value, abs=1e-3)
    assert contents(folder) == before


@pytest.mark.parametrize("name", ["nll@2", "useful_information@2", "active_units@1"])
@pytest.mark.parametrize("by", [0.5, 1e-7])
def test_an_edited_number_differs_on_its_line(folder, bench, name, by):
    edit(folder, lambda record: record["metrics"].update({name: record["metrics"][name] + by}))
    said = bench("score", folder)
    assert said.code == 1
    assert f"{folder}: DIFFERS" in said.out
    assert said.differing == [name]


@pytest.mark.parametrize(
    ("name", "word"), [("verdict", "healthy"), ("bound", "invalid"), ("family", "flow")]
)
def test_an_edited_word_differs_on_its_line(folder, bench, name, word):
    assert read_record(folder / RECORD)[name] != word
    edit(folder, lambda record: record.update({name: word}))
    said = bench("score", folder)
    assert said.code == 1
    assert f"{folder}: DIFFERS" in said.out
    assert said.differing == [name]


def test_a_metric_of_another_version_or_without_a_number_differs(folder, bench):
    def rename(record):
        for part in ("metrics", "standard_errors"):
            record[part]["nll@0"] = record[part].pop("nll@2")

    edit(folder, rename)
    said = bench("score", folder)
    assert said.code == 1
    assert set(said.differing) == {"nll@0", "nll@2"}
    assert "not held: nll@0, nll@2, which the record has not or this version has not" in said.out
    assert re.search(r"nll@0 +[\d.]+ +- +-  differs", said.out)
    assert re.search(r"nll@2 +- +[\d.]+ +[\d.]+  differs", said.out)


def test_other_weights_than_those_that_were_scored_differ(folder, bench):
    weights = load_file(folder / MODEL)
    weights["readout.weight"] = weights["readout.weight"] + torch.randn(
        weights["readout.weight"].shape, generator=torch.Generator().manual_seed(1)
    )
    save_file(weights, folder / MODEL)
    before = contents(folder)
    for verb in (["score"], ["score", "--write", "model"], ["diagnose"]):
        refused(bench(*verb, folder), folder / MODEL, "SHA-256", "run the suite again")
    assert contents(folder) == before
    edit(folder, lambda record: record.update(model_sha256=digest_of_model(folder)))
    said = bench("score", folder)
    assert said.code == 1
    assert "nll@2" in said.differing
    # The encoder is the same.
    assert not {"kl@1", "mutual_information@1", "active_units@1"} & set(said.differing)


def test_several_cells_are_all_told_and_one_that_differs_is_enough(finished, folder, bench):
    edit(folder, lambda record: record["metrics"].update({"kl@1": 99.0}))
    said = bench("score", folder, finished)
    assert said.code == 1
    assert f"{folder}: DIFFERS" in said.out
    assert f"{finished}: agrees" in said.out


# The arrays


def test_arrays_that_are_not_those_of_the_record_are_refused(folder, bench):
    replace_arrays(folder, digest=False, distortion=np.zeros(6))
    said = refused(bench("score", folder), folder / SENTENCES, "SHA-256")
    follow(bench, said)
    assert bench("score", folder).code == 0


@pytest.mark.parametrize("kept", [0, 10, 1000])
@pytest.mark.parametrize("digest", [True, False])
def test_arrays_that_were_cut_short_are_refused(folder, bench, kept, digest):
    path = folder / SENTENCES
    path.write_bytes(path.read_bytes()[:kept])
    if not digest:
        edit(folder, lambda record: record.update(sentences_sha256=None))
    said = refused(bench("score", folder), path)
    if digest and kept:
        follow(bench, said)
        assert bench("score", folder).code == 0


def test_a_cell_without_arrays_is_held_against_its_model_and_they_are_made_again(folder, bench):
    (folder / SENTENCES).unlink()
    said = bench("score", folder)
    assert said.code == 0
    assert (
        "held: digest, cell id, settings, model.safetensors, verdict, metrics and bound from the"
        " model" in said.out
    )
    told = f"not held: metrics and standard errors, since {SENTENCES} is not here; make"
    assert told in said.out
    said = refused(bench("score", "--write", "arrays", folder), folder / SENTENCES)
    edit(folder, lambda record: record["metrics"].update({"kl@1": 99.0}))
    differs = bench("score", folder)
    assert differs.code == 1
    assert "kl@1" in differs.differing
    follow(bench, said)
    assert not bench("score", folder).differing
    assert "not held" not in bench("score", folder).out


@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_a_damaged_record_is_refused_whatever_is_asked(folder, bench, damage):
    whole = (folder / RECORD).read_bytes()
    changed = whole.replace(b"kl@1", b"kl@2") if damage == "flip" else whole[:-1]
    (folder / RECORD).write_bytes(changed)
    for verb in (["score"], ["score", "--write", "model"], ["diagnose"]):
        refused(bench(*verb, folder), folder / RECORD, "damaged", "run the suite again")
    assert (folder / RECORD).read_bytes() == changed


def test_an_edited_standard_error_differs(folder, bench):
    edit(folder, lambda record: record["standard_errors"].update({"nll@2": 1e-6}))
    said = bench("score", folder)
    assert said.code == 1
    assert said.differing == ["standard_errors.nll@2"]


def test_an_edited_setting_differs_by_the_id(folder, bench):
    edit(folder, lambda record: record["settings"]["training"].update(clip=1.0))
    said = bench("score", folder)
    assert said.code == 1
    assert said.differing == ["cell"]


@pytest.mark.parametrize("name", ["distortion", "log_weights", "posterior_mean"])
def test_a_number_that_is_none_is_told_with_its_array(folder, bench, name):
    with np.load(folder / SENTENCES) as arrays:
        bad = arrays[name].copy()
    bad.flat[0] = np.nan
    replace_arrays(folder, **{name: bad})
    for verb in (["score"], ["score", "--write", "arrays"], ["diagnose"]):
        refused(bench(*verb, folder), f"{name}: nan in sentence 0")
    refused(bench("score", folder), folder / SENTENCES)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"kl": lambda kl: None}, "no array kl"),
        ({"kl": lambda kl: kl[:-1]}, "kl: must have the shape"),
        ({"distortion": lambda d: d - 100}, "D + R >= NLL is off by"),
        ({"draws": lambda draws: 0 * draws + 99}, "draws: 99 in sentence 0"),
    ],
)
def test_arrays_that_say_nothing_or_contradict_themselves_are_told(folder, bench, changes, word):
    with np.load(folder / SENTENCES) as arrays:
        replace_arrays(folder, **{name: of(arrays[name]) for name, of in changes.items()})
    before = contents(folder)
    refused(bench("score", folder), folder / SENTENCES, word)
    refused(bench("score", "--write", "arrays", folder), folder / SENTENCES, word)
    assert contents(folder) == before


# Writing


def test_new_scores_from_the_arrays_are_those_and_nothing_else_changes(folder, bench):
    good = read_record(folder / RECORD)
    wrong = {"metrics": {"nll@2": 1.0}, "standard_errors": {}, "verdict": "healthy"}
    edit(folder, lambda record: record.update(wrong))
    before = contents(folder)
    said = bench("score", "--write", "arrays", folder)
    assert said.code == 0
    assert f"{folder}: {good['verdict']}, bound valid, useful beyond" in said.out
    again = read_record(folder / RECORD)
    assert again == good | {"scored": again["scored"]}
    assert again["scored"].keys() == good["scored"].keys()
    assert {**contents(folder), RECORD: b""} == {**before, RECORD: b""}
    assert bench("score", folder).code == 0


def test_new_scores_from_the_model_are_those_of_its_training(folder, bench):
    good = read_record(folder / RECORD)
    (folder / SENTENCES).write_bytes(b"nothing")
    edit(folder, lambda record: record["metrics"].clear())
    assert bench("score", "--write", "model", folder).code == 0
    again = read_record(folder / RECORD)
    assert again["metrics"] == pytest.approx(good["metrics"], abs=1e-5)
    for name in good.keys() - {"metrics", "standard_errors", "sentences_sha256", "scored"}:
        assert again[name] == good[name], name
    written = (folder / SENTENCES).read_bytes()
    assert again["sentences_sha256"] == hashlib.sha256(written).hexdigest()
    assert bench("score", folder).code == 0
    assert {path.name for path in folder.iterdir()} == {
        RECORD, SENTENCES, MODEL, VOCABULARY, HISTORY
    }  # fmt: skip


def downgrade(folder):
    """The cell as the first version left it: fewer metrics, plain names, fewer arrays."""

    def change(record):
        metrics = {name: record["metrics"][key_of(name)] for name in OLD_METRICS}
        errors = {name: record["standard_errors"][key_of(name)] for name in OLD_METRICS[4:8]}
        for name in ("by_construction", "verdict", "sentences_sha256", "scored"):
            del record[name]
        del record["corpus"]["hub"], record["corpus"]["revision"]
        record.update(schema=1, metrics=metrics, standard_errors=errors)

    replace_arrays(
        folder, digest=False, shuffled_log_likelihood=None, first_words=None, label_topic=None
    )
    edit(folder, change)


def test_a_record_of_the_first_schema_is_refused_and_then_upgraded(folder, bench):
    good = read_record(folder / RECORD)
    downgrade(folder)
    before = contents(folder)
    for verb in (["score"], ["score", "--write", "arrays"], ["diagnose"]):
        said = refused(bench(*verb, folder), folder / RECORD, "schema 1")
    assert contents(folder) == before
    follow(bench, said)
    again = read_record(folder / RECORD)
    assert again["schema"] == SCHEMA
    assert again["metrics"] == pytest.approx(good["metrics"], abs=1e-5)
    assert again["verdict"] == good["verdict"]
    assert again["by_construction"] == []
    assert again["cost"] == good["cost"]
    assert bench("score", folder).code == 0


def test_a_record_of_the_schema_before_is_scored_and_written_as_one_of_this(folder, bench):
    def older(record):
        record.update(schema=OLDEST)
        for name in ("sha256", "model_sha256", "attempts"):
            del record[name]

    good = read_record(folder / RECORD)
    for source, model in (("arrays", None), ("model", good["model_sha256"])):
        edit(folder, older)
        said = bench("score", folder)
        assert said.code == 0
        assert f"not held: digest, since a record of schema {OLDEST} has none" in said.out
        assert bench("score", "--write", source, folder).code == 0
        again = read_record(folder / RECORD)
        assert (again["schema"], again["attempts"]) == (SCHEMA, [])
        assert again["model_sha256"] == model
        assert again["metrics"] == pytest.approx(good["metrics"], abs=1e-5)


@pytest.mark.parametrize("schema", [0, SCHEMA + 1, str(SCHEMA), None, 2.5])
def test_a_record_of_an_unknown_schema_is_refused_whatever_is_asked(folder, bench, schema):
    edit(folder, lambda record: record.update(schema=schema))
    for verb in (["score"], ["score", "--write", "model"]):
        refused(bench(*verb, folder), folder / RECORD, "schema")


# What a cell's model needs


def test_a_cell_without_its_model_is_held_against_its_arrays(folder, bench):
    (folder / MODEL).unlink()
    said = bench("score", folder)
    assert said.code == 0
    assert f"not held: the model's numbers, since {MODEL} is not here" in said.out
    assert "metrics, standard errors, family, verdict, label entropy" in said.out
    edit(folder, lambda record: record["metrics"].update({"kl@1": 99.0}))
    said = bench("score", folder)
    assert said.code == 1
    assert said.differing == ["metrics.kl@1"]
    for verb in (["score", "--write", "model"], ["diagnose"]):
        refused(bench(*verb, folder), folder / MODEL, "run the suite again")


@pytest.mark.parametrize("change", ["cut", "other sizes", "other names"])
def test_a_model_that_cannot_be_loaded_is_told(folder, bench, change):
    path = folder / MODEL
    if change == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        weights = load_file(path)
        kept = weights.pop("readout.weight")
        weights["readout.weight" if change == "other sizes" else "other"] = kept[:-1].contiguous()
        save_file(weights, path)
    refused(bench("score", folder), path, "SHA-256", "run the suite again")
    edit(folder, lambda record: record.update(model_sha256=None))
    refused(bench("score", folder), path, "cannot be loaded", "run the suite again")


def test_a_missing_vocabulary_is_told(folder, bench):
    (folder / VOCABULARY).unlink()
    refused(bench("score", folder), folder / VOCABULARY)


def test_a_damaged_vocabulary_is_told(folder, bench):
    (folder / VOCABULARY).write_text("{")
    refused(bench("score", folder), folder / VOCABULARY)


def test_another_text_than_that_of_the_training_is_told(folder, bench):
    edit(folder, lambda record: record["corpus"].update(sha256="0" * 64))
    refused(bench("score", folder), folder, "newswire", "000000000000", "--data")


def test_a_corpus_of_ones_own_is_the_folder_that_data_names(tmp_path, bench):
    for name, word in (("right", "sun"), ("wrong", "moon")):
        (tmp_path / name).mkdir()
        for split, count in (("train", 30), ("valid", 5), ("test", 5)):
            lines = [f"the {word} is {'very ' * (i % 4)}bright" for i in range(count)]
            (tmp_path / name / f"{split}.txt").write_text("\n".join(lines) + "\n")
    settings = CorpusSettings(name="text", path=str(tmp_path / "right"))
    folder = finish(tmp_path, settings)
    assert bench("score", folder, "--data", tmp_path / "right").code == 0
    refused(bench("score", folder, "--data", tmp_path / "wrong"), folder, "--data")
    said = bench("score", folder, "--data", tmp_path / "nowhere")
    assert said.code == 3
    assert str(tmp_path / "nowhere") in said.err
    for verb in (["score", "--write", "model"], ["diagnose"]):
        said = bench(*verb, folder)
        assert said.code == 3
        assert "--data" in said.err
    said = bench("score", folder)
    assert said.code == 0
    assert "not held: the model's numbers, since its corpus is not here" in said.out
    assert "--data" in said.out


def test_other_labels_than_those_that_were_scored_are_refused(tmp_path, bench):
    text = tmp_path / "text"
    text.mkdir()
    for split, count in (("train", 30), ("valid", 5), ("test", 6)):
        lines = [f"the sun is {'very ' * (i % 4)}bright" for i in range(count)]
        (text / f"{split}.txt").write_text("\n".join(lines) + "\n")
    labels = text / "test.labels"
    labels.write_text("a\nb\na\nb\na\nb\n")
    folder = finish(tmp_path, CorpusSettings(name="text", path=str(text)))
    record = read_record(folder / RECORD)
    assert record["corpus"]["labels_sha256"] == record["settings"]["corpus"]["labels"] is not None
    assert bench("score", folder, "--data", text).code == 0
    labels.write_text("a\nb\na\nb\nb\na\n")
    for verb in (["score"], ["score", "--write", "model"], ["diagnose"]):
        refused(
            bench(*verb, folder, "--data", text), folder, "labels of SHA-256", "the same labels"
        )
    labels.unlink()
    refused(bench("score", folder, "--data", text), folder, "found are none")
    # An older record does not tell its labels; scored anew, it does.
    edit(folder, lambda record: record["corpus"].pop("labels_sha256"))
    edit(folder, lambda record: record.update(schema=2))
    assert bench("score", "--write", "model", folder, "--data", text).code == 0
    assert read_record(folder / RECORD)["corpus"]["labels_sha256"] is None


def test_a_remedy_of_ones_own_has_to_be_given(tmp_path, bench):
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    folder = finish(
        tmp_path,
        CorpusSettings(sentences=60, vocabulary=41),
        remedies=(RemedySettings("mine", {}, fingerprint(file)),),
        files=remedy_files([file]),
    )
    refused(bench("score", folder), folder, "mine", "--plugin")
    assert bench("score", folder, "--plugin", file).code == 0
    refused(bench("diagnose", folder), folder, "mine", "--plugin")
    file.write_text(MINE + "\n# edited\n")
    refused(bench("score", folder, "--plugin", file), file, folder, "edited")


# What is no finished cell


def test_a_folder_that_is_no_cell_is_told(tmp_path, bench):
    for verb in (["score"], ["score", "--write", "model"], ["diagnose"]):
        refused(bench(*verb, tmp_path), tmp_path, "record.json", "runs/<suite>/<cell id>")
        refused(bench(*verb, tmp_path / "nowhere"), "nowhere")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '"a"', "\x00\x01"])
def test_a_record_that_is_none_is_told(folder, bench, text):
    (folder / RECORD).write_text(text)
    refused(bench("score", folder), folder / RECORD)


@pytest.mark.parametrize(
    ("status", "way_out"),
    [
        ("killed", "mend that and run its suite again"),
        ("failed", "mend that and run its suite again"),
        ("diverged", "running its suite again keeps it, since it would diverge again: lower"),
    ],
)
def test_a_cell_without_a_result_is_told(folder, bench, status, way_out):
    edit(folder, lambda record: record.update(status=status, error="a\nlast line\n"))
    (folder / MODEL).unlink()
    for verb in (["score"], ["score", "--write", "model"], ["diagnose"]):
        refused(bench(*verb, folder), folder, status, "(last line)", way_out)


@pytest.mark.parametrize("value", ["3.2", True, [1.0], {}])
def test_a_metric_that_is_no_number_is_told_with_its_file(folder, bench, value):
    edit(folder, lambda record: record["metrics"].update({"nll@2": value}))
    for verb in (["score"], ["score", "--write", "model"], ["diagnose"]):
        text = f"the metric nll@2 must be a number, not {value!r}"
        refused(bench(*verb, folder), folder / RECORD, text)


def test_the_picture_that_is_told_is_the_one_that_is_written(folder, bench, tmp_path):
    for given, written in (("x", "x.png"), ("x.y", "x.y.png"), ("z.PNG", "z.PNG")):
        said = bench("diagnose", folder, "--picture", tmp_path / given)
        assert f"picture: {tmp_path / written}\n" in said.out
        assert (tmp_path / written).read_bytes().startswith(b"\x89PNG")


def test_a_cell_that_failed_after_its_training_is_scored_from_its_model(folder, bench):
    good = read_record(folder / RECORD)
    edit(
        folder,
        lambda record: record.update(
            status="failed", error="a reason", metrics={}, standard_errors={}, verdict=None
        ),
    )
    for verb in (["score"], ["score", "--write", "arrays"], ["diagnose"]):
        said = refused(bench(*verb, folder), folder, "failed", "(a reason)")
    assert f"score --write model {folder}" in said.err
    assert bench("score", "--write", "model", folder).code == 0
    again = read_record(folder / RECORD)
    assert (again["status"], again["error"]) == ("done", None)
    assert again["metrics"] == pytest.approx(good["metrics"], abs=1e-5)
    assert bench("score", folder).code == 0


def test_a_language_model_is_scored_again_too(tmp_path, bench):
    sizes = Sizes(embedding=10, hidden=15, latent=0, layers=2, heads=3)
    folder = finish(tmp_path, CorpusSettings(sentences=60, vocabulary=41), sizes=sizes)
    assert bench("score", folder).code == 0
    assert bench("score", "--write", "model", folder).code == 0
    assert read_record(folder / RECORD)["verdict"] == "no latent"
    assert bench("score", folder).code == 0
    # Its perplexity is that of its distortion: there is nothing that could tell it.
    refused(bench("diagnose", folder), "no latent")
    assert not (folder / "diagnosis.png").exists()


# The diagnosis of a cell


@pytest.mark.parametrize("of", ["folder", MODEL, RECORD])
def test_a_cell_is_diagnosed_from_its_folder_or_a_file_in_it(folder, bench, of):
    before = contents(folder)
    said = bench("diagnose", folder if of == "folder" else folder / of)
    assert said.code == 0, said.err
    record = read_record(folder / RECORD)
    assert said.out.startswith("verdict: ")
    assert f"{record['metrics']['kl@1']:8.2f} ± " in said.out
    assert (folder / "diagnosis.png").read_bytes().startswith(b"\x89PNG")
    assert contents(folder).items() >= before.items()


def test_the_picture_goes_where_it_is_asked_to(folder, bench, tmp_path):
    said = bench("diagnose", folder, "--picture", tmp_path / "mine.png")
    assert said.code == 0, said.err
    assert str(tmp_path / "mine.png") in said.out
    assert (tmp_path / "mine.png").exists()
    assert not (folder / "diagnosis.png").exists()
    refused(bench("diagnose", folder, "--picture", tmp_path / "nowhere" / "a.png"), "nowhere")


# On which device


@pytest.mark.parametrize("verb", [["score"], ["score", "--write", "model"], ["diagnose"]])
def test_a_cell_is_scored_and_diagnosed_on_the_device_that_is_asked_for(
    verb, folder, bench, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused(bench(*verb, "--device", "cuda", folder), "torch finds no GPU here; use --device cpu")
    asked = []
    monkeypatch.setattr(SequenceVAE, "to", lambda model, device: asked.append(device))
    assert bench(*verb, "--device", "cpu", folder).code == 0
    assert bench(*verb, folder).code == 0
    # A GPU that is only said to be there: the model stays where it is.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA Imaginary")
    assert bench(*verb, folder).code == 0
    assert asked == ["cpu", "cpu", "cuda"]
    if "--write" in verb:
        record = json.loads((folder / RECORD).read_text())
        assert record["scored"]["device"] == "NVIDIA Imaginary"
        assert record["environment"]["device"] == "cpu"
