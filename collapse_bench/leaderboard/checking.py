"""Whether a record is one that a page can be made of: told before anything is computed from it."""

from collections.abc import Mapping, Sequence
from typing import Any

from collapse_bench.errors import UserError
from collapse_bench.record import OLDEST, SCHEMA

BOUNDS = ("valid", "oracle", "conditional", "invalid")
"""What a cell's NLL may be, the worst last: a bound on -log p(x); one of a model that the suite
tells something in advance; one whose prior looks at the sentence or at other data; none."""

FAMILIES = ("normal", "flow", "sphere", "codes", "other")
"""Of posteriors."""

HELD = ("arrays",)
"""Against what a published record was held."""

FIELDS = dict.fromkeys(("cell", "entry", "architecture", "status"), str)
NUMBERS = dict.fromkeys(("seed", "budget", "suite_budget", "latent"), int)
CORPUS_FIELDS: dict[str, type] = {
    **dict.fromkeys(("name", "requested", "sha256"), str),
    **dict.fromkeys(("sentences", "tokens"), dict),
}
VOCABULARY_FIELDS = {"types": int, "tokenizer": str}
FINISHED_FIELDS = {"family": str, "bound": str, "bound_reasons": list, "metrics": dict}


def check(record: Mapping[str, Any]) -> None:
    """Raise UserError unless the record is one that this version can read."""
    cell = record.get("cell", "a record without a cell id")
    if record.get("schema") not in range(OLDEST, SCHEMA + 1):
        way_out = "use the version that wrote it"
        if record.get("schema") in range(1, SCHEMA):
            way_out = (
                "score the cell anew with `python -m collapse_bench score --write model CELL`, CELL"
                " being its folder among the runs"
            )
        raise UserError(
            f"{cell}: its record has schema {record.get('schema')!r}, but this collapse_bench knows"
            f" schemas {OLDEST} to {SCHEMA}; {way_out}, or run it again"
        )
    corpus = record.get("corpus")
    nested = corpus if isinstance(corpus, Mapping) else {}
    parts: list[tuple[Mapping[str, Any], Mapping[str, type]]]
    parts = [(record, FIELDS), (record, NUMBERS), (nested, CORPUS_FIELDS)]
    if "channels" in nested:  # values have no vocabulary
        parts.append((nested, {"channels": int}))
    else:
        parts.append((nested, {"vocabulary": dict}))
    if isinstance(nested.get("vocabulary"), Mapping):
        parts.append((nested["vocabulary"], VOCABULARY_FIELDS))
    if record.get("status") == "done":
        parts.append((record, FINISHED_FIELDS))
    for part, fields in parts:
        for name, kind in fields.items():
            if not isinstance(part.get(name), kind):
                raise UserError(
                    f"{cell}: '{name}' in its record should be a {kind.__name__},"
                    f" got {part.get(name)!r}; remove the cell's folder and run it again"
                )
    if record["status"] == "done":
        _check_word(cell, record, "bound", BOUNDS)
        _check_word(cell, record, "family", FAMILIES)
    if record.get("held") is not None:
        _check_word(cell, record, "held", HELD)
    _check_numbers(cell, record)


def _check_word(cell: object, record: Mapping[str, Any], name: str, known: Sequence[str]) -> None:
    """Raise UserError unless a field has one of the values there are."""
    if record[name] not in known:
        raise UserError(
            f"{cell}: '{name}' in its record should be one of {', '.join(known)}, got"
            f" {record[name]!r}; remove the cell's folder and run it again"
        )


def _check_numbers(cell: object, record: Mapping[str, Any]) -> None:
    """Raise UserError where a metric is something else than a number or null."""
    for part, name in (("metrics", "metric"), ("standard_errors", "standard error of")):
        for key, value in (record.get(part) or {}).items():
            if value is not None and type(value) not in (int, float):
                raise UserError(
                    f"{cell}: {name} {str(key)!r} in its record should be a number or null, got"
                    f" {value!r}; score the cell anew with `python -m collapse_bench score --write"
                    " arrays CELL`, CELL being its folder among the runs"
                )
