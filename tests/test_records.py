"""Files of a cell: whatever is edited, cut short or decayed is noticed, and nothing is lost."""

import errno
import json
import os
import random
from pathlib import Path

import numpy as np
import pytest

from collapse_bench.damage import damaged, quarantine
from collapse_bench.errors import DamagedError, DiskError, UserError
from collapse_bench.record import (
    MODEL,
    OLDEST,
    RECORD,
    SCHEMA,
    SENTENCES,
    read_record,
    read_records,
    text_of,
    write_arrays,
    write_model,
    write_record,
)
from collapse_bench.suite import id_of
from collapse_bench.writing import replacing

PUBLISHED = Path(__file__).parents[1] / "leaderboard"


def contents(**changes):
    """A record with what a digest could stumble on: small and large numbers, names, nothing."""
    return {
        "schema": SCHEMA,
        "cell": "vae-lstm-1-00c0ffee",
        "status": "done",
        "error": None,
        "latent": 16,
        "metrics": {"nll@2": 68.36172567093969, "kl@1": 1e-05, "units@1": 0.0, "ess@2": 3e22},
        "standard_errors": {"kl@1": 0.1 + 0.2},
        "entry": 'Zoë\'s "own" \\ vae',
        "attempts": [],
        **changes,
    }  # fmt: skip


@pytest.fixture(params=[False, True], ids=["of a run", "published"])
def path(request, tmp_path):
    """A record in both layouts."""
    path = tmp_path / RECORD
    path.write_text(text_of(contents(), sort_keys=request.param), encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path):
    """A cell's folder with record, arrays and model."""
    import torch

    folder = tmp_path / "trial" / "vae-lstm-1-00c0ffee"
    arrays = write_arrays(folder, {"kl": np.arange(3.0)})
    model = write_model(folder, {"weight": torch.ones(3)})
    write_record(folder, contents(sentences_sha256=arrays, model_sha256=model))
    return folder


def flip(path, bit):
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


# The digest


def test_a_record_is_read_as_it_was_written_with_its_digest_last(tmp_path):
    write_record(tmp_path, contents())
    assert read_record(tmp_path / RECORD) == contents()
    assert list(json.loads((tmp_path / RECORD).read_text()))[-1] == "sha256"


def test_a_record_that_was_read_is_written_as_the_same_bytes(path):
    published = list(json.loads(path.read_text())) != [*contents(), "sha256"]
    assert text_of(read_record(path), sort_keys=published) == path.read_text()


def test_what_json_does_not_keep_has_the_digest_of_what_is_kept(tmp_path):
    """Numbers as keys are sorted otherwise than the texts that they become."""
    write_record(tmp_path, contents(state={10: (1, 2), 9: ()}))
    assert read_record(tmp_path / RECORD)["state"] == {"10": [1, 2], "9": []}


def test_a_record_that_is_cut_anywhere_is_damaged(path):
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedError, match=RECORD):
            read_record(path)


