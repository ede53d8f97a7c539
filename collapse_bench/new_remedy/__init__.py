"""A remedy's file and its test, from a template of the lever that it uses."""

import re
from pathlib import Path

from collapse_bench.errors import UserError
from collapse_bench.model import SLOTS
from collapse_bench.model.contract import check_owner
from collapse_bench.plugins import class_name, misnamed, remedy_files

TEMPLATES = Path(__file__).parent / "templates"
"""A remedy that keeps every law and its test, by lever; both are called `my_remedy`."""


def write(name: str, lever: str, folder: Path) -> tuple[Path, Path]:
    """Write `NAME.py` and `test_NAME.py` into a folder, and return their paths.

    Args:
        name: of the remedy.
        lever: one of `plugins.LEVERS`.
        folder: where to.

    Raises:
        UserError: no remedy can be called so, another one is, or a file is there already.
    """
    if problem := misnamed(name):
        raise UserError(f"{name}: a remedy's name {problem}")
    check_owner(name, SLOTS)
    files = remedy_files()
    if name in files:
        raise UserError(f"{name}: there is a remedy of this name, {files[name]}; choose another")
    written = {
        folder / f"{stem.replace('my_remedy', name)}.py": TEMPLATES
        / f"{lever}_lever"
        / f"{stem}.py"
        for stem in ("my_remedy", "test_my_remedy")
    }
    for path in written:
        if path.exists():
            raise UserError(f"{path}: is there already, and nothing is overwritten; move it away")
    for path, template in written.items():
        with path.open("x", encoding="utf-8") as file:
            file.write(_named(template.read_text(encoding="utf-8"), name))
    remedy, test = written
    return remedy, test


def _named(text: str, name: str) -> str:
    """Return a template's text with the remedy's name in place of `my_remedy`."""
    words = {
        "my_remedy": name,
        "MyRemedy": class_name(name),
        "My remedy": name.replace("_", " ").capitalize(),
    }
    return re.sub("|".join(words), lambda found: words[found[0]], text)
