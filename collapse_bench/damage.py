"""Files of a cell that are not what was written: found, and moved out of the way."""

import itertools
from pathlib import Path

from collapse_bench.errors import DamagedError
from collapse_bench.record import (
    MODEL,
    OTHER,
    QUARANTINE,
    RECORD,
    SENTENCES,
    read_record,
    sha256_of,
)
from collapse_bench.writing import telling


def damaged(folder: Path) -> list[tuple[Path, str]]:
    """Which files of a cell are not what was written, each with the reason.

    What a record tells no digest of is not held against one, and what has been removed is not
    damaged.

    Args:
        folder: the cell's.

    Returns:
        Record, arrays or model; of a damaged record that alone, since it tells nothing of the
        others. Empty for a folder without a record.

    Raises:
        UserError: the record is one of another schema.
    """
    path = folder / RECORD
    if not path.exists():
        return []
    try:
        record = read_record(path)
    except DamagedError as error:
        return [(path, str(error))]
    told = {SENTENCES: record.get("sentences_sha256"), MODEL: record.get("model_sha256")}
    found = {folder / name: sha256 for name, sha256 in told.items() if sha256 is not None}
    return [
        (path, f"{path}: {OTHER}")
        for path, sha256 in found.items()
        if sha256_of(path) not in (None, sha256)
    ]


def quarantine(path: Path) -> Path:
    """Move a damaged file of a cell out of its way, to `<suite>/quarantine/<cell>-<file>`.

    Args:
        path: of the file, in the folder of its cell.

    Returns:
        Where it is now; a number is added where another file is called so.

    Raises:
        DiskError: the system refuses to move it.
    """
    folder = path.parent.parent / QUARANTINE
    name = f"{path.parent.name}-{path.name}"
    with telling(folder):
        folder.mkdir(exist_ok=True)
        taken = {each.name for each in folder.iterdir()}
        names = (name if n == 1 else f"{name}-{n}" for n in itertools.count(1))
        return path.rename(folder / next(each for each in names if each not in taken))


def put_aside(folder: Path) -> list[str]:
    """Move the damaged files of a cell out of its way.

    Where neither arrays nor model are left, the record goes, too, and before them: alone it is
    taken for one that was published, which would keep a cell that has lost all.

    Args:
        folder: the cell's, which nobody else works on.

    Returns:
        A line on each file: what is wrong with it, and where it is now.

    Raises:
        DiskError: the system refuses to move one.
    """
    found = damaged(folder)
    path, paths = folder / RECORD, [each for each, _ in found]
    left = [folder / name for name in (SENTENCES, MODEL) if (folder / name).exists()]
    if paths and path not in paths and set(left) <= set(paths):
        found.insert(0, (path, f"{path}: what it was made from is damaged"))
    return [f"{why}; it is now {quarantine(path)}" for path, why in found]
