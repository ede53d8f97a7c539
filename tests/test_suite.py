"""A suite is read as it is meant, or everything that is wrong with it is told at once."""

import contextlib
import json
import pickle
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collapse_bench.errors import SuiteError, UserError
from collapse_bench.settings import schema_of_file
from collapse_bench.suite import (
    Cell,
    CorpusSettings,
    Entry,
    RemedySettings,
    Suite,
    Sweep,
    belongs_to,
    cell_id,
    cells_of,
    curves_of,
    identity,
    load_suite,
    select,
)

WORD_DROPOUT = '''"""Word dropout."""

from nowhere import Remedy

@dataclass(frozen=True)
class WordDropout(Remedy):
    """Drops words."""

    rate: Annotated[float, Between(0, 1)] = 0.25
'''
KL_ANNEALING = '''"""KL annealing."""

@dataclass(frozen=True)
class KlAnnealing(Remedy):
    """Raises beta."""

    warmup: Annotated[float, Between(0, 1)] = 0.25
    updates: int = 10
    shape: Literal["linear", "logistic"] = "linear"
    early: bool = False
    slots: tuple[str, ...] = ("prior",)
    period: float | str | None = None
'''

GOOD = """\
corpus: {name: ptb, otherwise: newswire}
architectures: [lstm, transformer]
sizes: {embedding: 64, hidden: 64, latent: 8}
training: {budget: {ptb: 4000, newswire: 800}, learning_rate: 1e-3}
evaluation: {samples: 4}
seeds: [1, 2]
entries:
  language_model: {latent: 0}
  vae: []
  word_dropout: [{word_dropout: {rate: 0.5}}]
  kl_annealing+word_dropout: [kl_annealing, {word_dropout: {rate: 1}}]
"""


