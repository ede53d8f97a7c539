"""Settings are the fields of a dataclass; their annotations are the rules that values must obey.

The same rules are read in two ways: from a class (`schema_of`), or from the text of a file
that is never imported (`schema_of_file`), so that a suite is checked before torch is loaded.
"""

import ast
import dataclasses
import types
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from collapse_bench.errors import UserError
from collapse_bench.rules import Above, AtLeast, Between, cut, rule_of, shown, unknown, way_out

__all__ = [
    "Above",
    "AtLeast",
    "Between",
    "Schema",
    "Setting",
    "check",
    "class_variable_of_file",
    "cut",
    "parsed",
    "problems_of",
    "resolve",
    "rule_of",
    "schema_of",
    "schema_of_file",
    "shown",
    "unknown",
]


@dataclass(frozen=True)
class Setting:
    """One setting: its name, the annotation that is its rule, and its default if it has one."""

    name: str
    annotation: object
    default: object
    required: bool


Schema = dict[str, Setting]


# Reading a schema: from a class, or from the text of a file.


def schema_of(cls: type) -> Schema:
    """Return the settings of a dataclass, in the order of its fields."""
    hints = get_type_hints(cls, include_extras=True)
    return {
        field.name: _setting(field.name, hints[field.name], _default_of(field))
        for field in dataclasses.fields(cls)
    }


def schema_of_file(path: Path, class_name: str) -> Schema:
    """Return the settings of a dataclass in a Python file, without importing the file.

    Raises:
        UserError: The file cannot be read, lacks the class, or has an annotation or a default
            that can only be known by running it.
    """
    return {
        node.target.id: _setting_of_node(node, path)
        for node in _class_in(path, class_name).body
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and not ast.unparse(node.annotation).startswith("ClassVar")
    }


def class_variable_of_file(path: Path, class_name: str, name: str) -> object:
    """Return the value of a class variable in a Python file that is not imported, None of none.

    Raises:
        UserError: The file cannot be read, lacks the class, or the value is no plain one.
    """
    for node in _class_in(path, class_name).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        value = getattr(node, "value", None)
        if any(isinstance(each, ast.Name) and each.id == name for each in targets) and value:
            try:
                return ast.literal_eval(value)
            except ValueError:
                raise UserError(
                    f"{path}:{node.lineno}: {name} must be a plain value, not {ast.unparse(value)}"
                ) from None
    return None


def _class_in(path: Path, class_name: str) -> ast.ClassDef:
    """Return a class of a Python file that is not imported."""
    classes = {node.name: node for node in parsed(path).body if isinstance(node, ast.ClassDef)}
    if class_name not in classes:
        there = ", ".join(classes) or "none"
        raise UserError(f"{path}: must hold the class {class_name}; classes there: {there}")
    return classes[class_name]


def parsed(path: Path) -> ast.Module:
    """Return the syntax tree of a Python file, which is not run; it is shared, so look only.

    Raises:
        UserError: The file cannot be read or is not Python.
    """
    try:
        return _tree(path.read_bytes(), str(path))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except SyntaxError as error:
        raise UserError(_not_python(path, error.lineno or 1, error.msg)) from None
    except ValueError as error:
        raise UserError(_not_python(path, 1, str(error))) from None


@lru_cache(maxsize=256)
def _tree(source: bytes, name: str) -> ast.Module:
    """The tree of a source; a remedy's file is asked several things each time it is named."""
    return ast.parse(source, name)


def _not_python(path: Path, line: int, why: str) -> str:
    encoded = "unicode error" in why or "null bytes" in why
    return f"{path}:{line}: is not Python: {why}{'; save it as UTF-8' if encoded else ''}"


def _setting(name: str, annotation: object, default: object) -> Setting:
    required = default is dataclasses.MISSING
    return Setting(name, annotation, None if required else default, required)


def _default_of(field: "dataclasses.Field[Any]") -> object:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _setting_of_node(node: ast.AnnAssign, path: Path) -> Setting:
    name, where = ast.unparse(node.target), f"{path}:{node.lineno}"
    try:
        annotation = _annotation_of(node.annotation)
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"{where}: the annotation of {name} must be int, float, bool, str, Literal[...], "
            "tuple[X, ...], X | None or Annotated[number, Between(...) | AtLeast(...) | "
            f"Above(...)], not {ast.unparse(node.annotation)}"
        ) from None
    try:
        default = ast.literal_eval(node.value) if node.value else dataclasses.MISSING
    except ValueError:
        raise UserError(
            f"{where}: the default of {name} must be a plain value, "
            f"not {ast.unparse(node.value) if node.value else None}"
        ) from None
    return _setting(name, annotation, default)


_PLAIN = {"int": int, "float": float, "bool": bool, "str": str}
_BOUNDS = {"Between": Between, "AtLeast": AtLeast, "Above": Above}
_LITERAL: Any = Literal  # the type checker takes a subscript that is known at run time for a type


def _annotation_of(node: ast.expr) -> Any:
    """Return what the expression would be at run time; an error means that it is no legal form."""
    match node:
        case ast.Name(id=name):
            return _PLAIN[name]
        case ast.Constant(value=None):
            return None
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _annotation_of(left) | _annotation_of(right)
        case ast.Subscript(value=ast.Name(id="Literal"), slice=choices):
            return _LITERAL[ast.literal_eval(choices)]
        case ast.Subscript(
            value=ast.Name(id="tuple"),
            slice=ast.Tuple(elts=[item, ast.Constant(value=types.EllipsisType())]),
        ):
            return tuple[_annotation_of(item), ...]  # type: ignore[misc]
        case ast.Subscript(
            value=ast.Name(id="Annotated"),
            slice=ast.Tuple(
                elts=[number, ast.Call(func=ast.Name(id=bound), args=limits, keywords=[])]
            ),
        ):
            limit = _BOUNDS[bound](*map(ast.literal_eval, limits))
            return Annotated[_annotation_of(number), limit]
    raise ValueError(ast.unparse(node))


# Holding values against a schema.


def problems_of(values: Mapping[str, object], schema: Schema, owner: str) -> dict[str, str]:
    """Return what is wrong with the values: one text for each setting that breaks its rule.

    Args:
        values: The settings that were given, by name.
        schema: The settings that are legal.
        owner: Whose settings these are, as the texts shall call it.
    """
    problems = {}
    for name, value in values.items():
        if name not in schema:
            problems[name] = f"{owner}: {unknown('setting', name, schema)}"
            continue
        rule = rule_of(schema[name].annotation)
        if not rule.allows(value):
            problems[name] = (
                f"{owner}: {name} must be {rule.words}, not {shown(value)}{way_out(rule, value)}"
            )
    for name, setting in schema.items():
        if setting.required and name not in values:
            problems[name] = f"{owner}: {name} is missing; give {rule_of(setting.annotation).words}"
    return problems


def resolve(values: Mapping[str, object], schema: Schema) -> dict[str, Any]:
    """Return every setting of the schema in normal form: the given values over the defaults.

    The values must be legal, and all that is required must be there.
    """
    return {
        name: rule_of(setting.annotation).normal(values.get(name, setting.default))
        for name, setting in schema.items()
    }


def check(instance: Any) -> None:
    """Check the fields of a dataclass's instance against their annotations.

    The message calls it by its file, as a suite does.

    Raises:
        UserError: Of the first field that breaks its rule.
    """
    schema = schema_of(type(instance))
    values = {name: getattr(instance, name) for name in schema}
    owner = type(instance).__module__.rpartition(".")[2]
    for problem in problems_of(values, schema, owner).values():
        raise UserError(problem)
