"""A finished cell on disk: one folder, whose record is written last and atomically.

A record carries its own SHA-256 and those of arrays and model beside it, see `seal`.
"""

import hashlib
import io
import json
import math
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from collapse_bench import seal
from collapse_bench.errors import DamagedError, UserError
from collapse_bench.seal import DIGEST
from collapse_bench.writing import replacing

SCHEMA, OLDEST = 4, 3
"""Of what is written, and the oldest that is read, which has no digest and is believed; one that is
older still has to be scored anew."""

FINISHED = ("done", "diverged")
"""Outcomes that a second run would only repeat; a failed or killed cell is run again."""

RECORD = "record.json"
SENTENCES = "sentences.npz"
MODEL = "model.safetensors"
VOCABULARY = "vocabulary.json"
HISTORY = "history.jsonl"
CHECKPOINTS = "checkpoint-*.pt"
"""In place of the star stands how many tokens had been decoded, in twelve digits."""

QUARANTINE = "quarantine"
"""Folder of a suite to which damaged files of its cells are moved."""

DAMAGED = "run the suite again, which moves it to quarantine/, or remove it"

OTHER = (
    "not the file that the record was made from: its SHA-256 differs, so it was cut short or "
    "edited, or a scoring was interrupted"
)

CELL_ID = re.compile(r"[a-z0-9][a-z0-9_.+-]*-[0-9a-f]{8}")


def is_finished(folder: Path) -> bool:
    """Whether a cell's folder has a record that a second run would only repeat."""
    path = folder / RECORD
    return path.exists() and read_record(path)["status"] in FINISHED


def is_done(folder: Path) -> bool:
    """Whether a cell has a result."""
    path = folder / RECORD
    return path.exists() and read_record(path)["status"] == "done"


def earlier_attempts(folder: Path) -> list[dict[str, Any]]:
    """What a new record of a cell tells of the attempts before it that left no result.

    Args:
        folder: the cell's, with the record of the last of them, if there has been one.
    """
    path = folder / RECORD
    if not path.exists():
        return []
    told = read_record(path)
    earlier: list[dict[str, Any]] = told.get("attempts", [])
    if told["status"] == "done":
        return earlier
    environment = told["environment"]
    last = {
        "status": told["status"],
        "error": told["error"],
        "commit": environment["commit"],
        "code": environment["code"],
        "seconds": told["cost"]["seconds"],
    }
    return [*earlier, last]


def decoded_by(folder: Path) -> int | None:
    """Tokens that the newest checkpoint of a cell has; None where there is none."""
    names = (path.stem.partition("-")[2] for path in folder.glob(CHECKPOINTS))
    return max((int(name) for name in names if name.isdecimal()), default=None)


def write_record(folder: Path, record: Mapping[str, Any]) -> bool:
    """Write `record.json` with its digest; a reader sees the whole of it or none.

    A result is not given up for one that failed: a cell that was to be scored again, say, since its
    arrays were lost.

    Returns:
        Whether it was written.

    Raises:
        ValueError: a number is not finite; a record says null where there is none.
        DiskError: the system refuses to write.
    """
    text = text_of(record)
    if record.get("status") != "done" and is_done(folder):
        return False
    with replacing(folder / RECORD) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return True


def text_of(record: Mapping[str, Any], *, sort_keys: bool = False) -> str:
    """What is in the file of a record: its digest last, or where it belongs among sorted keys.

    Args:
        record: with or without a digest, which is made anew; schema 3 has none.
        sort_keys: whether it is to be published.

    Raises:
        ValueError: a number is not finite.
    """
    content = {name: value for name, value in record.items() if name != DIGEST}
    make = seal.laid_out if record.get("schema") in range(SCHEMA) else seal.sealed
    return make(content, sort_keys=sort_keys)


def write_arrays(folder: Path, arrays: Mapping[str, NDArray[Any]]) -> str:
    """Write the per-sentence arrays that every metric can be computed from again.

    Returns:
        SHA-256 of what was written, for the record.
    """
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    with replacing(folder / SENTENCES) as temporary:
        temporary.write_bytes(buffer.getbuffer())
    return hashlib.sha256(buffer.getbuffer()).hexdigest()


