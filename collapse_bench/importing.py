"""A remedy's file as a module; what goes wrong there is told with file and line."""

import ast
import importlib.util
import io
import sys
import traceback
from collections.abc import Collection
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType

from collapse_bench.errors import UserError
from collapse_bench.settings import parsed


def import_file(name: str, path: Path) -> ModuleType:
    """The module of this name, run once from its file.

    Raises:
        UserError: it is not Python, ends in an error, or does anything else than define.
    """
    module = sys.modules.get(name)
    if module is not None and Path(module.__file__ or "") == path:
        return module
    parsed(path)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path}: not a Python file; a remedy is a .py file named after it")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    printed = _Printed(path)
    try:
        with redirect_stdout(printed):
            spec.loader.exec_module(module)
    except KeyboardInterrupt:
        del sys.modules[name]
        raise
    except BaseException as error:  # sys.exit, too
        del sys.modules[name]
        told = f"{type(error).__name__}: {error}".splitlines()[0]
        where = path if isinstance(error, OSError) else place(error, {str(path)}) or path
        raise UserError(f"{where}: cannot be imported: {told}") from error
    if printed.lines:
        del sys.modules[name]
        raise UserError(
            f"{path}:{printed.lines[0]}: prints when it is imported, which would end up in every"
            f" output; at its top a remedy's file has definitions only, so remove it"
        )
    return module


def place(error: BaseException, files: Collection[str]) -> str | None:
    """Where in these files an error came from, `file:line`, if it came from one."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename in files]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else None


def definition_of(path: Path, name: str) -> ast.ClassDef | None:
    """The class of this name in a file, which is not run."""
    for node in parsed(path).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return node
    return None


def unannotated(node: ast.ClassDef, known: Collection[str]) -> tuple[str, int] | None:
    """Name and line of the first value in a class that looks like a setting and is none.

    Args:
        node: the class.
        known: what is no setting, whether annotated or not; nor is what begins with `_`.
    """
    for each in node.body:
        if isinstance(each, ast.Assign):
            for target in each.targets:
                name = ast.unparse(target)
                if name not in known and not name.startswith("_"):
                    return name, each.lineno
    return None


class _Printed(io.StringIO):
    """Notes from which lines of a file something is written."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = str(path)
        self.lines: list[int | None] = []

    def write(self, text: str) -> int:
        """Note the line that is being run."""
        frames = [f for f in traceback.extract_stack() if f.filename == self.path]
        self.lines += [frame.lineno for frame in frames[-1:]]
        return len(text)
