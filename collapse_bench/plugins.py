"""Which remedies exist: built in, installed by other packages, or given as files by the user.

Nothing here imports a remedy: finding one, and saying what it is, must not run its code.
"""

import ast
import hashlib
import importlib.metadata
import importlib.util
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from collapse_bench.errors import UserError
from collapse_bench.settings import parsed

ENTRY_POINTS = "collapse_bench.remedies"
BUILT_IN = Path(__file__).parent / "remedies"


def remedy_files(extra: Sequence[Path] = ()) -> dict[str, Path]:
    """Return the file of each remedy, by the remedy's name.

    Args:
        extra: Files of the user's own; each is called after its file.

    Raises:
        UserError: A file is missing or misnamed, or two remedies have the same name.
    """
    found: dict[str, Path] = {}
    for name, path in [*_built_in(), *_installed(), *map(_given, extra)]:
        if found.setdefault(name, path) != path:
            raise UserError(f"two remedies are called {name}: {found[name]} and {path}; rename one")
    return found


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


def _built_in() -> Iterator[tuple[str, Path]]:
    for path in sorted(BUILT_IN.rglob("[!_]*.py"), key=lambda path: path.stem):
        yield path.stem, path


def _installed() -> Iterator[tuple[str, Path]]:
    for entry_point in sorted(importlib.metadata.entry_points(group=ENTRY_POINTS)):
        path = _source_of(entry_point.module)
        if path is None or entry_point.attr != class_name(entry_point.name):
            raise UserError(
                f"the installed remedy {entry_point.name} must point at the class "
                f"{class_name(entry_point.name)} of a Python file, not at {entry_point.value}; "
                f"mend or uninstall {entry_point.dist.name if entry_point.dist else 'its package'}"
            )
        yield entry_point.name, path


def _given(path: Path) -> tuple[str, Path]:
    path = path.resolve()
    if not path.is_file():
        raise UserError(f"{path}: no such file; --plugin takes a Python file with one remedy")
    if path.suffix != ".py" or not re.fullmatch("[a-z][a-z0-9_]*", path.stem):
        raise UserError(f"{path}: a remedy's file is called after it, such as word_dropout.py")
    return path.stem, path


def _source_of(module: str) -> Path | None:
    """Return the file of a module that is installed."""
    # Only the top package is asked for: find_spec runs every package above the one that it finds.
    top, *inner = module.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None:
        return None
    if not inner:
        candidates = [Path(spec.origin or "")]
    else:
        folders = spec.submodule_search_locations or []
        candidates = [Path(folder, *inner).with_suffix(".py") for folder in folders]
        candidates += [Path(folder, *inner, "__init__.py") for folder in folders]
    return next((path for path in candidates if path.is_file()), None)
