"""Laws can be kept by remedies of every kind, and each of them can be broken.

`tests/remedies/` holds a remedy of each lever, one with a further part, one whose slots share a
weight, one with a readout of its own, and posteriors that are no normals.
"""

import re
from pathlib import Path

import pytest
from broken_remedies import BROKEN

from collapse_bench.cli import main
from collapse_bench.laws import LAWS, Subject, contract_of, sentence_of, subject, tried
from collapse_bench.laws.bench import ARCHITECTURES
from collapse_bench.laws.evaluation import its_bound_is_one
from collapse_bench.plugins import remedy_files
from collapse_bench.remedy import levers_of
from collapse_bench.truth.cheats import CHEATS, cheat_files

FILES = {path.stem: path for path in sorted((Path(__file__).parent / "remedies").glob("*.py"))}

LAW = {law.__name__: law for law in LAWS}


@pytest.mark.parametrize("law", LAWS, ids=sentence_of)
@pytest.mark.parametrize("name", FILES)
def test_a_remedy_of_any_kind_keeps_the_law(name, law):
    """In one of the architectures: the remedies of the package are held to the laws in both."""
    architecture = ARCHITECTURES[list(FILES).index(name) % 2]
    outcome = tried(law, subject(name, architecture, FILES[name]))
    if outcome.status == "not applicable":
        pytest.skip(outcome.seen)
    assert outcome.status == "ok", outcome.seen


def test_there_is_a_remedy_of_every_kind(corpus):
    made = {name: subject(name, "lstm", path).make() for name, path in FILES.items()}
    levers = {lever for built in made.values() for lever in levers_of(built.remedies)}
    assert levers == {"build", "objective", "step"}
    assert list(made["critic"].model.further) == ["critic"]
    shared = made["pseudo_features"].model
    assert shared.prior.head is shared.head
    assert made["own_readout"].model.owners == {"readout": "own_readout"}
    families = {
        name: str(built.evaluate(corpus.valid, samples=0)["family"]) for name, built in made.items()
    }
    assert {"normal", "sphere", "codes"} == set(families.values())


@pytest.mark.parametrize(("law", "source", "told"), BROKEN, ids=[law for law, *_ in BROKEN])
def test_a_broken_law_is_told_with_what_was_seen(law, source, told, tmp_path):
    path = tmp_path / "broken.py"
    path.write_text(source, encoding="utf-8")
    outcome = tried(LAW[law], Subject("broken", "lstm", {"broken": path}))
    assert outcome.status == "BROKEN"
    for part in told.split(" ... "):
        assert part in outcome.seen


def test_every_law_is_broken_by_some_remedy():
    assert {law for law, _, _ in BROKEN} == LAW.keys()


@pytest.mark.parametrize("name", CHEATS)
def test_a_cheat_has_no_bound(name, architecture):
    outcome = tried(its_bound_is_one, subject(name, architecture, cheat_files()[name]))
    assert outcome.status == "BROKEN"
    assert f"its bound is {CHEATS[name][1]}: " in outcome.seen


def test_every_law_says_what_the_contract_says():
    for law in LAWS:
        assert len(contract_of(law)) > 60
        assert contract_of(law).endswith(".")
    assert len({sentence_of(law) for law in LAWS}) == len(LAWS)