@pytest.fixture(scope="module")
def remedies(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("remedies")
    files = {
        "word_dropout": WORD_DROPOUT,
        "kl_annealing": KL_ANNEALING,
        "broken": "class Broken(:\n",
    }
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    return {name: folder / f"{name}.py" for name in files}


@pytest.fixture
def load(tmp_path, remedies):
    def load(text: str | bytes) -> Suite:
        path = tmp_path / "trial.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_suite(path, remedies)

    return load


def problems_with(load, text: str | bytes) -> list[str]:
    with pytest.raises(SuiteError) as caught:
        load(text)
    return [problem.partition("trial.yaml:")[2] for problem in caught.value.problems]


# What a suite means.


def test_a_good_suite_is_read_as_written(load, tmp_path):
    suite = load(GOOD)
    assert (suite.name, suite.path) == ("trial", tmp_path / "trial.yaml")
    assert suite.corpus == CorpusSettings(name="ptb", otherwise="newswire")
    assert suite.architectures == ("lstm", "transformer")
    assert suite.seeds == (1, 2)
    assert suite.training.learning_rate == 0.001
    assert suite.training.budget_for("ptb") == 4000
    assert suite.training.budget_for("newswire") == 800
    assert suite.entries[0] == Entry("language_model", latent=0)
    assert suite.entries[1] == Entry("vae")
    (remedy,) = suite.entries[2].remedies
    assert remedy == RemedySettings("word_dropout", {"rate": 0.5}, remedy.sha256)
    assert remedy.sha256 is not None


def test_what_is_left_out_has_its_default(load):
    suite = load("architectures: [lstm]\ntraining: {budget: 9}\nentries: {vae: []}\n")
    assert suite.corpus == CorpusSettings(name="newswire")
    assert suite.seeds == (1,)
    assert (suite.sizes.hidden, suite.training.batch, suite.evaluation.samples) == (256, 32, 64)
    assert suite.training.budget_for("newswire") == suite.training.budget_for("ptb") == 9


def test_settings_of_a_remedy_are_resolved_to_one_normal_form(load):
    annealing, dropout = load(GOOD).entries[3].remedies
    assert annealing.settings == {
        "warmup": 0.25,
        "updates": 10,
        "shape": "linear",
        "early": False,
        "slots": ("prior",),
        "period": None,
    }
    assert repr(dropout.settings) == "{'rate': 1.0}"


def test_a_path_is_relative_to_the_suite(load, tmp_path):
    suite = load(GOOD.replace("{name: ptb", "{path: texts, name: ptb"))
    assert suite.corpus.path == str(tmp_path / "texts")
    suite = load(GOOD.replace("{name: ptb", "{path: /texts, name: ptb"))
    assert suite.corpus.path == "/texts"


@pytest.mark.parametrize(
    ("written", "meant"),
    [("1e-3", 1e-3), ("1E+0", 1.0), (".5", 0.5), ("2.", 2.0), ("+3", 3.0), ("007", 7.0)],
)
def test_numbers_are_those_of_yaml_1_2(load, written, meant):
    assert load(GOOD.replace("1e-3", written)).training.learning_rate == meant


@pytest.mark.parametrize("text", ["no", "off", "1.2.3", "12:30", "'1'", '"true"', "2026-01-01"])
def test_texts_are_those_of_yaml_1_2(load, text):
    suite = load(GOOD.replace("{name: ptb", f"{{hub: {text}, name: ptb"))
    assert suite.corpus.hub == text.strip("'\"")


def test_null_is_none(load):
    assert load(GOOD.replace("otherwise: newswire", "revision: ~")).corpus.revision is None


def test_importing_and_loading_needs_no_heavy_package(tmp_path, remedies):
    (tmp_path / "trial.yaml").write_text(GOOD)
    program = (
        "import sys; from pathlib import Path; from collapse_bench.suite import load_suite\n"
        "suite, *remedies = map(Path, sys.argv[1:])\n"
        "load_suite(suite, {path.stem: path for path in remedies})\n"
        "print([name for name in ('torch', 'numpy', 'datasets') if name in sys.modules])"
    )
    command = [sys.executable, "-c", program, tmp_path / "trial.yaml", *remedies.values()]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


# Cells.

IDS = ["vae-lstm-1-ca17d766", "word_dropout-lstm-1-ca17d766"]


def test_cells_are_ordered_by_seed_entry_and_architecture(load):
    names = [cell.name for cell in cells_of(load(GOOD))]
    assert names[:5] == [
        "language_model/lstm/1",
        "language_model/transformer/1",
        "vae/lstm/1",
        "vae/transformer/1",
        "word_dropout/lstm/1",
    ]
    assert len(names) == 16
    assert all(name.endswith("/1") for name in names[:8])


def test_the_latent_of_an_entry_overrides_that_of_the_suite(load):
    latents = {cell.entry.name: cell.sizes.latent for cell in cells_of(load(GOOD))}
    assert (latents["language_model"], latents["vae"]) == (0, 8)


def test_cells_travel_to_a_worker(load):
    cells = cells_of(load(GOOD))
    assert pickle.loads(pickle.dumps(cells)) == cells


def test_select_takes_shell_patterns(load):
    cells = cells_of(load(GOOD))
    assert select(cells, "*") == cells
    assert [c.name for c in select(cells, "vae/lstm/*")] == ["vae/lstm/1", "vae/lstm/2"]
    assert [c.name for c in select(cells, "vae/*/2")] == ["vae/lstm/2", "vae/transformer/2"]
    with pytest.raises(UserError, match=r"'vea/\*'(?s:.)*vae/lstm/1"):
        select(cells, "vea/*")


def _id(
    cell: Cell,
    name: str = "ptb",
    sha256: str = "abc",
    budget: int = 4000,
    labels: str | None = None,
) -> str:
    return cell_id(cell, name, sha256, labels, budget)


def test_an_id_names_its_cell_and_is_stable(load):
    cell = cells_of(load(GOOD))[-1]
    assert _id(cell).startswith("kl_annealing+word_dropout-transformer-2-")
    assert len(_id(cell).rpartition("-")[2]) == 8
    assert _id(cell) == _id(cells_of(load(GOOD))[-1])


def test_an_id_changes_with_whatever_changes_the_result(load):
    def ids(text: str) -> list[str]:
        return [_id(cell) for cell in cells_of(load(text))]

    base = ids(GOOD)
    assert len(set(base)) == len(base)
    changed = ids(GOOD.replace("rate: 0.5", "rate: 0.6"))
    entries = [cell.entry.name for cell in cells_of(load(GOOD))]
    for entry, before, after in zip(entries, base, changed, strict=True):
        assert (before != after) == (entry == "word_dropout")
    for old, new in [("1e-3", "2e-3"), ("hidden: 64", "hidden: 32"), ("samples: 4", "samples: 5")]:
        assert not set(ids(GOOD.replace(old, new))) & set(base)
    cell = cells_of(load(GOOD))[0]
    others = [
        _id(cell),
        _id(cell, name="newswire"),
        _id(cell, sha256="abd"),
        _id(cell, budget=4001),
        _id(cell, labels="abc"),
        _id(cell, labels="abd"),
        _id(replace(cell, entry=replace(cell.entry, told="length"))),
        _id(replace(cell, training=replace(cell.training, threads=2))),
    ]
    assert len(set(others)) == len(others)


def test_a_cell_of_one_thread_without_labels_or_told_has_the_id_that_it_had_before(load):
    """Finished cells of before are still found."""
    text = GOOD.replace("[{word_dropout: {rate: 0.5}}]", "[]")
    assert [_id(cell) for cell in cells_of(load(text))[2:5:2]] == IDS


def test_an_id_does_not_change_with_how_the_same_is_said(load):
    cell = cells_of(load(GOOD))[-1]
    said_otherwise = GOOD.replace("rate: 1}", "rate: 1.0}").replace("newswire: 800", "newswire: 9")
    elsewhere = said_otherwise.replace("{name: ptb", "{path: elsewhere, name: ptb")
    assert _id(cell) == _id(cells_of(load(elsewhere))[-1])


def test_an_identity_is_json(load):
    for cell in cells_of(load(GOOD)):
        whole = identity(cell, "ptb", "abc", None, 4000)
        assert whole["training"]["budget"] == 4000
        assert json.loads(json.dumps(whole, allow_nan=False))["seed"] == cell.seed


# Entries with more than remedies.

FURTHER = """\
  oracle: {latent: 0, told: length}
  long: {remedies: [kl_annealing], budget: {ptb: 9000, newswire: 900}}
  longer: {remedies: [], budget: 9500}
  swept: {remedies: [{word_dropout: {rate: {sweep: [0, 1]}}}], budget: 7}
"""


def test_an_entry_may_have_a_budget_and_be_told_something(load):
    suite = load(GOOD + FURTHER)
    oracle, long, longer, *swept = suite.entries[4:]
    assert oracle == Entry("oracle", latent=0, told="length")
    assert long.remedies == load(GOOD + "  a: [kl_annealing]\n").entries[-1].remedies
    assert longer == Entry("longer", budget=9500)
    assert [(each.name, each.budget) for each in swept] == [("swept-0", 7), ("swept-1", 7)]
    cells = {cell.entry.name: cell for cell in cells_of(suite)}
    budgets = {name: cell.budget_for("ptb") for name, cell in cells.items()}
    assert (budgets["vae"], budgets["long"], budgets["longer"]) == (4000, 9000, 9500)
    assert cells["long"].budget_for("newswire") == 900
    assert cells["vae"].sizes.latent == cells["long"].sizes.latent == 8
    assert cells["oracle"].sizes.latent == 0
    assert identity(cells["oracle"], "ptb", "abc", None, 1)["told"] == "length"
    assert pickle.loads(pickle.dumps(cells)) == cells


def test_a_mapping_with_remedies_alone_is_the_list_of_them(load):
    written = {name: load(GOOD + f"  a: {name}\n") for name in ("[kl_annealing]",
               "{remedies: [kl_annealing]}")}  # fmt: skip
    assert len({_id(cells_of(suite)[-1]) for suite in written.values()}) == 1


def test_a_budget_alone_is_what_is_spent_and_so_the_identity(load):
    own = cells_of(load(GOOD + "  a: {remedies: [], budget: 9}\n"))[-1]
    of_suite = cells_of(load(GOOD + "  a: []\n"))[-1]
    assert _id(own, budget=9) == _id(of_suite, budget=9)


def test_a_record_belongs_to_an_entry_whatever_its_budget_and_labels(load):
    suite = load(GOOD + FURTHER)
    for cell in cells_of(suite):
        for labels, budget in ((None, 5), ("abc", 9000)):
            record = {
                "cell": _id(cell, labels=labels, budget=budget),
                "entry": cell.entry.name,
                "architecture": cell.architecture,
                "seed": cell.seed,
                "budget": budget,
                "corpus": {"name": "ptb", "sha256": "abc"},
                "settings": identity(cell, "ptb", "abc", labels, budget),
            }
            assert belongs_to(suite)(record)
            assert belongs_to(load(GOOD))(record) == (cell.entry.name not in (
                "oracle", "long", "longer", "swept-0", "swept-1"))  # fmt: skip
            del record["settings"]["corpus"]["labels"]  # as before there was such a thing
            assert belongs_to(suite)(record) == (labels is None)
            del record["settings"]["training"]["threads"]
            assert belongs_to(suite)(record) == (labels is None)


def test_a_record_belongs_to_an_entry_whatever_its_threads(load):
    suite = load(GOOD)
    cell = cells_of(suite)[-1]
    cell = replace(cell, training=replace(cell.training, threads=3))
    record = {
        "cell": _id(cell),
        "entry": cell.entry.name,
        "architecture": cell.architecture,
        "seed": cell.seed,
        "budget": 4000,
        "corpus": {"name": "ptb", "sha256": "abc"},
        "settings": identity(cell, "ptb", "abc", None, 4000),
    }
    assert belongs_to(suite)(record)
    record["settings"]["training"]["threads"] = 2
    assert not belongs_to(suite)(record)


def test_metrics_by_construction_are_metrics(tmp_path):
    remedy, path = tmp_path / "free_bits.py", tmp_path / "trial.yaml"
    path.write_text(GOOD.partition("  lang")[0] + "  a: [free_bits]\n")
    for written, message in {
        "by_construction = ('kl', 'nll')": None,
        "by_construction: ClassVar[tuple[str, ...]] = ('kl',)": None,
        "by_construction: ClassVar[tuple[str, ...]] = ()": None,
        "by_construction = ('nl',)": r"unknown metric 'nl', did you mean nll\?",
        "by_construction: ClassVar[tuple[str, ...]] = ('rate',)": "unknown metric 'rate'",
        "by_construction = 'kl'": "must be names of metrics, not 'kl'",
        "by_construction = NAMES": r"free_bits\.py:2: by_construction must be a plain value",
    }.items():
        remedy.write_text(f"class FreeBits(Remedy):\n    {written}\n    bits: float = 3\n")
        if message is None:
            [entry] = load_suite(path, {"free_bits": remedy}).entries
            assert entry.remedies[0].settings == {"bits": 3.0}
            continue
        with pytest.raises(SuiteError, match=rf"trial\.yaml:8: entry a: .*{message}"):
            load_suite(path, {"free_bits": remedy})


# Sweeps.

SWEPT = """\
  w: [kl_annealing, {word_dropout: {rate: {sweep: [0.2, 1, .5]}}}]
  shape: [{kl_annealing: {shape: {sweep: [logistic, linear]}, warmup: 0.5}}]
"""
ONE_BY_ONE = """\
  w-0.2: [kl_annealing, {word_dropout: {rate: 0.2}}]
  w-1: [kl_annealing, {word_dropout: {rate: 1}}]
  w-0.5: [kl_annealing, {word_dropout: {rate: 0.5}}]
  shape-logistic: [{kl_annealing: {shape: logistic, warmup: 0.5}}]
  shape-linear: [{kl_annealing: {shape: linear, warmup: 0.5}}]
"""


def test_a_sweep_is_its_values_written_one_by_one(load):
    swept, one_by_one = cells_of(load(GOOD + SWEPT)), cells_of(load(GOOD + ONE_BY_ONE))
    assert [cell.name for cell in swept] == [cell.name for cell in one_by_one]
    assert [_id(cell) for cell in swept] == [_id(cell) for cell in one_by_one]
    assert [c.entry.remedies for c in swept] == [c.entry.remedies for c in one_by_one]


def test_an_entry_of_a_sweep_knows_where_it_comes_from(load):
    suite = load(GOOD + SWEPT)
    assert [entry.sweep for entry in suite.entries] == [
        *[None] * 4,
        *[Sweep("w", "word_dropout.rate", rate) for rate in (0.2, 1, 0.5)],
        *[Sweep("shape", "kl_annealing.shape", shape) for shape in ("logistic", "linear")],
    ]


def test_curves_are_the_names_of_what_each_swept_entry_stands_for(load):
    suite = load(GOOD + SWEPT)
    assert curves_of(suite) == {
        "w": ["w-0.2", "w-1", "w-0.5"],
        "shape": ["shape-logistic", "shape-linear"],
    }
    assert set().union(*curves_of(suite).values()) < {entry.name for entry in suite.entries}
    assert curves_of(load(GOOD)) == {}


@pytest.mark.parametrize(
    ("setting", "values", "names"),
    [
        ("warmup", "0.60, 1e-3, 1e-7, 1", ["0.6", "0.001", "1e-07", "1"]),
        ("updates", "-5, 007", ["-5", "7"]),
        ("early", "true, False", ["true", "false"]),
        ("period", "null, 3, 2.5", ["null", "3", "2.5"]),
    ],
)
def test_values_are_named_as_yaml_writes_them(load, setting, values, names):
    text = f"  a: [{{kl_annealing: {{{setting}: {{sweep: [{values}]}}}}}}]\n"
    assert curves_of(load(GOOD + text)) == {"a": [f"a-{name}" for name in names]}


def test_settings_without_a_default_may_be_swept(tmp_path):
    remedy, path = tmp_path / "free_bits.py", tmp_path / "trial.yaml"
    remedy.write_text("class FreeBits(Remedy):\n    bits: float\n    share: float\n")

    def load(settings: str) -> Suite:
        path.write_text(GOOD.partition("  lang")[0] + f"  a: [{{free_bits: {settings}}}]\n")
        return load_suite(path, {"free_bits": remedy})

    entries = load("{bits: {sweep: [1, 2]}, share: 0}").entries
    settings = [entry.remedies[0].settings for entry in entries]
    assert settings == [{"bits": 1.0, "share": 0.0}, {"bits": 2.0, "share": 0.0}]
    with pytest.raises(SuiteError, match="must sweep one setting"):
        load("{bits: {sweep: [1, 2]}, share: {sweep: [0, 1]}}")
    with pytest.raises(SuiteError, match="share is missing"):
        load("{bits: {sweep: [1, 2]}}")


def test_no_setting_of_a_remedy_is_a_mapping_that_a_sweep_could_be_taken_for(tmp_path):
    for annotation in ("dict", "dict[str, float]", "dict[str, int] | None"):
        remedy = tmp_path / "mapped.py"
        remedy.write_text(f"class Mapped(Remedy):\n    a: {annotation} = None\n")
        with pytest.raises(UserError, match="the annotation of a must be"):
            schema_of_file(remedy, "Mapped")


def test_each_value_of_a_sweep_is_told_with_its_own_line(load):
    text = GOOD + "  a:\n  - word_dropout:\n      rate:\n        sweep:\n"
    problems = problems_with(
        load, text + "        - 0.5\n        - 2\n        - '1'\n        - .5\n"
    )
    assert [problem.partition(" ")[0] for problem in problems] == ["17:", "18:", "19:"]
    assert "word_dropout: rate must be a number between 0 and 1, not 2" in problems[0]
    assert "not '1'; write a plain number, without quotes" in problems[1]
    assert "a sweep of rate must not repeat 0.5; remove it" in problems[2]


def test_problems_beside_a_sweep_are_told_once(load):
    text = "  a: [{kl_annealing: {warmup: {sweep: [0, .5, 1]}, updates: 1.5, shap: linear}}]\n"
    problems = problems_with(load, GOOD + text)
    assert len(problems) == 2
    assert any("updates must be a whole number, not 1.5" in problem for problem in problems)
    assert any("unknown setting 'shap'" in p and "slots, updates, warmup" in p for p in problems)


def test_a_bad_name_of_a_swept_entry_is_told_once(load):
    problems = problems_with(load, GOOD + "  A: [{word_dropout: {rate: {sweep: [0, 1]}}}]\n")
    assert [problem.partition(" must")[0] for problem in problems] == ["12: entry 'A': the name"]


def test_the_entries_of_a_sweep_count_as_cells(load):
    many = ", ".join(str(i / 2600) for i in range(2600))
    problems = problems_with(
        load, GOOD + f"  a: [{{word_dropout: {{rate: {{sweep: [{many}]}}}}}}]\n"
    )
    assert problems == ["1: suite: must not have more than 10000 cells, not 10416"]


# Bad suites. Each is GOOD with one text replaced: (old, new, line, what the message must hold).

BAD = {
    # keys of the file
    "unknown key": ("seeds:", "seed:", 6, ["unknown setting 'seed'", "did you mean seeds?"]),
    "several legal names": ("seeds:", "x:", 6, ["'x'", "legal: architectures, corpus, entries"]),
    "duplicate key": ("seeds: [1, 2]", "sizes: {}", 6, ["'sizes' is already on line 3; keep"]),
    "merge key": ("seeds: [1, 2]", "<<: {seeds: [1]}", 6, ["merge keys", "write the settings out"]),
    "list as key": ("seeds: [1, 2]", "[1, 2]: 3", 6, ["a key must be text"]),
    "mapping as key": ("seeds: [1, 2]", "{a: 1}: 3", 6, ["a key must be text"]),
    "no architectures": ("architectures: [lstm, transformer]", "", 1, ["architectures is missing"]),
    "corpus is a name": ("{name: ptb, otherwise: newswire}", "ptb", 1, ["a mapping, not 'ptb'"]),
    "sizes is a list": ("{embedding: 64, hidden: 64, latent: 8}", "[64]", 3, ["mapping, not [64]"]),
    "training is null": ("{budget: {ptb: 4000, newswire: 800}, learning_rate: 1e-3}", "", 4,
                         ["training must be a mapping, not null"]),
    # corpus
    "unknown corpus": ("name: ptb", "name: pbt", 1,
                       ["values, linear_gaussian or sine_maps", "did you mean ptb?"]),
    "unknown key of corpus": ("otherwise:", "otherwize:", 1, ["did you mean otherwise?"]),
    "otherwise ptb": ("otherwise: newswire", "otherwise: ptb", 1,
                      ["bible or newswire or null, not 'ptb'"]),
    "tiny vocabulary": ("name: ptb", "vocabulary: 4, name: ptb", 1, ["a whole number at least 5"]),
    "tokenizer": ("name: ptb", "tokenizer: words, name: ptb", 1, ["did you mean word?"]),
    "path is a number": ("name: ptb", "path: 3, name: ptb", 1, ["must be text or null, not 3"]),
    "text from nowhere": ("name: ptb", "name: text", 1, ["train.txt, valid.txt"]),
    "newswire with path": ("name: ptb, otherwise: newswire", "name: newswire, path: a", 1,
                           ["path must not be given for newswire"]),
    "newswire with hub": ("name: ptb, otherwise: newswire", "hub: a", 1, ["hub must not be given"]),
    "revision of nothing": ("name: ptb", "revision: a, name: ptb", 1, ["give hub, too"]),
    "sentences of ptb": ("otherwise: newswire", "sentences: 99", 1, ["or sine_maps, not for ptb"]),
    "level of ptb": ("otherwise: newswire", "level: easy", 1, ["level is for newswire, not for"]),
    "unknown level": ("otherwise:", "level: esay, otherwise:", 1, ["did you mean easy?"]),
    "one test sentence": ("name: ptb, otherwise: newswire", "sentences: 19", 1,
                          ["sentences must be a whole number at least 20 or null, not 19"]),
    # architectures, sizes, evaluation, seeds
    "architecture": ("transformer]", "tranformer]", 2, ["did you mean transformer?"]),
    "architectures a name": ("[lstm, transformer]", "lstm", 2, ["must be a list", "not 'lstm'"]),
    "no architecture": ("[lstm, transformer]", "[]", 2, ["architectures must not be empty"]),
    "architecture twice": ("[lstm, transformer]", "[lstm, lstm]", 2, ["must not repeat lstm"]),
    "heads": ("latent: 8", "heads: 7", 3, ["heads must divide hidden, not 7 and 64"]),
    "default heads": ("hidden: 64", "hidden: 63", 3, ["heads must divide hidden, not 4 and 63"]),
    "no latent for all": ("latent: 8", "latent: 0", 3, ["latent must be", "at least 1, not 0"]),
    "size is a float": ("hidden: 64", "hidden: 64.0", 3, ["a whole number at least 1, not 64.0"]),
    "size is a text": ("hidden: 64", "hidden: '64'", 3, ["not '64'", "without quotes"]),
    "size is a bool": ("hidden: 64", "hidden: true", 3, ["a whole number at least 1, not True"]),
    "size is hexadecimal": ("hidden: 64", "hidden: 0x40", 3, ["a whole number", "not '0x40'"]),
    "unknown size": ("hidden: 64", "hiden: 64", 3, ["sizes: unknown setting", "mean hidden?"]),
    "no samples": ("samples: 4", "samples: 0", 5, ["evaluation: samples", "at least 1, not 0"]),
    "seeds a number": ("[1, 2]", "1", 6, ["seeds must be a list", "not 1"]),
    "seeds twice": ("[1, 2]", "[1, 2, 1]", 6, ["seeds must not repeat 1"]),
    "no seeds": ("[1, 2]", "[]", 6, ["seeds must not be empty"]),
    "seed no": ("[1, 2]", "[no]", 6, ["each item a whole number", "['no']"]),
    "seed true": ("[1, 2]", "[true]", 6, ["each item a whole number", "[True]"]),
    "seed below 0": ("[1, 2]", "[-1]", 6, ["at least 0, not [-1]"]),
    "huge seed": ("[1, 2]", "[1000000000000000000000]", 6, ["each item a whole number"]),
    "null seeds": ("[1, 2]", "", 6, ["seeds must be a list", "not null"]),
    "too many cells": ("[1, 2]", str(list(range(1300))), 1, ["more than 10000 cells, not 10400"]),
    # training
    "no budget": ("budget:", "buget:", 4, ["did you mean budget?"]),
    "missing budget": ("budget: {ptb: 4000, newswire: 800}, ", "", 4, ["budget is missing; give"]),
    "budget 0": ("{ptb: 4000, newswire: 800}", "0", 4, ["at least 1", "not 0"]),
    "budget 4e6": ("{ptb: 4000, newswire: 800}", "4e6", 4, ["not 4000000.0; write 4000000"]),
    "budget {ptb: 4e6}": ("ptb: 4000,", "ptb: 4e6,", 4, ["; write {ptb: 4000000, newswire: 800}"]),
    "budget 4_000": ("{ptb: 4000, newswire: 800}", "4_000", 4, ["not '4_000'", "underscores"]),
    "budget of another": ("ptb: 4000", "pbt: 4000", 4, ["not {'pbt': 4000,", "did you mean ptb?"]),
    "budget without ptb": ("ptb: 4000, ", "", 4, ["budget", "for ptb", "add 'ptb: N'"]),
    "budget without otherwise": (", newswire: 800", "", 4, ["budget", "add 'newswire: N'"]),
    "quoted rate": ("1e-3", "'1e-3'", 4, ["above 0, not '1e-3'", "plain number, without quotes"]),
    "learning rate 0": ("1e-3", "0", 4, ["learning_rate must be a number above 0, not 0"]),
    "learning rate nan": ("1e-3", ".nan", 4, ["a number above 0, not nan"]),
    "learning rate inf": ("1e-3", ".inf", 4, ["a number above 0, not inf"]),
    "overflow": ("1e-3", "1e999", 4, ["a number above 0, not inf"]),
    "precision": ("1e-3", "1, precision: float16", 4, ["float32 or bfloat16", "did you mean"]),
    "precision of evaluation": ("samples: 4", "samples: 4, precision: float64", 5,
                                ["evaluation: precision", "auto, float32 or bfloat16"]),
    "standard error": ("samples: 4", "samples: 4, standard_error: -0.1", 5,
                       ["evaluation: standard_error", "at least 0, not -0.1"]),
    "dropout": ("1e-3", "1, dropout: 1.5", 4, ["dropout must be", "between 0 and 1, not 1.5"]),
    # entries
    "name in capitals": ("  vae:", "  VAE:", 9, ["'VAE'", "a-z, 0-9"]),
    "name is a path": ("  vae:", "  ../vae:", 9, ["'../vae'", "1 to 64 characters"]),
    "name too long": ("  vae:", f"  {'v' * 65}:", 9, ["1 to 64 characters"]),
    "name of two lines": ("  vae:", '  "v\\nae":', 9, ["entry 'v\\nae': the name must be"]),
    "empty name": ("  vae:", "  '':", 9, ["entry '': the name must be"]),
    "entry twice": ("  vae:", "  word_dropout:", 10, ["already on line 9"]),
    "entry null": ("vae: []", "vae:", 9, ["entry vae", "a list of remedies", "not null"]),
    "entry a name": ("vae: []", "vae: word_dropout", 9, ["a list of remedies", "'word_dropout'"]),
    "entry no list": ("[{word_dropout: {rate: 0.5}}]", "{word_dropout: {rate: 0.5}}", 10,
                      ["a list of remedies, such as [word_dropout]"]),
    "control misspelt": ("{latent: 0}", "{laten: 0}", 8, ["entry language_model", "mean latent?"]),
    "control below 0": ("{latent: 0}", "{latent: -1}", 8, ["latent must be", "at least 0, not -1"]),
    "entry of nothing": ("{latent: 0}", "{}", 8, ["give latent", "or remedies", "not neither"]),
    "latent and remedies": ("{latent: 0}", "{latent: 0, remedies: []}", 8, ["not both"]),
    "remedies no list": ("{latent: 0}", "{remedies: vae}", 8, ["remedies must be a list"]),
    "unknown in remedies": ("{latent: 0}", "{remedies: [word_dropuot]}", 8, ["mean word_dropout?"]),
    "told to a VAE": ("{latent: 0}", "{remedies: [], told: length}", 8, ["told: length is for a "
                      "language model", "add latent: 0"]),
    "told to a latent": ("{latent: 0}", "{latent: 3, told: length}", 8, ["add latent: 0"]),
    "told what": ("{latent: 0}", "{latent: 0, told: topic}", 8, ["be length or labels, not "
                  "'topic'"]),
    "told labels of ptb": ("{latent: 0}", "{told: labels}", 8, ["needs labels, and ptb has none"]),
    "budget of an entry": ("{latent: 0}", "{latent: 0, budget: 0}", 8, ["entry language_model: "
                           "budget must be a whole number at least 1"]),
    "budget 1e6 of an entry": ("{latent: 0}", "{latent: 0, budget: 1e6}", 8, ["write 1000000"]),
    "budget of an entry without ptb": ("{latent: 0}", "{latent: 0, budget: {newswire: 3}}", 8,
                                       ["entry language_model: budget", "for ptb", "'ptb: N'"]),
    "unknown remedy": ("[{word_dropout:", "[{word_dropuot:", 10,
                       ["unknown remedy 'word_dropuot'", "mean word_dropout?", "--plugin FILE"]),
    "remedy by path": ("vae: []", "vae: [./mine.py]", 9, ["remedy './mine.py'", "--plugin"]),
    "remedy is a number": ("vae: []", "vae: [3]", 9, ["a remedy must be a name", "not 3"]),
    "two in one item": ("vae: []", "vae: [{word_dropout: , rate: 1}]", 9, ["one for each item"]),
    "settings null": ("vae: []", "vae: [{word_dropout: }]", 9, ["a mapping, such as {}", "null"]),
    "settings a number": ("{rate: 0.5}", "0.5", 10, ["a mapping, such as {}", "not 0.5"]),
    "setting misspelt": ("rate: 0.5", "rat: 0.5", 10, ["word_dropout: unknown", "mean rate?"]),
    "setting too large": ("rate: 0.5", "rate: 1.5", 10,
                          ["word_dropout: rate must be a number between 0 and 1, not 1.5"]),
    "setting twice": ("rate: 0.5", "rate: 0.5, rate: 1", 10, ["'rate' is already on line 10"]),
    "setting yes": ("vae: []", "vae: [{kl_annealing: {early: yes}}]", 9, ["write true or false"]),
    "setting choice": ("vae: []", "vae: [{kl_annealing: {shape: lin}}]", 9, ["mean linear?"]),
    "setting list": ("vae: []", "vae: [{kl_annealing: {slots: prior}}]", 9, ["must be a list"]),
    "broken remedy": ("vae: []", "vae: [broken]", 9, ["broken.py:1: is not Python"]),
    # sweeps
    "sweep of one": ("rate: 0.5", "rate: {sweep: [2]}", 10,
                     ["sweep of rate must have 2 values or more, not 1; write rate: value"]),
    "its only value": ("rate: 0.5", "rate: {sweep: [2]}", 10, ["between 0 and 1, not 2"]),
    "sweep of none": ("rate: 0.5", "rate: {sweep: []}", 10, ["2 values or more, not 0"]),
    "sweep of null": ("rate: 0.5", "rate: {sweep: }", 10,
                      ["between 0 and 1, or {sweep: [value, value, ...]}, not {'sweep': None}"]),
    "sweep of a number": ("rate: 0.5", "rate: {sweep: 0.5}", 10, ["or {sweep: [value, value"]),
    "sweep misspelt": ("rate: 0.5", "rate: {sweeep: [0, 1]}", 10, ["or {sweep: [", "'sweeep'"]),
    "sweep and more": ("rate: 0.5", "rate: {sweep: [0, 1], x: 1}", 10, ["rate must be", "'x': 1"]),
    "empty mapping": ("rate: 0.5", "rate: {}", 10, ["or {sweep: [value, value, ...]}, not {}"]),
    "sweep of a sweep": ("rate: 0.5", "rate: {sweep: [{sweep: [0, 1]}, 0]}", 10,
                         ["rate must be a number between 0 and 1, not {'sweep': [0, 1]}"]),
    "value too large": ("rate: 0.5", "rate: {sweep: [0.5, 1.5]}", 10,
                        ["word_dropout: rate must be a number between 0 and 1, not 1.5"]),
    "value twice": ("rate: 0.5", "rate: {sweep: [0.5, 1, 0.50]}", 10, ["not repeat 0.5; remove"]),
    "value in two ways": ("rate: 0.5", "rate: {sweep: [1, 1.0]}", 10, ["must not repeat 1.0"]),
    "name in two ways": ("vae: []", "vae: [{kl_annealing: {period: {sweep: [null, 'null']}}}]", 9,
                         ["must not repeat 'null'"]),
    "sweep of the unknown": ("rate: 0.5", "rat: {sweep: [0, 1]}", 10, ["'rat'", "mean rate?"]),
    "sweep without remedy": ("{latent: 0}", "{latent: {sweep: [0, 1]}}", 8, ["latent must be"]),
    "sweep of a size": ("hidden: 64", "hidden: {sweep: [32, 64]}", 3, ["a whole number at least"]),
    "two knobs": ("[kl_annealing, {word_dropout: {rate: 1}}]",
                  "[{kl_annealing: {warmup: {sweep: [0, 1]}}}, {word_dropout: {rate: {sweep: [0, 1]"
                  "}}}]", 11, ["entry kl_annealing+word_dropout: must sweep one setting, not "
                  "'kl_annealing.warmup' and 'word_dropout.rate'; give the rest one value"]),
    "two knobs of one": ("vae: []",
                         "vae: [{kl_annealing: {warmup: {sweep: [0, 1]}, updates: {sweep: []}}}]",
                         9, ["'kl_annealing.warmup' and 'kl_annealing.updates'"]),
    "name of a value": ("vae: []", "vae: [{kl_annealing: {slots: {sweep: [[a], [b]]}}}]", 9,
                        ["entry vae: its sweep makes an entry 'vae-[\"a\"]'", "a-z, 0-9",
                         "with a name of your own"]),
    "name of a sweep": ("  word_dropout: [{word_dropout: {rate: 0.5}}]",
                        f"  {'w' * 61}: [{{word_dropout: {{rate: {{sweep: [0, 0.5]}}}}}}]", 10,
                        ["1 to 64 characters"]),
    "name of an entry": ("  vae: []", "  word: [{kl_annealing: {period: {sweep: [x, y]}}}]\n"
                         "  word-y: []", 9, ["entry word: its sweep makes an entry 'word-y', a name"
                         " that entry word-y on line 10 takes; rename one"]),
    "name of a swept entry": ("  vae: []", "  word-y: [{word_dropout: {rate: {sweep: [0, 1]}}}]\n"
                              "  word: [{kl_annealing: {period: {sweep: [x, y]}}}]", 10,
                              ["'word-y', a name that entry word-y on line 9 takes"]),
    "names of two sweeps": ("  vae: []", "  a-b: [{kl_annealing: {period: {sweep: [x, c]}}}]\n"
                            "  a: [{kl_annealing: {period: {sweep: [b-c, y]}}}]", 10,
                            ["entry a: its sweep makes an entry 'a-b-c'", "entry a-b on line 9"]),
    # YAML itself
    "alias": ("seeds: [1, 2]", "seeds: &a [1, 2]\nsizes_: *a", 7, ["aliases such as *a"]),
    "anchor": ("seeds: [1, 2]", "seeds: &a [1, 2]", 6, ["anchors such as &a", "remove it"]),
    "python tag": ("vae: []", "vae: !!python/object/apply:os.abort []", 9, ["tags such as"]),
    "harmless tag": ("[1, 2]", "[!!int 1]", 6, ["tags such as tag:yaml.org,2002:int"]),
    "control character": ("name: ptb", 'name: ptb, path: "a\\nb"', 1, ["printable", "'a\\nb'"]),
    "bidi character": ("name: ptb", 'name: ptb, path: "a\u202eb"', 1, ["printable characters"]),
    "surrogate": ("name: ptb", 'name: ptb, path: "\\uD800"', 1, ["printable characters"]),
    "impossible character": ("name: ptb", 'name: ptb, path: "\\UFFFFFFFF"', 1, ["is not YAML"]),
    "tab": ("  vae:", "\tvae:", 9, ["is not YAML", "'\\t'"]),
    "unclosed": ("[1, 2]", "[1, 2", 7, ["is not YAML"]),
    "two documents": ("  vae: []\n", "---\na: 1\n", 10, ["one document; remove what follows"]),
    "deep": ("[1, 2]", "[" * 50 + "]" * 50, 6, ["more than 20 deep"]),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD.values(), ids=BAD.keys())
def test_a_bad_suite_is_told_with_line_rule_value_and_way_out(load, case):
    old, new, line, parts = case
    assert GOOD.count(old) == 1
    problems = problems_with(load, GOOD.replace(old, new))
    hits = [p for p in problems if p.startswith(f"{line}: ") and all(part in p for part in parts)]
    assert hits, problems
    assert all("\n" not in problem for problem in problems)


WHOLE = {
    "nothing": ("", 1, "a suite must be a mapping"),
    "only a comment": ("# later\n", 1, "not null"),
    "a text": ("ptb\n", 1, "not 'ptb'"),
    "a list": ("- 1\n", 1, "not [1]"),
    "an alias": ("*a\n", 1, "aliases such as *a"),
    "no entries": (GOOD.partition("entries")[0], 1, "entries is missing; give a mapping"),
    "entries a list": (GOOD.partition("  lang")[0] + "- vae\n", 7, "entries must be a mapping"),
    "empty entries": (GOOD.partition("\n  lang")[0] + " {}\n", 7, "'vae: []'"),
    "not utf-8": (GOOD.encode() + b"# \xff\n", 12, "UTF-8 text, not the byte 0xff"),
    "null byte": (b"a: \x00\n", 1, "is not YAML"),
    "too large": (GOOD + "#" * 300_000, 1, "256 KiB"),
    "100,000 brackets": ("a: " + "[" * 100_000, 1, "more than 20 deep"),
    "too many values": ("a: [" + "1," * 25_000 + "]", 1, "more than 10000 values"),
    "alias bomb": (
        "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in ["ab", "bc", "cd"]),
        2,
        "aliases such as *a",
    ),
    "long directive": (f"%YAML 1.{'1' * 5000}\n---\na: 1\n", 1, "is not YAML"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "line", "part"), WHOLE.values(), ids=WHOLE.keys())
def test_a_file_that_is_no_suite_is_told_quickly(load, text, line, part):
    began = time.perf_counter()
    problems = problems_with(load, text)
    assert any(p.startswith(f"{line}: ") and part in p for p in problems), problems
    assert time.perf_counter() - began < 5


def test_a_file_that_cannot_be_read_is_a_suite_error(tmp_path, remedies):
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(SuiteError, match=f"{path}: cannot be read"):
            load_suite(path, remedies)


def test_several_problems_are_told_at_once_in_the_order_of_their_lines(load):
    text = GOOD.replace("name: ptb", "name: pbt").replace("heads", "head").replace("0.5", "5")
    text = text.replace("seeds: [1, 2]", "seeds: [1, 1]").replace("vae: []", "VAE: [{nothing: {}}]")
    text = text.replace("hidden: 64", "hidden: 0, hidden: 1").replace("1e-3", "-1, clip: yes")
    problems = problems_with(load, text)
    lines = [int(problem.partition(":")[0]) for problem in problems]
    assert lines == sorted(lines) == [1, 3, 3, 4, 4, 6, 9, 9, 10]
    with pytest.raises(SuiteError) as caught:
        load(text)
    assert str(caught.value) == "\n".join(caught.value.problems)
    assert caught.value.exit_code == 2


def test_only_a_transformer_has_heads(load):
    suite = load(GOOD.replace(", transformer", "").replace("hidden: 64", "hidden: 63"))
    assert suite.sizes.hidden == 63


# Whatever is in the file, the user gets a suite or a list of problems.

PIECES = st.sampled_from(
    [
        *"[]{}:,-&*!|>'\"%@`#?\\~.<é \t\n\x00\u202e",
        *["{}", "[]", "<<", "*a", "&a ", "!!set ", "\n---\n", "\n...\n", "\n  ", ": ", "- ", "? "],
        *["null", "true", ".nan", "1e999", "-1", "0x1", "9" * 30, '"\\UFFFFFFFF"', '"\\uD800"'],
        *["word_dropout", "latent", "vae", "path", "|\n", "{sweep: [0, 1]}", "{sweep: ["],
    ]
)


@st.composite
def mutated(draw) -> str:
    text = GOOD + SWEPT
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 12)))
        text = text[:start] + draw(PIECES | st.text(max_size=5)) + text[end:]
    return text


@settings(
    max_examples=400,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(text=mutated() | st.binary(max_size=60))
def test_no_mutation_raises_anything_but_a_suite_error(load, text):
    if isinstance(text, str):
        text = text.encode("utf-8", "replace")
    with contextlib.suppress(SuiteError):
        assert cells_of(load(text))
