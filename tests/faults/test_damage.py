"""Whatever a file of a cell has lost, it is noticed, put aside, and made again as it was."""

import hashlib
import itertools
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
import tiny
from scale import FULL, count, told

from collapse_bench import record
from collapse_bench.damage import damaged
from collapse_bench.errors import DamagedError
from collapse_bench.training.checkpoint import RefusedError, read_checkpoint

FILES = (record.RECORD, record.SENTENCES, record.MODEL)

SMALL, ENDS, SPREAD = 10_000, 2000, 997
"""In the full form a file up to so many bytes is cut at every length; every length of a larger one
takes minutes, so it is each of its first and last, and every so many between."""


def lengths(size: int) -> Iterable[int]:
    """At which a file is cut."""
    if not FULL:
        return range(0, size, max(1, size // 60))
    if size <= SMALL:
        return range(size)
    return (*range(ENDS), *range(ENDS, size - ENDS, SPREAD), *range(size - ENDS, size))


def damages(content: bytes, seed: int) -> Iterator[tuple[str, bytes]]:
    """Copies of a file that were cut, or lost a bit anywhere in it."""
    for length in lengths(len(content)):
        yield f"cut at {length}", content[:length]
    draw = random.Random(seed)
    for _ in range(count(60, 1000)):
        bit = draw.randrange(8 * len(content))
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        yield f"bit {bit}", bytes(changed)


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """The folder of a finished cell."""
    assert tiny.try_at(tmp_path)[0].kind == "recorded"
    return tiny.job(tmp_path).folder


def test_every_cut_and_every_bit_of_a_record_are_noticed(finished: Path) -> None:
    path, tried = finished / record.RECORD, 0
    for what, content in damages(path.read_bytes(), 1):
        path.write_bytes(content)
        with pytest.raises(DamagedError, match=str(path)):
            record.read_record(path)
        assert [each for each, _ in damaged(finished)] == [path], what
        tried += 1
    told("a record is cut, or a bit of it flipped", tried, "noticed every time")


@pytest.mark.parametrize("name", [record.SENTENCES, record.MODEL])
def test_every_cut_and_every_bit_of_arrays_and_of_a_model_are_noticed(
    name: str, finished: Path
) -> None:
    path, tried = finished / name, 0
    content = path.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    for what, other in damages(content, 2):
        path.write_bytes(other)
        assert [each for each, _ in damaged(finished)] == [path], what
        if name == record.SENTENCES:
            with pytest.raises(DamagedError, match=str(path)):
                record.read_arrays(finished, sha256)
        tried += 1
    told(f"{name} is cut, or a bit of it flipped", tried, "noticed every time")


def test_every_cut_and_every_bit_of_a_checkpoint_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.often(monkeypatch)
    path, tried = tiny.interrupted(tmp_path, monkeypatch.setattr)[0], 0
    of = read_checkpoint(path, {})["of"]
    assert read_checkpoint(path, of)["run"]
    for _, content in damages(path.read_bytes(), 3):
        path.write_bytes(content)
        with pytest.raises(RefusedError, match="damaged"):
            read_checkpoint(path, of)
        tried += 1
    told("a checkpoint is cut, or a bit of it flipped", tried, "noticed every time")


def _cut(path: Path, draw: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: draw.randrange(path.stat().st_size)])


def _flip(path: Path, draw: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(bytes(content))


HOW: tuple[Callable[[Path, random.Random], None], ...] = (_cut, _flip)

SETS = [names for n in (1, 2, 3) for names in itertools.combinations(FILES, n)]
SETS = SETS if FULL else [*SETS[:3], SETS[5]]
"""Of files that are damaged together: all, or each alone and arrays with their model."""


@pytest.mark.parametrize("names", SETS, ids="+".join)
def test_what_is_damaged_is_put_aside_and_made_again_as_it_was(
    names: tuple[str, ...], finished: Path, tmp_path: Path
) -> None:
    """Of a damaged record nothing is believed: what stands beside it is written anew."""
    draw = random.Random(" ".join(names))
    tiny.assert_equals_whole(tmp_path)
    aside = tmp_path / "tiny" / record.QUARANTINE
    for n in range(count(1, 20)):
        for name in names:
            HOW[n % 2](finished / name, draw)
        there = len(list(aside.iterdir())) if aside.exists() else 0
        outcome, said = tiny.try_at(tmp_path)
        assert outcome.kind == "recorded", (outcome, said)
        tiny.assert_equals_whole(tmp_path)
        noticed = (record.RECORD,) if record.RECORD in names else names
        if len(noticed) == 2:
            noticed = (record.RECORD, *noticed)
        for name in noticed:
            assert any(line.startswith(f"{finished / name}: ") for line in said), said
        assert len(list(aside.iterdir())) - there >= len(noticed)
        assert ("is evaluated again, its model is there" in said) == (
            names == (record.SENTENCES,)
        ), said
        assert tiny.try_at(tmp_path)[0].kind == "kept"
    told(
        f"{' and '.join(names)} of a finished cell damaged",
        count(1, 20),
        "put aside, made again, equal to the last bit",
    )


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_gone_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.whole()
    tiny.often(monkeypatch)
    draw, tried = random.Random(5), 0
    for n, both in itertools.product(range(count(1, 10)), (False, True)):
        out = tmp_path / f"{n}-{both}"
        newest, older = tiny.interrupted(out, monkeypatch.setattr)
        for path in (newest, older)[: 1 + both]:
            HOW[n % 2](path, draw)
        outcome, said = tiny.try_at(out)
        assert outcome.kind == "recorded", outcome
        assert any(line.startswith(f"{newest}: damaged") for line in said), said
        if both:
            assert "begins anew" in said
        else:
            tokens = int(older.stem.removeprefix("checkpoint-"))
            assert f"goes on from {tokens:,} of {tiny.BUDGET:,} tokens" in said
        tiny.assert_equals_whole(out)
        tried += 1
    told(
        "checkpoints of an interrupted cell damaged",
        tried,
        "named; the one before it or none gone on from, equal to the last bit",
    )