def test_check_tells_of_every_law(capsys):
    assert main(["check", str(remedy_files()["beta_vae"])]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(LAWS) + 1
    assert "ok             its bound is one" in lines
    assert any(line.startswith("not applicable a call for some slots") for line in lines)
    assert lines[-1].endswith(f"keeps all {len(LAWS) - 3} of {len(LAWS)} laws, 3 do not apply")


def test_check_tells_what_is_broken_and_what_the_contract_says(tmp_path, capsys):
    path = tmp_path / "broken.py"
    path.write_text(next(source for law, source, _ in BROKEN if law == "it_builds"))
    assert main(["check", str(path)]) == 2
    out = capsys.readouterr().out
    assert "BROKEN         it builds\n" in out
    assert "seen: broken: build returned a part called 'headd'; legal: encoder" in out
    assert "contract: With its defaults, or with `small`" in out
    assert "not looked at, since it is broken that it builds" in out
    assert "breaks 1 of" in out


HEAD = """from dataclasses import dataclass
from typing import ClassVar
from collapse_bench.remedy import Remedy

@dataclass(frozen=True)
class Broken(Remedy):
"""

MISTAKES = {
    "class Broken(:\n": r"broken\.py:1: is not Python: invalid syntax",
    "import nothing_of_this_name\n": r"broken\.py:1: cannot be imported: ModuleNotFoundError",
    "import sys\n\nsys.exit(3)\n": r"broken\.py:3: cannot be imported: SystemExit: 3",
    "\nprint('hello')\n": r"broken\.py:2: prints when it is imported",
    "1 / 0\n": r"broken\.py:1: cannot be imported: ZeroDivisionError",
    "class Other:\n    pass\n": r"broken\.py: .*; expected class Broken",
    "class Broken:\n    pass\n": r"broken\.py:1: Broken must be a subclass of collapse_bench",
    "from collapse_bench.remedies.objective.beta_vae import BetaVae\n\n\nclass Broken(BetaVae):\n"
    "    pass\n": r"broken\.py:4: Broken must be a subclass of Remedy alone, not of BetaVae",
    "from collapse_bench.remedy import Remedy\n\n\nclass Broken(Remedy):\n    rate: float = 1.0\n":
        r"broken\.py:4: Broken must be a frozen dataclass",
    "from dataclasses import dataclass\nfrom collapse_bench.remedy import Remedy\n\n\n"
    "@dataclass(frozen=True)\nclass Broken(Remedy):\n    rate = 0.5\n":
        r"broken\.py:7: rate has no annotation",
    "from dataclasses import dataclass\nfrom collapse_bench.remedy import Remedy\n\n\n"
    "@dataclass(frozen=False)\nclass Broken(Remedy):\n    rate: float = 0.5\n":
        r"broken\.py:5: cannot be imported: TypeError: cannot inherit non-frozen",
    "": r"broken\.py: .*; expected class Broken",
    f"{HEAD}    def objective(self, forward, extra):\n        return forward\n":
        r"broken\.py:7: objective must be a method objective\(self, forward\), .*'extra'",
    f"{HEAD}    def step(self, run):\n        return run\n":
        r"broken\.py:7: step must be a method step\(self, step, run\), .*too many",
    f"{HEAD}    def build(model):\n        return {{}}\n":
        r"broken\.py:7: build must be a method build\(self, model\), .*too many",
    f"{HEAD}    objective: ClassVar = None\n":
        r"broken\.py:6: objective must be a method objective\(self, forward\), .*not a callable",
    f"{HEAD}    rate: float = 1.0\n\n\n@dataclass(frozen=True)\nclass Other(Remedy):\n    pass\n":
        r"broken\.py:11: a file holds one remedy, here Broken: move Other into a file of its own",
    "from collapse_bench.remedy import Remedy\n\n\nclass One(Remedy):\n    pass\n":
        r"broken\.py: .*; expected class Broken",
}  # fmt: skip


@pytest.mark.parametrize(("source", "told"), MISTAKES.items(), ids=range(len(MISTAKES)))
def test_a_broken_file_is_told_in_one_line(source, told, tmp_path, capsys):
    path = tmp_path / "broken.py"
    path.write_text(source, encoding="utf-8")
    assert main(["check", str(path)]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert len(error.splitlines()) == 1
    assert re.search(told, error)


def test_a_file_that_is_not_there_is_told(tmp_path, capsys):
    assert main(["check", str(tmp_path / "none.py")]) == 2
    assert "none.py: no such file" in capsys.readouterr().err
