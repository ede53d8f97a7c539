"""Remedies are found where they are, and none is run by being found."""

from pathlib import Path

import pytest

from collapse_bench import plugins
from collapse_bench.errors import UserError
from collapse_bench.plugins import class_name, remedy_files, summary_of
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
    "value", ["others.free_bits:Other", "others.none:FreeBits", "none.free_bits:FreeBits"]
)
def test_a_wrong_entry_point_is_told_with_its_package(built_in, install, value):
    install("free_bits", value)
    with pytest.raises(UserError, match=f"FreeBits of a Python file, not at {value}.*uninstall"):
        remedy_files()


def test_two_remedies_of_one_name_are_told_with_both_files(built_in, install, tmp_path):
    path = tmp_path / "word_dropout.py"
    path.write_text("")
    with pytest.raises(UserError) as caught:
        remedy_files([path])
    assert str(built_in / "word_dropout.py") in str(caught.value)
    assert str(path) in str(caught.value)
    install("delta_vae", "others.free_bits:DeltaVae")
    with pytest.raises(UserError, match="two remedies are called delta_vae"):
        remedy_files()


@pytest.mark.parametrize("name", ["Mine.py", "my-remedy.py", "mine.txt", "_mine.py", "3.py"])
def test_a_misnamed_file_is_refused(built_in, tmp_path, name):
    (tmp_path / name).write_text("")
    with pytest.raises(UserError, match=f"{name}: a remedy's file is called after it"):
        remedy_files([tmp_path / name])


def test_a_missing_file_is_refused(built_in, tmp_path):
    with pytest.raises(UserError, match=r"none\.py: no such file; --plugin takes"):
        remedy_files([tmp_path / "none.py"])


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