def test_every_flip_of_a_bit_is_noticed(path):
    whole, draws = path.read_bytes(), random.Random(1)
    for bit in draws.sample(range(8 * len(whole)), 1000):
        flip(path, bit)
        with pytest.raises(DamagedError, match=RECORD):
            read_record(path)
        path.write_bytes(whole)
    assert read_record(path) == contents()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("1e-05", "1E-05"),
        ("1e-05", "0.00001"),
        ('"latent": 16', '"latent":16'),
        ('"latent": 16', '"latent": 16.0'),
        ("\\u00eb", "\\u00EB"),
        ("\n", "\r\n"),
        ("}\n", "}"),
        ("}\n", "}\n\n"),
        ('"latent": 16', '"latent": 17,\n "latent": 16'),
        (f'"schema": {SCHEMA}', f'"schema": {OLDEST}'),
        (f'"schema": {SCHEMA}', f'"schema": {SCHEMA + 1}'),
        ('"sha256"', '"sha257"'),
        ("16", "32"),
    ],
)
def test_an_edit_by_hand_is_noticed_also_where_it_says_the_same(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_bytes(text.replace(old, new).encode())
    with pytest.raises(DamagedError, match="run the suite again"):
        read_record(path)


def test_a_record_without_its_digest_is_damaged(path):
    path.write_text(json.dumps(contents(), indent=1) + "\n")
    with pytest.raises(DamagedError, match="its sha256 is missing"):
        read_record(path)


def test_a_record_of_the_schema_before_has_no_digest_and_is_believed(tmp_path):
    write_record(tmp_path, contents(schema=OLDEST))
    assert "sha256" not in (tmp_path / RECORD).read_text()
    assert read_record(tmp_path / RECORD) == contents(schema=OLDEST)
    (tmp_path / RECORD).write_text(json.dumps(contents(schema=OLDEST)))
    assert read_record(tmp_path / RECORD) == contents(schema=OLDEST)
    with pytest.raises(UserError, match=f"a record of schema {OLDEST}"):
        read_record(tmp_path / RECORD, SCHEMA)


def test_every_published_record_is_read_and_its_id_is_that_of_its_settings():
    paths = list(PUBLISHED.glob("*/*-*.json"))
    assert len(paths) > 300
    for path in paths:
        record = read_record(path)
        assert id_of(record["entry"], record["settings"]) == record["cell"] == path.stem


@pytest.mark.parametrize("part", ["metrics", "standard_errors"])
@pytest.mark.parametrize("schema", [OLDEST, SCHEMA])
@pytest.mark.parametrize("value", ["3.2", True, float("nan"), float("-inf"), [1.0]])
def test_what_is_no_number_is_told_with_its_name(tmp_path, part, schema, value):
    sealed = json.loads(text_of(contents(schema=schema, **{part: {"kl@1": 7.5}})))
    sealed[part]["kl@1"] = value
    (tmp_path / RECORD).write_text(json.dumps(sealed, indent=1) + "\n")
    with pytest.raises(DamagedError) as caught:
        read_record(tmp_path / RECORD)
    assert schema == SCHEMA or "kl@1 must be" in str(caught.value)


# Arrays and model, and where damaged files go


def test_an_untouched_cell_has_no_damage(folder):
    assert damaged(folder) == []
    assert damaged(folder.parent / "nowhere") == []


@pytest.mark.parametrize("name", [RECORD, SENTENCES, MODEL])
def test_a_flipped_bit_in_a_file_of_a_cell_is_told_with_the_file(folder, name):
    flip(folder / name, 8 * 40)
    [(path, why)] = damaged(folder)
    assert path == folder / name
    assert why.startswith(f"{path}: ")
    assert "SHA-256" in why or name == RECORD


def test_what_was_removed_or_has_no_digest_is_not_damaged(folder):
    (folder / SENTENCES).unlink()
    (folder / MODEL).unlink()
    assert damaged(folder) == []
    write_record(folder, contents(schema=OLDEST))
    (folder / MODEL).write_bytes(b"anything")
    assert damaged(folder) == []


def test_a_record_of_another_schema_is_no_damage_and_is_told(folder):
    (folder / RECORD).write_text('{"schema": 1}')
    with pytest.raises(UserError, match="schema 1") as caught:
        damaged(folder)
    assert not isinstance(caught.value, DamagedError)


def test_a_damaged_file_is_moved_and_never_onto_another(folder):
    names = []
    for content in (b"one", b"two", b"three"):
        (folder / RECORD).write_bytes(content)
        moved = quarantine(folder / RECORD)
        assert moved.read_bytes() == content
        assert not (folder / RECORD).exists()
        names.append(moved.name)
    first = f"{folder.name}-{RECORD}"
    assert names == [first, f"{first}-2", f"{first}-3"]
    assert len(list((folder.parent / "quarantine").iterdir())) == 3


def test_what_is_in_quarantine_is_no_record_of_the_suite(folder):
    write_record(folder.parent / "other", contents(cell="other"))
    quarantine(folder.parent / "other" / RECORD)
    (folder.parent / "other").rmdir()
    write_record(folder.parent / "quarantine", contents(cell="quarantine"))
    assert [each["cell"] for each in read_records(folder.parent)] == [folder.name]


# Writing


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "made" / "file"
    with replacing(path) as temporary:
        temporary.write_text("first")
        assert not path.exists()
    with pytest.raises(UnicodeEncodeError), replacing(path) as temporary:
        temporary.write_text("second\ud800")
    assert path.read_text() == "first"
    assert os.listdir(path.parent) == ["file"]


def test_two_that_write_the_same_file_have_two_temporary_files(tmp_path):
    with replacing(tmp_path / "file") as one, replacing(tmp_path / "file") as other:
        one.write_text("one")
        other.write_text("other")
        assert one.name != other.name
        assert one.name.startswith(f".file.{os.getpid()}.")


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("at", ["fsync", "replace", "open"])
def test_a_full_disk_is_told_with_the_file_and_the_room(tmp_path, monkeypatch, at):
    (tmp_path / RECORD).write_text("before")
    with monkeypatch.context() as patch:
        patch.setattr(os, at, full)
        with pytest.raises(DiskError, match=r"No space left on device; [0-9,]+ bytes") as caught:
            write_record(tmp_path, contents())
    assert str(caught.value).startswith(f"{tmp_path / RECORD}: cannot be written: ")
    assert caught.value.exit_code == 5
    assert os.listdir(tmp_path) == [RECORD]
    assert (tmp_path / RECORD).read_text() == "before"


@pytest.mark.parametrize(
    "told",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        RuntimeError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_library_that_meets_a_full_disk_is_understood(tmp_path, told):
    with pytest.raises(DiskError, match="No space left on device"), replacing(tmp_path / "a"):
        raise RuntimeError("writing failed") from told
    with pytest.raises(RuntimeError, match="of its own"), replacing(tmp_path / "a"):
        raise RuntimeError("of its own")


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match="make room, or the folder writable"):
        write_record(tmp_path / "file" / "cell", contents())
