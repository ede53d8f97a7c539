"""Which remedies exist: built in, installed by other packages, or given as files by the user.

Nothing here imports a remedy: finding one, and saying what it is, must not run its code.
"""

import ast
import hashlib
import importlib.metadata
import importlib.util
import keyword
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path

from collapse_bench.errors import UserError
from collapse_bench.settings import parsed, unknown

ENTRY_POINTS = "collapse_bench.remedies"
BUILT_IN = Path(__file__).parent / "remedies"
LEVERS = ("build", "objective", "step")
"""What a remedy may override."""

KINDS = ("objective", "encoder", "posterior", "prior", "codes", "decoder", "training")
"""The folders of built-in remedies, by what a remedy changes, in the order of pages."""


class RemedyFiles(dict[str, Path]):
    """The file of each remedy by its name.

    Attributes:
        left_out: What is wrong with each remedy that cannot be used, by its name. It stops nobody
            who does not name it.
    """

    def __init__(self, files: Mapping[str, Path]) -> None:
        super().__init__(files)
        self.left_out: dict[str, str] = {}

    def leave_out(self, name: str, why: str) -> None:
        """Make a name mean nothing, whatever it meant."""
        self.pop(name, None)
        self.left_out[name] = why


def remedy_files(extra: Sequence[Path] = ()) -> RemedyFiles:
    """Return the file of each remedy, by the remedy's name.

    Files that are missing or misnamed are left out, and so are two that claim one name: whoever
    names it would get one of them by chance. Only against packages a built-in remedy keeps its
    name, since suites that come along shall mean the same beside any package.

    Args:
        extra: Files of the user's own; each is called after its file.
    """
    files = RemedyFiles(built_in())
    own, taken = frozenset(files), dict(files)

    def claim(name: str, path: Path) -> None:
        if taken.setdefault(name, path) == path:
            files[name] = path
        else:
            files.leave_out(name, f"{_twice(name, taken[name], path)}; rename one")

    for entry_point in sorted(importlib.metadata.entry_points(group=ENTRY_POINTS)):
        name = entry_point.name
        try:
            path = _installed(entry_point)
        except UserError as problem:
            files.left_out[name] = str(problem)
            continue
        if name in own:
            files.left_out[name] = f"{_twice(name, files[name], path)}; the built-in one is used"
        else:
            claim(name, path)
    for path in dict.fromkeys(path.resolve() for path in extra):
        try:
            _check_given(path)
        except UserError as problem:
            files.leave_out(path.stem, str(problem))
        else:
            claim(path.stem, path)
    return files


def built_in() -> dict[str, Path]:
    """Return the file of each remedy that is part of this package, by its name."""
    paths = sorted(BUILT_IN.rglob("[!_]*.py"), key=lambda path: path.stem)
    return {path.stem: path for path in paths}


def why_not(name: str, files: Mapping[str, Path]) -> str:
    """Return why no remedy of this name can be used: it is left out, or not known."""
    left_out = files.left_out if isinstance(files, RemedyFiles) else {}
    if name in left_out:
        return left_out[name]
    also = "".join(f"; left out: {why}" for why in left_out.values())
    return (
        f"{unknown('remedy', name, files)}{also}; `list remedies` names all, and --plugin FILE adds"
        f" one of your own"
    )


def misnamed(name: str) -> str | None:
    """Return what is wrong with a remedy's name, or None if a remedy may be called so.

    It is a file, a module and, in another form, a class.
    """
    if "-" in name:
        return (
            f"must have no hyphen, which Python allows in no name; write {name.replace('-', '_')}"
        )
    if not re.fullmatch("[a-z][a-z0-9_]*", name):
        return "must be small letters, digits and underscores, a letter first, as word_dropout is"
    if keyword.iskeyword(name):
        return "must not be a word of Python itself; choose another one"
    if (BUILT_IN / name).is_dir():
        return "must not be that of a kind of remedies; choose another one"
    return None


def class_name(remedy: str) -> str:
    """Return the class that the file of a remedy holds: WordDropout for word_dropout."""
    return "".join(word.capitalize() for word in remedy.split("_"))


def fingerprint(path: Path) -> str | None:
    """Return the SHA-256 of a remedy's file, or None if it is part of this package."""
    if path.is_relative_to(BUILT_IN):
        return None
    return hashlib.sha256(path.read_bytes()).hexdigest()


def not_for(remedy: str, architectures: Sequence[str], architecture: str) -> str | None:
    """Return what is wrong with a remedy in an architecture, or None if it is for that one."""
    if architecture in architectures:
        return None
    listed = ", ".join(architectures)
    return (
        f"{remedy}: the architecture must be {listed}, not {architecture}; leave it out, or give it"
        f" a suite with architectures: [{listed}]"
    )


def summary_of(path: Path) -> str:
    """Return the first line of a file's docstring, or nothing where it has none.

    Raises:
        UserError: The file cannot be read or is not Python.
    """
    return (ast.get_docstring(parsed(path)) or "").partition("\n")[0]


def _twice(name: str, one: Path, other: Path) -> str:
    return f"two remedies are called {name}: {one} and {other}"


def _installed(entry_point: EntryPoint) -> Path:
    """Return the file of a remedy that another package offers.

    Raises:
        UserError: There is none, or it is not named as a remedy is.
    """
    name, package = entry_point.name, entry_point.dist.name if entry_point.dist else "its package"
    way_out = f"mend or uninstall {package}"
    if problem := misnamed(name):
        raise UserError(f"the installed remedy {name}: a remedy's name {problem}, or {way_out}")
    module, _, attribute = entry_point.value.partition(":")
    path = _source_of(module.strip())
    if path is None or attribute.strip() != class_name(name):
        raise UserError(
            f"the installed remedy {name} must point at the class {class_name(name)} of a Python"
            f" file, not at {entry_point.value}; {way_out}"
        )
    return path


def _check_given(path: Path) -> None:
    """Hold the path of a user's file against how a remedy's file is called.

    Raises:
        UserError: There is no such file, or it cannot be a remedy's.
    """
    if path.is_dir():
        raise UserError(f"{path}: is a folder; --plugin takes a Python file with one remedy")
    if not path.is_file():
        raise UserError(f"{path}: no such file; --plugin takes a Python file with one remedy")
    if path.suffix != ".py":
        raise UserError(f"{path}: a remedy's file is Python and ends in .py")
    if problem := misnamed(path.stem):
        raise UserError(
            f"{path}: a remedy's file is called after it, and a remedy's name {problem}"
        )


def _source_of(module: str) -> Path | None:
    """Return the file of a module that is installed."""
    # Only the top package is asked for: find_spec runs every package above the one that it finds.
    top, *inner = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except ValueError:  # no name, or one that has no file, such as __main__
        spec = None
    if spec is None:
        return None
    if not inner:
        candidates = [Path(spec.origin or "")]
    else:
        folders = spec.submodule_search_locations or []
        candidates = [Path(folder, *inner).with_suffix(".py") for folder in folders]
        candidates += [Path(folder, *inner, "__init__.py") for folder in folders]
    return next((path.resolve() for path in candidates if path.is_file()), None)
