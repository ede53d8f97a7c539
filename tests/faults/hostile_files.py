"""Crafted files for every place where the bench reads one that it wrote; none of them is run."""

import builtins
import collections
import hashlib
import io
import json
import os
import pickle
import shutil
import struct
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from collapse_bench.corpus.vocabulary import Vocabulary

GIB = 2**30


class Calls:
    """What calls a function with arguments when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self.called = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return self.called


def calls(canary: str) -> dict[str, Calls]:
    """Ways to make a file, or to take one away, by running what is in a pickle."""
    script = f"open({canary!r}, 'w').close()"
    return {
        "os.system": Calls(os.system, f"touch {canary}"),
        "os.mkdir": Calls(os.mkdir, canary),
        "os.mknod": Calls(os.mknod, canary),
        "open": Calls(open, canary, "w"),
        "eval": Calls(eval, script),
        "exec": Calls(exec, script),
        "__import__": Calls(builtins.__import__, "antigravity"),
        "subprocess.Popen": Calls(subprocess.Popen, ["touch", canary]),
        "subprocess.check_output": Calls(subprocess.check_output, ["touch", canary]),
        "shutil.copy": Calls(shutil.copy, "/dev/null", canary),
        "pickle.loads": Calls(pickle.loads, pickle.dumps(Calls(os.mkdir, canary))),
        "torch.load": Calls(torch.load, canary),
        "np.save": Calls(np.save, canary, [1]),
    }


def archive(
    content: object, *, compressed: bool = False, name: str = "archive", **more: bytes
) -> bytes:
    """A checkpoint as torch lays it out, whatever is pickled in it, with its digest."""
    pickled = content if isinstance(content, bytes) else pickle.dumps(content, protocol=2)
    buffer = io.BytesIO()
    how = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with zipfile.ZipFile(buffer, "w", how) as file:
        file.writestr(f"{name}/data.pkl", pickled)
        file.writestr(f"{name}/byteorder", b"little")
        for path, data in more.items():
            file.writestr(f"{name}/{path.replace('__', '/')}", data)
        file.writestr(f"{name}/version", b"3\n")
    return digested(buffer.getvalue())


def digested(content: bytes) -> bytes:
    """The content with the digest that a checkpoint ends in."""
    return content + hashlib.sha256(content).hexdigest().encode()


class Tensor:
    """What is unpickled as a tensor of this many floats over a storage that says to have as many
    as it likes."""

    def __init__(self, size: int, stored: int, offset: int = 0) -> None:
        self.size, self.stored, self.offset = size, stored, offset

    def __reduce__(self) -> tuple[Any, ...]:
        arguments = (Storage(self.stored), self.offset, (self.size,), (1,), False,
                     collections.OrderedDict())  # fmt: skip
        return torch._utils._rebuild_tensor_v2, arguments


class Storage:
    """Pickled as torch pickles one: by a persistent id."""

    def __init__(self, stored: int) -> None:
        self.stored = stored


class _Pickler(pickle.Pickler):
    def persistent_id(self, thing: object) -> object:
        if isinstance(thing, Storage):
            return ("storage", torch.FloatStorage, "0", "cpu", thing.stored)
        return None


def with_tensors(content: object) -> bytes:
    """A pickle whose storages torch looks for in the archive."""
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=2).dump(content)
    return buffer.getvalue()


def laughs(depth: int = 40) -> object:
    """A tuple of 2^40 texts, in forty steps."""
    laugh: object = ("ha",)
    for _ in range(depth):
        laugh = (laugh, laugh)
    return laugh


def tar() -> bytes:
    """The format of torch before 0.1.10."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for name in ("storages", "tensors", "pickle"):
            data = pickle.dumps(Calls(os.system, "true"))
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def checkpoints(canary: str) -> dict[str, bytes]:
    """Each with a right digest at its end."""
    called = calls(canary)
    first = called["os.system"]
    legacy = b"".join(
        pickle.dumps(part, protocol=2)
        for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, first, [])
    )
    good = {"of": {}, "run": 1}
    return {
        **{f"{name} in an archive": archive({"of": call}) for name, call in called.items()},
        "in a tuple of dicts": archive({"of": {"a": ({"b": [first]},)}}),
        "as a key": archive({first: 1}),
        "in protocol 4": archive(pickle.dumps(first, protocol=4)),
        "in protocol 5": archive(pickle.dumps(first, protocol=5)),
        "in protocol 0": archive(pickle.dumps(first, protocol=0)),
        "no archive": digested(pickle.dumps(first)),
        "an archive after a pickle": digested(pickle.dumps(first) + archive({"of": first})),
        "the legacy format": digested(legacy),
        "a tar": digested(tar()),
        "names that leave the folder": archive({"of": first}, name="../../x"),
        "a compressed archive": archive({"of": {"a": "x" * 10**6}}, compressed=True),
        "a compressed storage": archive(
            with_tensors({"of": {}, "run": Tensor(10**7, 10**7)}),
            compressed=True, data__0=bytes(4 * 10**7),
        ),
        "a storage that is not there": archive(with_tensors({"of": {}, "run": Tensor(9, 9)})),
        "a storage larger than its bytes": archive(
            with_tensors({"of": {}, "run": Tensor(2, 2**40)}), data__0=bytes(8)
        ),
        "a tensor larger than its storage": archive(
            with_tensors({"of": {}, "run": Tensor(2**40, 2)}), data__0=bytes(8)
        ),
        "a tensor before its storage": archive(
            with_tensors({"of": {}, "run": Tensor(2, 2, -8)}), data__0=bytes(8)
        ),
        "a list": archive([1]),
        "nothing": archive(None),
        "of nothing": archive({"run": 1}),
        "of a list": archive({"of": [1]}),
        "of numbers": archive({"of": {"cell": 1}}),
        "a billion laughs": archive({"of": {"cell": laughs()}}),
        "a text of 2^31 bytes that is not there": archive(b"\x80\x02X\xff\xff\xff\x7f."),
        "a stack that is not there": archive(b"\x80\x02000."),
        "a memo that is not there": archive(b"\x80\x02h\xff."),
        "a place of the memo that is far": archive(b"\x80\x02Nr\xff\xff\xff\x7f."),
        "a hundred thousand lists": archive(b"\x80\x02" + b"]" * 10**5 + b"a" * (10**5 - 1) + b"."),
        "cut off": digested(archive(good)[:200]),
        "no bytes": digested(b""),
        "zeros": digested(bytes(10**5)),
    }  # fmt: skip