def write_history(folder: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Write one line for each validation of the training."""
    with replacing(folder / HISTORY) as temporary:
        temporary.write_text(
            "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows), encoding="utf-8"
        )


def write_model(folder: Path, weights: Mapping[str, Any]) -> str:
    """Write the selected weights, tensors by name; a weight that parts share once for each.

    Returns:
        SHA-256 of what was written, for the record.
    """
    from safetensors.torch import save

    # Tensors that share memory are refused, which is what weights of two slots do.
    content = save({name: value.contiguous().clone() for name, value in weights.items()})
    with replacing(folder / MODEL) as temporary:
        temporary.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def digest_of_model(folder: Path) -> str | None:
    """SHA-256 of a cell's weights; None where there are none."""
    return sha256_of(folder / MODEL)


def read_model(folder: Path, model: Any, sha256: str | None = None) -> None:
    """Load the weights of a finished cell into a model of the same build.

    Args:
        folder: the cell's.
        model: of its build.
        sha256: what the record says of the file; None where it says nothing.

    Raises:
        UserError: the file is missing, or of another build.
        DamagedError: it is not the one that the record was made from.
    """
    from safetensors.torch import load

    path = folder / MODEL
    try:
        content = path.read_bytes()
        if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
            raise DamagedError(f"{path}: {OTHER}; run the suite again")
        model.load_state_dict(load(content))
    except DamagedError:
        raise
    except Exception as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(f"{path}: cannot be loaded: {first}; run the suite again") from error


def read_record(path: Path, oldest: int = OLDEST) -> dict[str, Any]:
    """One record, without the digest that it was held against.

    Args:
        path: of its file, of a cell or as published.
        oldest: schema that is still taken.

    Raises:
        UserError: the file cannot be read, or is a record of another schema.
        DamagedError: it is not what was written, or no record at all.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read: {error.strerror}; see who may read it, or remove it"
        ) from error
    try:
        text = content.decode()
        record = json.loads(text)
        schema = record["schema"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedError(
            f"{path}: not a record ({type(error).__name__}: {error}); {DAMAGED}"
        ) from error
    # Before its schema is believed; an older record has nothing that it could be held against.
    sealed = DIGEST in record or schema == SCHEMA
    if sealed and (why := seal.broken(text)):
        raise DamagedError(f"{path}: damaged, or edited by hand: {why}; {DAMAGED}")
    if type(schema) is not int or not oldest <= schema <= SCHEMA:
        if schema in range(1, SCHEMA):
            way_out = (
                f"score it anew with `python -m collapse_bench score --write model {path.parent}`"
            )
        else:
            way_out = "read it with the version that wrote it"
        raise UserError(
            f"{path}: a record of schema {schema!r}, this version reads {OLDEST} to {SCHEMA};"
            f" {way_out}, or remove it"
        )
    for part, what in (("metrics", "metric"), ("standard_errors", "standard error of")):
        _check_numbers(path, record.get(part) or {}, what)
    if not isinstance(record.get("status"), str):
        raise DamagedError(f"{path}: its status is missing; {DAMAGED}")
    record.pop(DIGEST, None)
    return dict(record)


def _check_numbers(path: Path, values: Any, what: str) -> None:
    """Raise DamagedError unless every value of a part is a finite number or null."""
    if not isinstance(values, dict):
        raise DamagedError(f"{path}: each {what} must have a name, not {values!r}; {DAMAGED}")
    for name, value in values.items():
        if value is None:
            continue
        if type(value) not in (int, float):
            raise DamagedError(
                f"{path}: the {what} {name} must be a number, not {value!r}; {DAMAGED}"
            )
        if not math.isfinite(value):
            raise DamagedError(
                f"{path}: the {what} {name} must be finite, not {value!r}; {DAMAGED}"
            )


def read_if_whole(folder: Path) -> dict[str, Any] | None:
    """The record of a cell; None where there is none, or a damaged one, which a run puts aside.

    Raises:
        UserError: it cannot be read, or is of another schema.
    """
    try:
        path = folder / RECORD
        return read_record(path) if path.exists() else None
    except DamagedError:
        return None


def read_records(folder: Path) -> list[dict[str, Any]]:
    """Every record of a suite, by cell: `<cell>/record.json` of a run, else `<cell>.json` as
    published.

    Args:
        folder: `runs/<suite>` or `leaderboard/<suite>`, which may not exist.

    Raises:
        UserError: one cannot be read, is damaged, or is not called after its cell.
    """
    published = (path for path in folder.glob("*.json") if CELL_ID.fullmatch(path.stem))
    named = {path.with_suffix(""): path for path in published}
    named |= {path.parent: path for path in folder.glob(f"*/{RECORD}")}
    named.pop(folder / QUARANTINE, None)
    return [_read_named(path, name) for name, path in sorted(named.items())]


def read_published(path: Path) -> dict[str, Any]:
    """A record as it is published, `<cell>.json`.

    Raises:
        UserError: it cannot be read, is damaged, or is not called after its cell.
    """
    return _read_named(path, path.with_suffix(""))


def _read_named(path: Path, name: Path) -> dict[str, Any]:
    """A record whose folder, or whose file, has the name of its cell."""
    record = read_record(path)
    if record.get("cell") != name.name:
        raise UserError(
            f"{name}: holds the record of the cell {record.get('cell')}, so it is a copy or has"
            f" been renamed; move it out of {name.parent}, or give it the name of its cell"
        )
    return record


def read_arrays(folder: Path, sha256: str | None = None) -> dict[str, NDArray[Any]]:
    """The per-sentence arrays of a finished cell.

    Args:
        folder: the cell's.
        sha256: what the record says of the file; None where it says nothing.

    Raises:
        UserError: the file cannot be read.
        DamagedError: it is not the one that the record was made from, or no arrays at all.
    """
    path = folder / SENTENCES
    way_out = (
        f"make it again from the model with `python -m collapse_bench score --write model {folder}`"
    )
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error}; {way_out}") from error
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise DamagedError(f"{path}: {OTHER}; {way_out}")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:  # a little file may be of a gigabyte
            if any(each.file_size != each.compress_size for each in archive.infolist()):
                raise ValueError("it is compressed, as no arrays of a cell are")
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            found = dict(arrays)
        if others := [name for name, each in found.items() if not isinstance(each, np.ndarray)]:
            raise ValueError(f"it holds what is no array, {others[0]!r}")
        return found
    except Exception as error:
        raise DamagedError(f"{path}: cannot be read: {error}; {way_out}") from error


def sha256_of(path: Path) -> str | None:
    """SHA-256 of a file; None where there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None
