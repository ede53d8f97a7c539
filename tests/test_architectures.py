"""A remedy may be for one architecture alone: who is told, where, and what the laws say."""

from typing import get_args

import pytest

from collapse_bench.cli import main
from collapse_bench.errors import SuiteError, UserError
from collapse_bench.laws import LAWS, Subject, check_file, make, tried
from collapse_bench.plugins import remedy_files
from collapse_bench.remedy import find_class
from collapse_bench.suite import Architecture, load_suite

NAME = "latent_memory"

SUITE = """architectures: [lstm, transformer]
training: {budget: 9}
entries:
  vae: []
  memory: [latent_memory]
  swept: [{latent_memory: {embedding: {sweep: [true, false]}}}]
"""

ONE = """\"\"\"A remedy of a few words (new).\"\"\"

from dataclasses import dataclass
from typing import ClassVar

from collapse_bench.remedy import Remedy


@dataclass(frozen=True)
class Mine(Remedy):
    architectures: ClassVar[tuple[str, ...]] = NAMED

    def objective(self, forward):
        return forward
"""


def loaded(text, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return load_suite(path, remedy_files())


def test_every_remedy_is_for_an_architecture_that_there_is():
    for name, path in remedy_files().items():
        named = find_class(name, path).architectures
        assert named
        assert set(named) <= set(get_args(Architecture))
    assert find_class(NAME, remedy_files()[NAME]).architectures == ("transformer",)


def test_a_model_of_another_architecture_is_refused():
    make("transformer", [NAME])
    with pytest.raises(UserError, match=r"^latent_memory: the architecture must be transformer"):
        make("lstm", [NAME])


def test_a_suite_says_so_when_it_is_read_once_an_entry_and_with_its_line(tmp_path):
    with pytest.raises(SuiteError) as error:
        loaded(SUITE, tmp_path)
    told = str(error.value).splitlines()
    assert [line.partition(": latent")[0] for line in told] == [
        f"{tmp_path}/mine.yaml:5: entry memory",
        f"{tmp_path}/mine.yaml:6: entry swept",
    ]
    assert all("must be transformer, not lstm; leave it out" in line for line in told)
    suite = loaded(SUITE.replace("[lstm, transformer]", "[transformer]"), tmp_path)
    assert [entry.name for entry in suite.entries] == ["vae", "memory", "swept-true", "swept-false"]


def test_laws_do_not_apply_in_another_architecture():
    files = remedy_files()
    for law in LAWS:
        outcome = tried(law, Subject(NAME, "lstm", files))
        assert outcome.status == "not applicable"
        assert outcome.seen == "latent_memory: the architecture must be transformer, not lstm"


def test_a_file_is_checked_in_the_architectures_that_it_is_for(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(ONE.replace("NAMED", '("transformer",)'), encoding="utf-8")
    found = {each.law: each for each in check_file(path)}
    assert found["it builds"].status == "ok"
    # Said of all architectures that it is for, so without naming one.
    broken = found["other settings are not the plain vae"]
    assert len(broken.seen) == 1
    assert broken.seen[0].startswith("after 6 steps it is the plain VAE to the bit; if that is")


@pytest.mark.parametrize("named", ['("rnn",)', "()", '["lstm"]', '"lstm"'])
def test_an_architecture_that_there_is_not_is_told(named, tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text(ONE.replace("NAMED", named), encoding="utf-8")
    assert main(["check", str(path)]) == 2
    told = capsys.readouterr().err
    assert "mine.py:10: Mine: architectures must be a tuple of lstm, transformer" in told
