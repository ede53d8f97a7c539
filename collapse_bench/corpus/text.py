"""Any corpus of one sentence a line, in three files of a folder or on the hub.

Files are read here, for messages that name file and line and for text that is never stale: the
text reader of `datasets` names no line, and its cache misses an edit that keeps the file's time.
Hub data sets go through `datasets`, from a snapshot, since `datasets` when offline may take
another revision than the one asked for.

Sentences are words joined by one space. Blank lines are no sentences: they are left out, with a
word to the user. No sentence is cut, however long.
"""

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import getproxies

import numpy as np
from numpy.typing import NDArray

from collapse_bench.corpus.corpus import SPLITS, Labels, Settings, Texts
from collapse_bench.errors import CorpusMissing, UserError

PROBE_SECONDS = 1.5
HUB_SPLITS = {"train": ("train",), "valid": ("validation", "valid", "dev"), "test": ("test",)}
TEXT_COLUMNS = ("sentence", "text")

if TYPE_CHECKING:
    from datasets import ClassLabel

Say = Callable[[str], None]
Rows = tuple[dict[str, list[str]], dict[str, Labels]]
"""Sentences and labels of each split."""


def read(settings: Settings, data: Path | None, say: Say) -> Texts:
    """The text in the folder `path`, or in the data set `hub`, of the settings."""
    if settings.path is not None:
        folder = Path(settings.path).expanduser()
        files = find_files(folder)
        if files is None:
            raise CorpusMissing(f"corpus text: no train.txt, valid.txt, test.txt in {folder}")
        sentences, labels = read_files(files, say)
    elif settings.hub is not None:
        sentences, labels = read_hub(settings.hub, settings.revision, say)
    else:
        raise UserError(
            "corpus text: set path (a folder of train.txt, valid.txt, test.txt) or hub (an id)"
        )
    return Texts("text", sentences, labels)


def find_files(folder: Path, *prefixes: str) -> dict[str, Path] | None:
    """The three files in `folder`, called `train.txt` or with one of the prefixes before it.

    Raises:
        UserError: If some are there and others are not.
    """
    for prefix in ("", *prefixes):
        files = {split: folder / f"{prefix}{split}.txt" for split in SPLITS}
        absent = [path.name for path in files.values() if not path.is_file()]
        if not absent:
            return files
        if len(absent) < len(SPLITS):
            raise UserError(f"{folder}: {' and '.join(absent)} missing beside the other splits")
    return None


def read_files(files: Mapping[str, Path], say: Say) -> Rows:
    """Sentences of each split, with labels from `<split>.labels` beside it, one a line, if there.

    Raises:
        UserError: If a file is empty or not UTF-8, or the labels are not as many as the lines.
    """
    sentences: dict[str, list[str]] = {}
    labels: dict[str, Labels] = {}
    for split, path in files.items():
        rows = _lines(path)
        sentences[split], kept = _normalised(rows, str(path), say)
        beside = path.with_suffix(".labels")
        values = _lines(beside) if beside.is_file() else None
        if values is not None and len(values) != len(rows):
            raise UserError(
                f"{beside}: {len(values)} labels for the {len(rows)} lines of {path.name}"
            )
        labels[split] = {} if values is None else {"label": np.array(values)[kept]}
    return sentences, labels


def read_hub(hub: str, revision: str | None, say: Say) -> Rows:
    """A data set of the hub, its columns of classes as labels.

    Args:
        hub: `owner/name`, or `owner/name:configuration`.
        revision: Commit, tag or branch; None for the main branch.
        say: Told about blank rows.

    Raises:
        CorpusMissing: If it is neither in the local cache nor to be had from the hub.
        UserError: If it cannot be read, or a split or the column of text is missing.
    """
    name, _, configuration = hub.partition(":")
    folder = _snapshot(name, revision)
    import datasets

    try:
        found = datasets.load_dataset(str(folder), configuration or None)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise UserError(
            f"hub {hub}: cannot be read (data sets made by scripts never can): {error}"
        ) from error
    sentences: dict[str, list[str]] = {}
    labels: dict[str, Labels] = {}
    for split, names in HUB_SPLITS.items():
        rows = next((found[name] for name in names if name in found), None)
        if rows is None:
            raise UserError(f"hub {hub}: no split {' or '.join(names)}; it has {', '.join(found)}")
        column = next((name for name in TEXT_COLUMNS if name in rows.column_names), None)
        if column is None:
            there = ", ".join(rows.column_names)
            raise UserError(f"hub {hub}: no column {' or '.join(TEXT_COLUMNS)}; it has {there}")
        sentences[split], kept = _normalised(
            [row or "" for row in rows[column]], f"hub {hub}, {split}", say
        )
        labels[split] = {
            name: np.array([_class_name(kind, value) for value in rows[name]])[kept]
            for name, kind in rows.features.items()
            if isinstance(kind, datasets.ClassLabel)
        }
    return sentences, labels


def _class_name(kind: "ClassLabel", value: int | None) -> str:
    """The name of a class; empty for a row without one."""
    return "" if value is None or value < 0 else str(kind.int2str(value))


def _lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file, ended by \\n, \\r\\n or \\r and by nothing else."""
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: not UTF-8 (byte 0x{raw[error.start]:02x})") from None
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    return text.removesuffix("\n").split("\n")


def _normalised(rows: Sequence[str], source: str, say: Say) -> tuple[list[str], NDArray[np.int64]]:
    """Sentences, their words joined by one space, and the rows they came from; no blank ones."""
    joined = [" ".join(row.split()) for row in rows]
    kept = np.array([i for i, sentence in enumerate(joined) if sentence], dtype=np.int64)
    if not len(kept):
        raise UserError(f"{source}: no sentence in it")
    if len(kept) < len(joined):
        say(f"{source}: {len(joined) - len(kept)} blank of {len(joined)} lines left out")
    return [joined[i] for i in kept], kept


def _snapshot(name: str, revision: str | None) -> Path:
    """The files of a hub data set: from the local cache, else from the hub if it can be reached."""
    online = not os.environ.get("HF_HUB_OFFLINE") and _reachable()
    if not online:
        # Read when the libraries are imported, and never later; else they retry for 20 seconds.
        os.environ["HF_HUB_OFFLINE"] = "1"
    from huggingface_hub import snapshot_download

    for local in (True, False) if online else (True,):
        try:
            return Path(
                snapshot_download(
                    name,
                    repo_type="dataset",
                    revision=revision,
                    local_files_only=local,
                    etag_timeout=3,
                )
            )
        except Exception as error:  # the errors of the library's HTTP client have no common base
            reason = (
                "the hub cannot be reached" if not online else f"{type(error).__name__}: {error}"
            )
    raise CorpusMissing(f"hub {name} ({revision or 'main'}): not in the local cache, and {reason}")


def _reachable() -> bool:
    """Whether the hub, or the proxy before it, takes a connection within `PROBE_SECONDS`."""
    address = getproxies().get("https") or os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    url = urlsplit(address if "//" in address else f"//{address}")
    answered = []

    def connect() -> None:
        port = url.port or (80 if url.scheme == "http" else 443)
        with suppress(OSError), socket.create_connection((url.hostname, port), PROBE_SECONDS):
            answered.append(True)

    # A look-up has no time limit of its own, so it is left behind in a thread that may hang.
    probe = Thread(target=connect, daemon=True)
    probe.start()
    probe.join(PROBE_SECONDS)
    return bool(answered)
