"""Whatever the system refuses, and at whichever operation: nothing is half, and nothing is false.

Every operation of an attempt on a file is made to fail in turn.
"""

import errno
import hashlib
import io
import itertools
import os
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
from safetensors.torch import load_file
from scale import FULL, told

from collapse_bench import record
from collapse_bench.damage import damaged
from collapse_bench.runner.attempt import tidy
from collapse_bench.training import checkpoint

NUMBERS = (errno.EIO, errno.ENOSPC, errno.EACCES)


class Operations:
    """Counts what is done to files in a folder, and lets one operation fail.

    Attributes:
        seen: each as `kind name`, in their order.
    """

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path) -> None:
        self.seen: list[str] = []
        self._folder, self._failing, self._number = str(folder), -1, 0
        for module, name in (
            (os, "open"), (os, "replace"), (os, "rename"), (os, "unlink"), (os, "mkdir"),
        ):  # fmt: skip
            patch.setattr(module, name, self._wrapped(name, getattr(module, name)))
        patch.setattr(os, "fsync", self._of_descriptor(os.fsync))
        patch.setattr(io, "open", self._opened(io.open))
        patch.setattr(Path, "write_bytes", self._half("wb", Path.write_bytes))
        patch.setattr(Path, "write_text", self._half("w", Path.write_text))
        write = checkpoint._Digested.write

        def written(file: Any, some: Any, /) -> int:
            if Path(f"/proc/self/fd/{file.fileno()}").exists():
                self._step("write", os.readlink(f"/proc/self/fd/{file.fileno()}"))
            return write(file, some)

        patch.setattr(checkpoint._Digested, "write", written)

    def fail(self, at: int, number: int) -> None:
        """Begin to count anew, and let that operation fail; -1 is none."""
        self.seen.clear()
        self._failing, self._number = at, number

    def _step(self, kind: str, path: Any) -> None:
        text = os.fspath(path) if isinstance(path, str | os.PathLike) else ""
        if not text.startswith(self._folder) or threading.current_thread() is not _MAIN:
            return
        self.seen.append(f"{kind} {Path(text).name}")
        if len(self.seen) == self._failing + 1:
            raise OSError(self._number, os.strerror(self._number), text)

    def _wrapped(self, kind: str, done: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(path: Any, *args: Any, **kwargs: Any) -> Any:
            self._step(kind, path)
            return done(path, *args, **kwargs)

        return wrapped

    def _of_descriptor(self, done: Callable[[int], None]) -> Callable[[int], None]:
        def wrapped(descriptor: int) -> None:
            self._step("fsync", os.readlink(f"/proc/self/fd/{descriptor}"))
            done(descriptor)

        return wrapped

    def _opened(self, done: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(path: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            if "r" not in mode:
                self._step("open", path)
            return done(path, mode, *args, **kwargs)

        return wrapped

    def _half(self, mode: str, done: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(path: Path, content: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                self._step("write", path)
            except OSError:
                done(path, content[: len(content) // 2], *args, **kwargs)
                raise
            return done(path, content, *args, **kwargs)

        return wrapped


_MAIN = threading.main_thread()


def assert_nothing_is_half(folder: Path) -> None:
    """Whatever has a name was written to its end."""
    assert damaged(folder) == []
    if (folder / record.MODEL).exists():
        load_file(folder / record.MODEL)
    if (folder / record.SENTENCES).exists():
        record.read_arrays(folder)
    for path in folder.glob(record.CHECKPOINTS):
        content = path.read_bytes()
        digest = hashlib.sha256(content[: -checkpoint.DIGEST]).hexdigest().encode()
        assert digest == content[-checkpoint.DIGEST :], path
    if (folder / record.RECORD).exists():
        told = record.read_record(folder / record.RECORD)
        assert told["status"] == "done", told["error"]
        for name, sha256 in (
            (record.MODEL, told["model_sha256"]), (record.SENTENCES, told["sentences_sha256"]),
        ):  # fmt: skip
            assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == sha256


def chosen(seen: list[str]) -> list[tuple[int, int]]:
    """Which operations are made to fail, and how: all in every way, or a spread of them in one way
    each. A checkpoint is written in dozens of pieces: of those the first, the last, and every
    tenth."""
    if FULL:
        inner = {at for at in range(1, len(seen) - 1) if len({*seen[at - 1 : at + 2]}) == 1}
        kept = [at for at in range(len(seen)) if at not in inner or at % 10 == 0]
        return list(itertools.product(kept, NUMBERS))
    some = range(0, len(seen), max(1, len(seen) // 8))
    return [(at, NUMBERS[n % 3]) for n, at in enumerate(some)]


def test_whichever_operation_of_an_attempt_fails_nothing_is_half_and_the_next_one_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.whole()
    tiny.often(monkeypatch)
    operations = Operations(monkeypatch, tmp_path)
    assert tiny.try_at(tmp_path / "healthy")[0].kind == "recorded"
    tiny.assert_equals_whole(tmp_path / "healthy")
    seen, outcomes = list(operations.seen), Counter[str]()
    assert len(seen) > 50
    for at, number in chosen(seen):
        what = f"{errno.errorcode[number]} at {at} of {len(seen)}, {seen[at]}"
        out = tmp_path / f"{at}-{number}"
        operations.fail(at, number)
        outcome, said = tiny.try_at(out)
        operations.fail(-1, 0)
        outcomes[outcome.kind] += 1
        assert_nothing_is_half(tiny.job(out).folder)
        done = (tiny.job(out).folder / record.RECORD).exists()
        if outcome.kind == "disk":
            assert os.strerror(number) in outcome.why, what
            assert str(out) in outcome.why, what
        else:
            assert (outcome.kind, done) == ("recorded", True), f"{what}: {outcome}"
            if "checkpoint-" in seen[at] and not seen[at].startswith("unlink"):
                assert any("no checkpoint at" in line for line in said), what
        outcome, _ = tiny.try_at(out)
        assert outcome.kind == ("kept" if done else "recorded"), f"{what}: {outcome}"
        if done:  # as a run does with what it keeps: checkpoints may be left
            tidy(tiny.job(out))
        tiny.assert_equals_whole(out)
    told(
        "an operation on a file fails with EIO, ENOSPC or EACCES",
        outcomes.total(),
        f"nothing half, nothing false; {dict(outcomes)}; the next attempt equal to the last bit",
    )


@pytest.mark.parametrize("names", [(record.SENTENCES,), (record.RECORD,)])
def test_whichever_operation_fails_as_damage_is_put_aside_nothing_is_lost(
    names: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    operations = Operations(monkeypatch, tmp_path)

    def damage(out: Path) -> None:
        assert tiny.try_at(out)[0].kind == "recorded"
        for name in names:
            path = tiny.job(out).folder / name
            path.write_bytes(path.read_bytes()[:-100])

    damage(tmp_path / "healthy")
    operations.fail(-1, 0)
    assert tiny.try_at(tmp_path / "healthy")[0].kind == "recorded"
    seen = list(operations.seen)
    tried = 0
    for at, number in chosen(seen)[: None if FULL else 4]:
        out = tmp_path / f"{at}-{number}"
        damage(out)
        operations.fail(at, number)
        outcome, _ = tiny.try_at(out)
        operations.fail(-1, 0)
        assert outcome.kind in ("disk", "recorded"), f"{seen[at]}: {outcome}"
        outcome, _ = tiny.try_at(out)
        assert outcome.kind in ("kept", "recorded"), f"{seen[at]}: {outcome}"
        tidy(tiny.job(out))  # as a run does with what it keeps
        tiny.assert_equals_whole(out)
        put_aside = list((out / "tiny" / record.QUARANTINE).iterdir())
        assert len(put_aside) == len(names), seen[at]
        tried += 1
    told(f"the same as a damaged {names[0]} is put aside", tried, "as if nothing had failed")


def test_the_harness_counts_what_an_attempt_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise it could pass without having let anything fail."""
    tiny.often(monkeypatch)
    operations = Operations(monkeypatch, tmp_path)
    tiny.try_at(tmp_path)
    kinds = Counter(each.split()[0] for each in operations.seen)
    assert kinds.keys() == {"mkdir", "open", "write", "fsync", "replace", "unlink"}
    for name in (
        record.RECORD, record.MODEL, record.SENTENCES, record.HISTORY, record.VOCABULARY,
        "checkpoint-", "lease.json", ".lock",
    ):  # fmt: skip
        assert any(name in each for each in operations.seen), name
