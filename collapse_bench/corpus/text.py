"""Any corpus of one sentence a line, in three files of a folder or on the hub.

Files are read here, for messages that name file and line and for text that is never stale: the
text reader of `datasets` names no line, and its cache misses an edit that keeps the file's time.
Hub data sets go through `datasets`, from a snapshot, since `datasets` when offline may take
another revision than the one asked for.

Sentences are words joined by one space. Blank lines are no sentences: they are left out, with a
word to the user. No sentence is cut, however long. What no text can mean is refused with its line:
a control character, which is that of another encoding, and a word that marks where sentences end.

Labels are stripped. An empty label is no label, and a file of nothing else is none.
"""

import os
import re
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

MARKERS = {
    "<pad>", "<bos>", "<eos>", "<sos>", "<s>", "</s>", "[cls]", "[sep]", "[pad]", "<|endoftext|>",
}  # fmt: skip
"""Words, in small letters, that tokenizers and other prepared corpora put around sentences. Left
in, each would be one more word, and a certain one, in every sentence. `<unk>` is a word like any
other: the Penn Treebank is full of it."""

_IMPOSSIBLE = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ufeff\ufffe\uffff]")
"""Control characters that are no space, byte order marks, and what is no character."""

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
        UserError: If a file is empty, not UTF-8 or holds what no text can mean, or the labels are
            not as many as the lines.
    """
    sentences: dict[str, list[str]] = {}
    labels: dict[str, Labels] = {}
    for split, path in files.items():
        rows = _lines(path)
        sentences[split], kept = _normalised(rows, str(path), f"{path}:{{}}", say)
        if found := labels_beside(path, len(rows), kept):
            labels[split] = found
    return sentences, labels


def labels_beside(path: Path, rows: int, kept: NDArray[np.int64] | None = None) -> Labels:
    """The labels beside a file of sentences or sequences, in `<split>.labels`; empty where none is.

    Args:
        path: the file.
        rows: sentences in it.
        kept: which of them are; None where all are.

    Raises:
        UserError: If it is not UTF-8, or the labels are not as many as the rows.
    """
    beside = path.with_suffix(".labels")
    if not beside.is_file():
        return {}
    values = _lines(beside)
    _check_characters(values, f"{beside}:{{}}")
    if len(values) != rows:
        raise UserError(f"{beside}: {len(values)} labels for the {rows} lines of {path.name}")
    return _labels({"label": values}, np.arange(rows) if kept is None else kept)


def read_hub(hub: str, revision: str | None, say: Say) -> Rows:
    """A data set of the hub, its columns of classes as labels.

    Args:
        hub: `owner/name`, or `owner/name:configuration`.
        revision: Commit, tag or branch; None for the main branch.
        say: Told about blank rows.

    Raises:
        CorpusMissing: If it is neither in the local cache nor to be had from the hub.
        UserError: If it cannot be read, a split or the column of text is missing, or the column
            holds something else, or what no text can mean.
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
        kind = rows.features[column]
        if getattr(kind, "dtype", None) not in ("string", "large_string"):
            raise UserError(
                f"hub {hub}: the column {column} holds {_held(kind)}, not text; name a data set"
                f" with one sentence a row, or write its sentences to files and give corpus.path"
            )
        source = f"hub {hub}, {split}"
        sentences[split], kept = _normalised(
            [row or "" for row in rows[column]], source, f"{source}, row {{}}", say
        )
        classes = {
            name: [_class_name(kind, value) for value in rows[name]]
            for name, kind in rows.features.items()
            if isinstance(kind, datasets.ClassLabel)
        }
        labels[split] = _labels(classes, kept)
    return sentences, labels


def _held(kind: object) -> str:
    """What a column of a data set holds, in words."""
    dtype = getattr(kind, "dtype", None)
    if isinstance(kind, dict) or dtype in ("dict", "struct"):
        return "mappings"
    return "lists" if dtype is None or dtype == "list" else str(dtype)


def _labels(columns: Mapping[str, Sequence[str]], kept: NDArray[np.int64]) -> Labels:
    """The labels of the kept rows, by name; empty where there is none."""
    stripped = {
        name: np.array([" ".join(value.split()) for value in values])[kept]
        for name, values in columns.items()
    }
    return {name: values for name, values in stripped.items() if (values != "").any()}


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
        raise UserError(
            f"{path}:{line}: not UTF-8 (byte 0x{raw[error.start]:02x}); save it as UTF-8"
        ) from None
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    return text.removesuffix("\n").split("\n")


def _normalised(
    rows: Sequence[str], source: str, row: str, say: Say
) -> tuple[list[str], NDArray[np.int64]]:
    """Sentences, their words joined by one space, and the rows they came from; no blank ones.

    Args:
        rows: one sentence each.
        source: what messages call all of them.
        row: what messages call one, its number to be filled in.
        say: told about blank rows.
    """
    _check_characters(rows, row)
    joined = [" ".join(row.split()) for row in rows]
    _check_words(joined, row)
    kept = np.array([i for i, sentence in enumerate(joined) if sentence], dtype=np.int64)
    if not len(kept):
        raise UserError(f"{source}: no sentence in it")
    if len(kept) < len(joined):
        say(f"{source}: {len(joined) - len(kept)} blank of {len(joined)} lines left out")
    return [joined[i] for i in kept], kept


def _check_characters(rows: Sequence[str], row: str) -> None:
    """Refuse what is no character of a text."""
    for number, text in enumerate(rows, start=1):
        if found := _IMPOSSIBLE.search(text):
            name = {"\0": "NUL byte", "\ufeff": "byte order mark within the text"}.get(
                found[0], f"control character U+{ord(found[0]):04X}"
            )
            raise UserError(f"{row.format(number)}: {name}; save it as UTF-8, without it")


def _check_words(sentences: Sequence[str], row: str) -> None:
    """Refuse words that mark the begin or end of sentences."""
    marked = [
        (number, word)
        for number, sentence in enumerate(sentences, start=1)
        for word in sentence.split()
        if word[0] in "<[" and word.lower() in MARKERS
    ]
    if marked:
        number, word = marked[0]
        lines = len({line for line, _ in marked})
        raise UserError(
            f"{row.format(number)}: the word {word} marks sentences (as in {lines} of"
            f" {len(sentences)} lines); remove it: the bench adds its own"
        )


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
