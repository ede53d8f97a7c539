"""A remedy that cannot be used is told in one line, and stops nobody who does not name it."""

import pytest

from collapse_bench.cli import main

FINE = '''"""Fine (new)."""

from dataclasses import dataclass, replace

from collapse_bench.remedy import Remedy


@dataclass(frozen=True)
class Fine(Remedy):
    """The rate weighs half."""

    def objective(self, forward):
        return replace(forward, kl=0.5 * forward.kl)
'''

SUITE = """architectures: [lstm, transformer]
corpus: {name: newswire, sentences: 100}
sizes: {embedding: 6, hidden: 6, latent: 4, layers: 1, heads: 1}
training: {budget: 500}
entries:
  mine: [fine]
"""

HEAD = FINE.partition("    def")[0].replace("Fine", "Broken").replace("fine", "broken")

BROKEN = {
    "syntax": (b"class Broken(:\n", "broken.py:1: is not Python"),
    "latin-1": (b'"""Caf\xe9 (new)."""\n', "broken.py:1: is not Python: (unicode error)"),
    "utf-16": ('"""Broken (new)."""\n'.encode("utf-16"), "broken.py:1: is not Python"),
    "empty": (b"", "broken.py: must hold the class Broken; classes there: none"),
    "another class": (FINE.encode(), "broken.py: must hold the class Broken; classes there: Fine"),
    "default": (f"{HEAD}    rate: float = 1 / 3\n".encode(), "broken.py:12: the default of rate"),
    "no annotation": (f"{HEAD}    rate = 0.5\n".encode(), "broken.py:12: rate has no annotation"),
    "annotation": (f"{HEAD}    rate: dict = None\n".encode(), "broken.py:12: the annotation of"),
    "metric": (f"{HEAD}    by_construction = 'kl'\n".encode(), "must be names of metrics"),
    "neutral": (f"{HEAD}    neutral = ('rate',)\n".encode(), "neutral must be a mapping by name"),
}
"""What can be told without running a file."""

RUN = {
    "import": ("import nothing_of_this_name\n", "broken.py:1: cannot be imported: ModuleNot"),
    "exit": ("import sys\nsys.exit(3)\n", "broken.py:2: cannot be imported: SystemExit: 3"),
    "print": ("print('hello')\n", "broken.py:1: prints when it is imported"),
    "signature": (
        f"{HEAD}    def objective(self, forward, extra):\n        return forward\n",
        "broken.py:12: objective must be a method objective(self, forward)",
    ),
}
"""What only running it tells."""


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """A verb in a folder with a fine remedy, a suite that uses it, and a broken remedy."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, content: bytes = b"", entry: str = ""):
        (tmp_path / "fine.py").write_text(FINE)
        (tmp_path / "broken.py").write_bytes(content)
        (tmp_path / "mine.yaml").write_text(SUITE + entry)
        code = main([*arguments, "--plugin", "fine.py", "--plugin", "broken.py"])
        out, err = capsys.readouterr()
        return code, out, [line for line in err.splitlines() if ": warning: " not in line]

    return run


@pytest.mark.parametrize(("content", "told"), BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_told_and_the_others_are_listed(run, content, told):
    code, out, [problem] = run("list", "remedies", content=content)
    assert code == 2
    assert "\nfine " in out
    assert "\nfree_bits " in out
    assert problem.startswith("left out: ")
    assert told in problem


@pytest.mark.parametrize("content", [BROKEN["syntax"][0], RUN["exit"][0].encode()])
def test_a_broken_file_stops_no_suite_that_does_not_name_it(run, content):
    code, out, err = run("check", "mine.yaml", content=content)
    assert (code, err) == (0, [])
    assert "mine.yaml: fine, 2 cells" in out


@pytest.mark.parametrize(("content", "told"), BROKEN.values(), ids=BROKEN)
def test_a_suite_that_names_a_broken_file_is_told_with_its_own_line_too(run, content, told):
    code, _, [problem] = run("check", "mine.yaml", content=content, entry="  other: [broken]\n")
    assert code == 2
    assert problem.startswith("error: mine.yaml:7: entry other: ")
    assert told in problem


@pytest.mark.parametrize(("content", "told"), RUN.values(), ids=RUN)
def test_a_file_that_breaks_when_it_is_run_is_told_once_for_all_entries(run, content, told):
    if "class" not in content:
        content += HEAD
    entry = "  one: [broken]\n  two: [fine, broken]\n"
    code, _, [problem] = run("check", "mine.yaml", content=content.encode(), entry=entry)
    assert code == 2
    names = "one/lstm, one/transformer, two/lstm, two/transformer"
    assert problem.startswith(f"error: mine.yaml: {names}: ")
    assert told in problem


def test_what_is_left_out_is_told_once(tmp_path, run):
    code, _, err = run("check", "mine.yaml", "--plugin", "my-remedy.py")
    assert (code, len(err)) == (0, 1)
    assert err[0].startswith(f"left out: {tmp_path / 'my-remedy.py'}: no such file")
    (tmp_path / "my-remedy.py").write_text(FINE)
    entry = "  other: [my_remedy]\n  third: [my-remedy]\n"
    code, _, [unknown, known] = run("check", "mine.yaml", "--plugin", "my-remedy.py", entry=entry)
    assert code == 2
    assert "7: entry other: unknown remedy 'my_remedy'" in unknown
    assert "8: entry third: " in known
    for problem in (unknown, known):
        assert "no hyphen, which Python allows in no name; write my_remedy" in problem


def test_a_remedy_that_is_left_out_can_neither_be_shown_nor_checked(tmp_path, run):
    (tmp_path / "free_bits.py").write_text(FINE)
    for arguments in (["list", "remedies", "free_bits", "--plugin"], ["check"]):
        code, _, [problem] = run(*arguments, "free_bits.py")
        assert code == 2
        assert problem.startswith("error: two remedies are called free_bits: ")
    code, _, [problem] = run("list", "remedies", "nonesuch")
    assert code == 2
    assert problem.startswith("error: unknown remedy 'nonesuch'")
