"""Any corpus of real-valued sequences: three files of a folder, as arrays or as tables.

An array, `train.npy`, is [N, T, Y], or [N, T] of one channel: N sequences of T steps, and beside
it, if there are any, `train.labels`, one a line. A table, `train.csv`, has a row for every step and
names its columns: `sequence` tells to which sequence a row belongs, and without it every row is a
sequence of one step; `label_...` are labels, the same for all rows of a sequence; every other
column is a channel. Sequences of a table may have different lengths.

Every channel is standardised by its mean and standard deviation over the training split: widths
and learning rates of a model are made for such numbers. The likelihood is that of standardised
values; `log_scale` of the record, nats a step, has to be added to an NLL for that of the file's.
"""

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from collapse_bench.corpus.corpus import SPLITS, Labels, Settings, Values
from collapse_bench.corpus.text import labels_beside
from collapse_bench.errors import CorpusMissing, UserError

SEQUENCE, LABEL = "sequence", "label_"
"""A column that numbers sequences, and how the name of one with labels begins."""

Sequences = list[NDArray[np.float64]]
Table = tuple[Sequences, Labels, list[str]]
"""Sequences [T, Y], their labels, and the names of the channels."""


def read(settings: Settings, data: Path | None, say: Callable[[str], None]) -> Values:
    """The values in the folder `path` of the settings.

    Raises:
        CorpusMissing: If it does not hold the three files.
        UserError: If a file cannot be read, holds what is no finite number, has other channels than
            the training split, or a channel that never changes there.
    """
    if settings.path is None:
        raise UserError(
            "corpus values: set path, a folder of train.npy, valid.npy and test.npy, or of .csv"
        )
    folder = Path(settings.path).expanduser()
    kind = next((k for k in ("npy", "csv") if (folder / f"train.{k}").is_file()), None)
    files = {split: folder / f"{split}.{kind}" for split in SPLITS}
    absent = [path.name for path in files.values() if not path.is_file()]
    if kind is None or absent:
        wanted = ", ".join(absent) if kind else "train.npy, valid.npy, test.npy (or .csv)"
        raise CorpusMissing(f"corpus values: no {wanted} in {folder}")
    tables = {split: (_array if kind == "npy" else _table)(path) for split, path in files.items()}
    channels = tables["train"][2]
    for split, (_, _, names) in tables.items():
        if names != channels:
            raise UserError(
                f"{files[split]}: has the channels {', '.join(names)}, and"
                f" {files['train'].name} has {', '.join(channels)}; all splits need the same,"
                f" in the same order"
            )
    mean, scale = _moments(files["train"], tables["train"][0], channels)
    lengths = [len(x) for sequences, _, _ in tables.values() for x in sequences]
    say(
        f"{folder}: {' / '.join(str(len(tables[split][0])) for split in SPLITS)} sequences of"
        f" {min(lengths)} to {max(lengths)} steps, channels {', '.join(channels)}"
    )
    return Values(
        name="values",
        sequences={
            split: [_standardised(files[split], x, mean, scale) for x in sequences]
            for split, (sequences, _, _) in tables.items()
        },
        labels={split: labels for split, (_, labels, _) in tables.items() if labels},
        facts={"log_scale": float(np.log(scale).sum())},
    )


def _moments(
    path: Path, sequences: Sequences, channels: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of each channel over all steps, [Y] each."""
    steps = np.concatenate(sequences)
    mean, scale = steps.mean(axis=0), steps.std(axis=0)
    for name, m, s in zip(channels, mean, scale, strict=True):
        if s <= 1e-9 * abs(m):
            raise UserError(
                f"{path}: channel {name} is {m:.6g} at every step: the density of what never"
                f" changes has no bound, so no NLL could be told; leave the channel out"
            )
    return mean, scale


def _standardised(
    path: Path,
    x: NDArray[np.float64],
    mean: NDArray[np.float64],
    scale: NDArray[np.float64],
) -> NDArray[np.float32]:
    """A sequence [T, Y] as the model is to see it."""
    with np.errstate(over="ignore"):
        values = ((x - mean) / scale).astype(np.float32)
    if not np.isfinite(values).all():
        worst = float(x[~np.isfinite(values)][0])
        raise UserError(
            f"{path}: {worst:g} is too far from the training split's values to be a number once it"
            f" is standardised; leave it out, or take its logarithm"
        )
    return values


def _array(path: Path) -> Table:
    """The sequences of an array file."""
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        raise UserError(
            f"{path}: cannot be read as an array of numbers; write it by numpy.save"
        ) from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        kind = getattr(array, "dtype", type(array).__name__)
        raise UserError(f"{path}: must hold one array of numbers, not {kind}")
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise UserError(
            f"{path}: must be [sequences, steps, channels], or [sequences, steps] of one channel,"
            f" none of them 0, not {list(array.shape)}; vectors are sequences of one step"
        )
    values = array.astype(np.float64).reshape(*array.shape[:2], -1)
    if not (finite := np.isfinite(values)).all():
        i, t, y = (int(place) for place in np.argwhere(~finite)[0])
        raise UserError(
            f"{path}: {values[i, t, y]} in sequence {i}, step {t}, channel {y}"
            f" ({int((~finite).sum())} such entries); every value has to be a finite number"
        )
    labels = labels_beside(path, len(values))
    return list(values), labels, [str(y) for y in range(values.shape[2])]


def _table(path: Path) -> Table:
    """The sequences of a table."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as a table: {error}") from None
    names = [name.strip() for name in rows[0]] if rows else []
    channels = [n for n in names if n != SEQUENCE and not n.startswith(LABEL)]
    if not channels or len(set(names)) < len(names) or "" in names or _is_number(names[0]):
        raise UserError(
            f"{path}:1: the first line must name the columns, each once, one channel at least, with"
            f" commas between, not {','.join(names) or 'nothing'!r:.80}"
        )
    found: dict[str, list[list[float]]] = {}
    labels: dict[str, dict[str, str]] = {n: {} for n in names if n.startswith(LABEL)}
    last = None
    for line, row in enumerate(rows[1:], start=2):
        if not row:
            continue
        if len(row) != len(names):
            raise UserError(
                f"{path}:{line}: {len(row)} columns where the first line names {len(names)}"
            )
        told = dict(zip(names, map(str.strip, row), strict=True))
        key = told.get(SEQUENCE, str(line))
        if key in found and key != last:
            raise UserError(
                f"{path}:{line}: sequence {key} goes on after another one; put its rows together"
            )
        last = key
        found.setdefault(key, []).append([_number(path, line, n, told[n]) for n in channels])
        for name, of_each in labels.items():
            if of_each.setdefault(key, told[name]) != told[name]:
                raise UserError(
                    f"{path}:{line}: {name} is {told[name]!r} and was {of_each[key]!r} before in"
                    f" the same sequence; a label is one of the whole sequence"
                )
    sequences = [np.array(steps) for steps in found.values()]
    of_all: Mapping[str, Any] = {
        name.removeprefix(LABEL): np.array([of_each[key] for key in found])
        for name, of_each in labels.items()
    }
    return sequences, of_all, channels


def _number(path: Path, line: int, name: str, told: str) -> float:
    """The number of a field."""
    try:
        value = float(told)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise UserError(
            f"{path}:{line}: {name} must be a finite number, not {told!r:.40}; a column that tells"
            f" which sequence a row is of is called {SEQUENCE}, and one of labels {LABEL}..., and"
            f" commas stand between them"
        )
    return value


def _is_number(told: str) -> bool:
    try:
        float(told)
    except ValueError:
        return False
    return True
