"""What `new-remedy` writes runs as it is, keeps every law, and replaces nothing."""

import runpy

import pytest

from collapse_bench.cli import main
from collapse_bench.description import describe
from collapse_bench.new_remedy import TEMPLATES
from collapse_bench.plugins import LEVERS


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("lever", LEVERS)
def test_what_is_written_keeps_every_law_and_its_own_test(here, capsys, lever):
    assert main(["new-remedy", "half_life_2", "--lever", lever]) == 0
    assert sorted(path.name for path in here.iterdir()) == ["half_life_2.py", "test_half_life_2.py"]
    assert "python -m collapse_bench check half_life_2.py\n" in capsys.readouterr().out
    written = describe("half_life_2", here / "half_life_2.py")
    assert written.levers == (lever,)
    assert written.source == "Half life 2 (new)."
    tests = runpy.run_path(str(here / "test_half_life_2.py"))
    names = [name for name in tests if name.startswith("test_")]
    assert names[0] == "test_it_keeps_every_law"
    assert len(names) == 2
    for name in names:
        tests[name]()


def test_there_is_a_template_for_every_lever_and_its_name_is_nowhere_left(here):
    folders = {path.name for path in TEMPLATES.iterdir() if not path.name.startswith("_")}
    assert folders == {f"{lever}_lever" for lever in LEVERS}
    for lever in LEVERS:
        main(["new-remedy", f"mine_{lever}", "--lever", lever])
    for path in here.iterdir():
        text = path.read_text()
        assert not any(word in text for word in ("my_remedy", "MyRemedy", "My remedy"))
        assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize("there", ["mine.py", "test_mine.py"])
def test_nothing_is_overwritten(here, capsys, there):
    (here / there).write_text("of the user")
    assert main(["new-remedy", "mine", "--lever", "build"]) == 2
    assert capsys.readouterr().err == (
        f"error: {there}: is there already, and nothing is overwritten; move it away\n"
    )
    assert [(path.name, path.read_text()) for path in here.iterdir()] == [(there, "of the user")]


@pytest.mark.parametrize(
    ("name", "told"),
    {
        "my-remedy": "a remedy's name must have no hyphen, which Python allows in no name; write"
        " my_remedy",
        "Mine": "a remedy's name must be small letters",
        "../mine": "a remedy's name must be small letters",
        "lambda": "a remedy's name must not be a word of Python itself",
        "training": "a remedy's name must not be that of a kind of remedies",
        "free_bits": "there is a remedy of this name, ",
        "readout": "a remedy cannot be called so, since a part is kept under its name",
        "keys": "a remedy cannot be called so",
    }.items(),
)
def test_a_name_that_no_remedy_can_have_is_told(here, capsys, name, told):
    assert main(["new-remedy", name, "--lever", "step"]) == 2
    assert capsys.readouterr().err.startswith(f"error: {name}: {told}")
    assert not list(here.iterdir())
