"""A finished cell on disk: one folder, whose record is written last and atomically."""

import hashlib
import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from collapse_bench.errors import UserError

SCHEMA = 3
"""Raised when what a record holds changes; an older one has to be scored anew."""

FINISHED = ("done", "diverged")
"""Outcomes that a second run would only repeat; a failed or killed cell is run again."""

RECORD = "record.json"
SENTENCES = "sentences.npz"
MODEL = "model.safetensors"
VOCABULARY = "vocabulary.json"
HISTORY = "history.jsonl"

DAMAGED = "remove it and run the suite again"

CELL_ID = re.compile(r"[a-z0-9][a-z0-9_.+-]*-[0-9a-f]{8}")


def is_finished(folder: Path) -> bool:
    """Whether a cell's folder has a record that a second run would only repeat."""
    path = folder / RECORD
    return path.exists() and read_record(path)["status"] in FINISHED


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write `record.json`; a reader sees the whole of it or none.

    A cell that failed here and was finished by another run meanwhile keeps the record of that.

    Raises:
        ValueError: a number is not finite; a record says null where there is none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(record, indent=1, allow_nan=False) + "\n"
    if record.get("status") not in FINISHED and is_finished(folder):
        return
    with replacing(folder / RECORD) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_arrays(folder: Path, arrays: Mapping[str, NDArray[Any]]) -> str:
    """Write the per-sentence arrays that every metric can be computed from again.

    Returns:
        SHA-256 of what was written, for the record.
    """
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    with replacing(folder / SENTENCES) as temporary:
        temporary.write_bytes(buffer.getbuffer())
    return hashlib.sha256(buffer.getbuffer()).hexdigest()


def write_history(folder: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Write one line for each validation of the training."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / HISTORY) as temporary:
        temporary.write_text(
            "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows), encoding="utf-8"
        )


def write_model(folder: Path, weights: Mapping[str, Any]) -> None:
    """Write the selected weights, tensors by name; a weight that parts share once for each."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / MODEL) as temporary:
        # Tensors that share memory are refused, which is what weights of two slots do.
        save_file({name: value.contiguous().clone() for name, value in weights.items()}, temporary)


def digest_of_model(folder: Path) -> str | None:
    """SHA-256 of a cell's weights; None where there are none."""
    path = folder / MODEL
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None


def read_model(folder: Path, model: Any) -> None:
    """Load the weights of a finished cell into a model of the same build.

    Raises:
        UserError: the file is missing, damaged, or of another build.
    """
    from safetensors.torch import load_file

    try:
        model.load_state_dict(load_file(folder / MODEL))
    except Exception as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(
            f"{folder / MODEL}: cannot be loaded: {first}; run the suite again"
        ) from error


def read_record(path: Path, oldest: int = SCHEMA) -> dict[str, Any]:
    """One record.

    Args:
        path: of its file.
        oldest: schema that is still taken.

    Raises:
        UserError: the file is not a record, or one of another schema.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        schema = record["schema"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: not a record ({type(error).__name__}: {error}); {DAMAGED}"
        ) from error
    if not (isinstance(schema, int) and oldest <= schema <= SCHEMA):
        if schema in range(1, SCHEMA):
            way_out = (
                f"score it anew with `python -m collapse_bench score --write model {path.parent}`"
            )
        else:
            way_out = "read it with the version that wrote it"
        raise UserError(
            f"{path}: a record of schema {schema!r}, this version reads {SCHEMA}; {way_out}, or "
            f"{DAMAGED}"
        )
    for name, value in (record.get("metrics") or {}).items():
        if value is not None and type(value) not in (int, float):
            raise UserError(f"{path}: the metric {name} must be a number, not {value!r}; {DAMAGED}")
    return dict(record)


def read_records(folder: Path) -> list[dict[str, Any]]:
    """Every record of a suite, by cell: `<cell>/record.json` of a run, else `<cell>.json` as
    published.

    Args:
        folder: `runs/<suite>` or `leaderboard/<suite>`, which may not exist.

    Raises:
        UserError: one cannot be read, or is not called after its cell.
    """
    published = (path for path in folder.glob("*.json") if CELL_ID.fullmatch(path.stem))
    named = {path.with_suffix(""): path for path in published}
    named |= {path.parent: path for path in folder.glob(f"*/{RECORD}")}
    records = []
    for name, path in sorted(named.items()):
        record = read_record(path)
        if record.get("cell") != name.name:
            raise UserError(
                f"{name}: holds the record of the cell {record.get('cell')}, so it is a copy"
                f" or has been renamed; move it out of {folder}, or give it the name of its cell"
            )
        records.append(record)
    return records


def read_arrays(folder: Path, sha256: str | None = None) -> dict[str, NDArray[Any]]:
    """The per-sentence arrays of a finished cell.

    Args:
        folder: the cell's.
        sha256: what the record says of the file; None where it says nothing.

    Raises:
        UserError: the file is missing, damaged, or not the one that the record was made from.
    """
    path = folder / SENTENCES
    way_out = (
        f"make it again from the model with `python -m collapse_bench score --write model {folder}`"
    )
    try:
        content = path.read_bytes()
        if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
            raise UserError(
                f"{path}: not the file that the record was made from: its SHA-256 differs, so it "
                f"was cut short or edited, or a scoring was interrupted; {way_out}"
            )
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return dict(arrays)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path}: cannot be read: {error}; {way_out}") from error


class replacing:
    """Hand out a temporary path and put the file in place when it is complete and on the disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")

    def __enter__(self) -> Path:
        return self.temporary

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            for path in (self.temporary, self.path.parent) if kind is None else ():
                descriptor = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
                if path == self.temporary:
                    os.replace(self.temporary, self.path)
        finally:
            self.temporary.unlink(missing_ok=True)


SAME_ARRAYS, SAME_MODEL = 1e-9, 0.01
"""Nats or units by which a number may differ from the record's, from the arrays relative to its
size: the arithmetic of another machine. From the model a tenth of its standard error will do, too:
products in bfloat16 or with other threads may make a sentence stop its draws a round later."""


@dataclass(frozen=True)
class Line:
    """A metric of a record, or a word of it, and what it is when computed again; None where it is
    unknown."""

    name: str
    recorded: float | str | None
    from_arrays: float | str | None
    from_model: float | str | None
    error: float = 0.0

    @property
    def agrees(self) -> bool:
        """Whether both numbers are what the record says; of words the one from the arrays if they
        tell it, since a verdict from the model may be of numbers at the edge of another."""
        recorded, one, other = self.recorded, self.from_arrays, self.from_model
        if isinstance(one, str) or isinstance(other, str):
            return recorded == (other if one is None else one)
        if not isinstance(recorded, int | float) or one is None or other is None:
            return False
        off = abs(one - recorded), abs(other - recorded)
        return off[0] <= SAME_ARRAYS * max(1.0, abs(recorded)) and off[1] <= max(
            SAME_MODEL, 0.1 * self.error
        )