def safetensors(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    """A file of tensors with this header, and what is said to be its length."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def _floats(start: int, end: int, shape: list[int], kind: str = "F32") -> dict[str, Any]:
    return {"dtype": kind, "shape": shape, "data_offsets": [start, end]}


def models(canary: str) -> dict[str, bytes]:
    """Files of weights."""
    one = _floats(0, 8, [2])
    return {
        "a pickle": pickle.dumps(calls(canary)["os.system"]),
        "an archive of torch": archive({"a": calls(canary)["os.system"]}),
        "no bytes": b"",
        "a header of 2^63 bytes": safetensors({"a": one}, bytes(8), 2**63),
        "a header of 2^64 - 1 bytes": safetensors({"a": one}, bytes(8), 2**64 - 1),
        "a header of 200 MB": safetensors({"a": one}, bytes(8), 200 * 10**6),
        "a header of no bytes": safetensors({"a": one}, bytes(8), 0),
        "offsets that overlap": safetensors({"a": one, "b": _floats(4, 12, [2])}, bytes(12)),
        "offsets that run back": safetensors({"a": _floats(8, 0, [2])}, bytes(8)),
        "offsets below zero": safetensors({"a": _floats(-8, 0, [2])}, bytes(8)),
        "offsets beyond the end": safetensors({"a": _floats(0, 2**40, [2**38])}, bytes(8)),
        "a shape that overflows": safetensors({"a": _floats(0, 8, [2**33, 2**33])}, bytes(8)),
        "bytes after the last tensor": safetensors({"a": one}, bytes(16)),
        "a gap": safetensors({"a": one, "b": _floats(16, 24, [2])}, bytes(24)),
        "an unknown kind of number": safetensors({"a": _floats(0, 8, [2], "O")}, bytes(8)),
        "a tensor twice": safetensors(
            b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},' * 2 + b'"a":1}', bytes(8)
        ),
        "a header of lists": safetensors(b"[" * 10**6),
        "other weights": safetensors({"a": one}, bytes(8)),
    }


def npy(header: bytes, data: bytes = b"") -> bytes:
    """A file of numpy's with this header."""
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def npz(**members: bytes) -> bytes:
    """An archive of such files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, data in members.items():
            file.writestr(f"{name}.npy", data)
    return buffer.getvalue()


def _saved(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def compressed_zeros(size: int) -> bytes:
    """A valid array, a thousandth of its size on the disk."""
    buffer = io.BytesIO()
    head = npy(b"{'descr': '|i1', 'fortran_order': False, 'shape': (%d,), }\n" % size)
    with (
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file,
        file.open("a.npy", "w", force_zip64=True) as member,
    ):
        member.write(head)
        for _ in range(size // 10**6):
            member.write(bytes(10**6))
    return buffer.getvalue()


def arrays(canary: str) -> dict[str, bytes]:
    """Files of arrays."""
    call = calls(canary)["os.system"]
    header = b"{'descr': %s, 'fortran_order': False, 'shape': %s, }\n"
    nested = np.zeros(1, dtype=[("a", object)])
    nested["a"][0] = call
    return {
        "a pickle": pickle.dumps(call),
        "an array of objects": npz(a=_saved(np.array([call], dtype=object))),
        "objects in fields": npz(a=_saved(nested)),
        "a member that is a pickle": npz(a=pickle.dumps(call)),
        "a single array of objects": _saved(np.array([call], dtype=object)),
        "a header that is code": npz(a=npy(b"__import__('os').system('true')\n")),
        "a header that computes": npz(a=npy(header % (b"'<f8'", b"(9**9**9,)"))),
        "a header of brackets": npz(a=npy(b"(" * 9000)),
        "2^60 numbers": npz(
            a=npy(header % (b"'<f8'", b"(2**60,)".replace(b"2**60", b"%d" % 2**60)))
        ),
        "fewer than no numbers": npz(a=npy(header % (b"'<f8'", b"(-5,)"), bytes(8))),
        "numbers that are not there": npz(a=npy(header % (b"'<f8'", b"(100,)"), bytes(8))),
        "an unknown kind of number": npz(a=npy(header % (b"'<zz'", b"(1,)"), bytes(8))),
        "zeros, compressed": compressed_zeros(10**7),
        "an archive that is cut off": npz(a=_saved(np.zeros(99)))[:300],
        "no bytes": b"",
    }


def vocabularies(canary: str) -> dict[str, bytes]:
    """Files of words."""
    good = json.loads(Vocabulary.of_words(["a b c"]).tokenizer.to_str())

    def like(**changes: object) -> bytes:
        return json.dumps(good | changes).encode()

    def words(**ids: int) -> bytes:
        return like(model=good["model"] | {"vocab": ids})

    merged = {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": [["a", "b"]]}
    return {
        "a pickle": pickle.dumps(calls(canary)["os.system"]),
        "no bytes": b"",
        "zeros": bytes(1000),
        "a million brackets": b"[" * 10**6,
        "a million mappings": b'{"a":' * 10**6,
        "a regular expression that is none": like(
            normalizer={"type": "Replace", "pattern": {"Regex": "(("}, "content": "x"}
        ),
        "a table at which the library panics": like(
            normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}
        ),
        "merges at which the library panics": like(model=merged),
        "an id of 2^32 - 1": words(a=2**32 - 1),
        "an id of 2^64": words(a=2**64),
        "an id below zero": words(a=-1),
        "no special words": words(a=0),
        "no words": words(),
        "a model of another kind": like(model={"type": "Unigram", "vocab": [["a", 1.0]]}),
        "JSON of another kind": b'{"schema": 3}',
    }


def records(canary: str) -> dict[str, bytes]:
    """Files of records."""
    return {
        "a pickle": pickle.dumps(calls(canary)["os.system"]),
        "no bytes": b"",
        "zeros": bytes(1000),
        "a list": b"[3]",
        "a text": b'"schema"',
        "a hundred thousand brackets": b"[" * 10**5,
        "a schema of 5,000 digits": b'{"schema": %s}' % (b"9" * 5000),
        "a schema that is true": b'{"schema": [3]}',
        "a metric that is a mapping": b'{"schema": 3, "metrics": {"nll@2": {"a": 1}}}',
        "metrics that are a list": b'{"schema": 3, "metrics": [1]}',
    }


PLACES: Mapping[str, Callable[[str], dict[str, bytes]]] = {
    "checkpoint": checkpoints,
    "model.safetensors": models,
    "sentences.npz": arrays,
    "vocabulary.json": vocabularies,
    "record.json": records,
}
"""Where each kind of file is read: what it is -> the crafted ones, given a file to be made."""
