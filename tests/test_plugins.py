"""Remedies are found where they are, and none is run by being found."""

from pathlib import Path

import pytest

from collapse_bench import plugins
from collapse_bench.plugins import class_name, remedy_files, summary_of, why_not
from collapse_bench.settings import schema_of_file

ALARM = "raise SystemExit('it was run')\n"


@pytest.fixture
def built_in(tmp_path, monkeypatch) -> Path:
    """A folder of built-in remedies in place of the real one."""
    folder = tmp_path / "remedies"
    folder.mkdir()
    for name in ("word_dropout", "delta_vae", "__init__", "_shared"):
        (folder / f"{name}.py").write_text(ALARM)
    monkeypatch.setattr(plugins, "BUILT_IN", folder)
    return folder


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a package `others` that offers a remedy at an entry point."""

    def install(name: str, value: str) -> Path:
        site = tmp_path / "site"
        (site / "others" / "deep").mkdir(parents=True)
        (site / "others" / "__init__.py").write_text(ALARM)
        (site / "others" / "free_bits.py").write_text(ALARM)
        (site / "others" / "deep" / "__init__.py").write_text(ALARM)
        (site / "single.py").write_text(ALARM)
        info = site / "others-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{plugins.ENTRY_POINTS}]\n{name} = {value}\n")
        monkeypatch.syspath_prepend(str(site))
        return site

    return install


def test_built_in_remedies_are_called_after_their_files(built_in):
    assert remedy_files() == {
        "delta_vae": built_in / "delta_vae.py",
        "word_dropout": built_in / "word_dropout.py",
    }


def test_the_real_built_in_remedies_have_a_summary_and_a_schema():
    for name, path in remedy_files().items():
        assert summary_of(path)
        schema = schema_of_file(path, class_name(name))
        assert not any(setting.required for setting in schema.values())


def test_a_given_file_is_called_after_itself(built_in, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(ALARM)
    assert remedy_files([path])["mine"] == path
    assert remedy_files([path, path])["mine"] == path


@pytest.mark.parametrize(
    ("value", "file"),
    [
        ("others.free_bits:FreeBits", "others/free_bits.py"),
        ("others.deep:FreeBits", "others/deep/__init__.py"),
        ("others:FreeBits", "others/__init__.py"),
        ("single:FreeBits", "single.py"),
    ],
)
def test_an_installed_remedy_is_found_without_running_it(built_in, install, value, file):
    site = install("free_bits", value)
    assert remedy_files()["free_bits"] == site / file


@pytest.mark.parametrize(
    "value",
    [
        "others.free_bits:Other",
        "others.none:FreeBits",
        "none.free_bits:FreeBits",
        "others.free_bits",
        ":FreeBits",
        "not a module",
        "",
    ],
)
def test_a_wrong_entry_point_is_told_with_its_package_and_stops_no_other(built_in, install, value):
    install("free_bits", value)
    files = remedy_files()
    assert files.keys() == {"delta_vae", "word_dropout"}
    told = files.left_out["free_bits"]
    assert f"free_bits must point at the class FreeBits of a Python file, not at {value}; " in told
    assert told.endswith("mend or uninstall others")


def test_an_installed_remedy_of_an_illegal_name_is_told_with_its_package(built_in, install):
    install("free-bits", "others.free_bits:FreeBits")
    told = remedy_files().left_out["free-bits"]
    assert told == (
        "the installed remedy free-bits: a remedy's name must have no hyphen, which Python allows"
        " in no name; write free_bits, or mend or uninstall others"
    )


def test_a_name_that_two_files_claim_is_neither_s(built_in, install, tmp_path):
    install("free_bits", "others.free_bits:FreeBits")
    for name, other in {
        "word_dropout": built_in / "word_dropout.py",
        "free_bits": tmp_path / "site" / "others" / "free_bits.py",
        "mine": tmp_path / "mine.py",
    }.items():
        path = tmp_path / "own" / f"{name}.py"
        for each in (path, tmp_path / "mine.py"):
            each.parent.mkdir(exist_ok=True)
            each.write_text("")
        files = remedy_files([tmp_path / "mine.py", path])
        assert name not in files
        assert files.left_out == {
            name: f"two remedies are called {name}: {other} and {path}; rename one"
        }
        assert why_not(name, files) == files.left_out[name]
        assert len(files) == 3


def test_a_built_in_remedy_keeps_its_name_beside_any_package(built_in, install):
    site = install("delta_vae", "others.free_bits:DeltaVae")
    files = remedy_files()
    assert files["delta_vae"] == built_in / "delta_vae.py"
    assert files.left_out == {
        "delta_vae": f"two remedies are called delta_vae: {built_in / 'delta_vae.py'} and"
        f" {site / 'others' / 'free_bits.py'}; the built-in one is used"
    }


@pytest.mark.parametrize(
    ("name", "told"),
    {
        "Mine.py": "small letters, digits and underscores",
        "my-remedy.py": "no hyphen, which Python allows in no name; write my_remedy",
        "_mine.py": "a letter first",
        "3.py": "a letter first",
        "mine.or.not.py": "small letters",
        "lambda.py": "not be a word of Python itself",
        "kind.py": "not be that of a kind of remedies",
    }.items(),
)
def test_a_misnamed_file_is_told_and_stops_no_other(built_in, tmp_path, name, told):
    (built_in / "kind").mkdir()
    path, other = tmp_path / name, tmp_path / "mine.py"
    path.write_text("")
    other.write_text("")
    files = remedy_files([path, other])
    assert files.keys() == {"delta_vae", "word_dropout", "mine"}
    problem = files.left_out[path.stem]
    assert problem.startswith(f"{path}: a remedy's file is called after it, and a remedy's name ")
    assert told in problem


def test_what_is_no_python_file_is_told(built_in, tmp_path):
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "mine.txt").write_text("")
    for name, told in {
        "none.py": "no such file; --plugin takes a Python file",
        "folder.py": "is a folder; --plugin takes a Python file",
        "mine.txt": "a remedy's file is Python and ends in .py",
    }.items():
        path = tmp_path / name
        assert remedy_files([path]).left_out[path.stem].startswith(f"{path}: {told}")


def test_a_file_that_cannot_be_used_is_nobody_else_either(built_in, tmp_path):
    """Whoever gives a file of this name means it, and not the built-in remedy."""
    files = remedy_files([tmp_path / "word_dropout.py"])
    assert "word_dropout" not in files
    assert "no such file" in why_not("word_dropout", files)


def test_an_unknown_name_is_told_with_what_was_left_out(built_in, tmp_path):
    files = remedy_files([tmp_path / "mien.py"])
    told = why_not("mine", files)
    assert told == (
        "unknown remedy 'mine'; legal: delta_vae, word_dropout; left out:"
        f" {files.left_out['mien']}; `list remedies` names all, and --plugin FILE adds one of your"
        " own"
    )


@pytest.mark.parametrize(
    ("remedy", "name"),
    [("word_dropout", "WordDropout"), ("delta_vae", "DeltaVae"), ("vq2_vae", "Vq2Vae")],
)
def test_class_names(remedy, name):
    assert class_name(remedy) == name


@pytest.mark.parametrize(
    ("text", "summary"),
    [(f'"""First.\n\nSecond."""\n{ALARM}', "First."), (ALARM, ""), ("", "")],
)
def test_the_summary_is_the_first_line_of_the_docstring(tmp_path, text, summary):
    path = tmp_path / "mine.py"
    path.write_text(text)
    assert summary_of(path) == summary
