"""Files of suites made hostile, reproducibly: the same number gives the same bytes."""

import random
import re
from collections.abc import Callable, Sequence

VALUES = (
    ".nan", ".inf", "-.inf", "nan", "inf", "1e400", "-1e400", "1e-400", "-0.0", "0", "-1", "1.5",
    "9" * 18, "9" * 19, "9" * 5000, "0x7fffffff", "0o17", "1_000", "12:30:45", "2026-01-01", "1e3",
    "null", "~", "true", "no", "''", '""', "{}", "[]", "[[]]", "[{}]", "{a: {b: {c: d}}}",
    "{sweep: [1, 2]}", "{sweep: {sweep: [1, 2]}}", "{sweep: []}", "{1: 2}", "{[1]: 2}",
    "{? {a: b} : c}", "[" * 15 + "]" * 15, "[" * 100, "{" * 100, "&a [1]", "*a", "&a [*a]",
    "!!python/object:os.x {}", "!!python/object/apply:os.system ['touch canary']", "!!binary aGk=",
    "!!set {a, b}", "!x y", "!%0a%1b x", "!<tag:yaml.org,2002:int> 3", "<<: *a", "{<<: {a: b}}",
    '"\\0"', '"\\ud800"', '"\\uDBFF\\uDFFF"', '"\\U00110000"', '"\\e[2J"', '"\\N\\_\\L\\P"',
    "\u202etxt", "\u2028", "../../../etc/passwd", "/dev/zero", "/dev/stdin", "/proc/self/mem",
    "C:\\x", "a" * 65_536, '"' + "\\t" * 30_000 + '"', "|", ">+9", "|-\n  x", "- x", "? x", "@x",
    "`x`", "%x", "'", '"', "#", "word_dropuot", "ptb", "text", "values", "sine_maps", "linear",
    "labels", "language_model", "multi_rate", "free_bits", "__init__", "__class__", "free-bits",
    "None", "os.system", "${HOME}",
)  # fmt: skip
"""What stands in place of a value."""

LINES = (
    "---", "...", "%YAML 9.9", "%TAG ! tag:x,2000:", "%" + "x" * 5000, "seeds: [1, 1]", "<<: {}",
    "corpus: {name: text, path: ../..}", "corpus: {path: /dev/zero, name: values}", "? [a]\n: b",
    "sizes: {hidden: 999999999999999999}", "training: {budget: {ptb: 1e9}}", "entries: *a",
    "a: &a b", "seeds: [-1]", "seeds: [9.5]", "seeds: 1", "architectures: []", "  \t x: 1",
    "\ufeffseeds: [1]", "entries: []", "entries: {}",
    "  x: [{free_bits: {target: {sweep: [1, 2, 3]}}}]", "\u0085", "- a",
    "  vae: {remedies: [vae], latent: 3}", "  ../x: []", "  '': []", "  CON: []",
    "  a: [a: b, c: d]",
)  # fmt: skip
"""What stands between lines."""

BYTES = (
    b"\0", b"\x7f", b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\t", b"\r", b"\x0b", b"\xe2\x80\xae",
    b"\xef\xbb\xbf", b"\xf0\x9f\x92\xa9", b"\x1b[31m", b"{", b"}", b"[", b"]", b":", b",", b"'",
    b'"', b"&", b"*", b"!", b"|", b"%", b"@", b"`", b"\\", b"\n", b" ", b"#", b"-", b"?",
)  # fmt: skip
"""What stands between bytes."""

_VALUE = re.compile(rb"(?<=[:\[,{] )[^\s,\[\]{}#]+|(?<=[\[{])[^\s,\[\]{}#]+")
Mutation = Callable[[random.Random, bytes], bytes]


def mutated(number: int, files: Sequence[bytes]) -> bytes:
    """One of the files after one to three mutations, which its number decides."""
    rng = random.Random(number)
    content = files[number % len(files)]
    for _ in range(rng.randint(1, 3)):
        content = rng.choice(MUTATIONS)(rng, content)
    return content


def _value(rng: random.Random, content: bytes) -> bytes:
    """Another value, or another name, in place of one."""
    found = list(_VALUE.finditer(content))
    if not found:
        return content
    start, end = rng.choice(found).span()
    return content[:start] + rng.choice(VALUES).encode() + content[end:]


def _other_place(rng: random.Random, content: bytes) -> bytes:
    """A value of this file in place of another one of it."""
    found = list(_VALUE.finditer(content))
    if not found:
        return content
    start, end = rng.choice(found).span()
    return content[:start] + rng.choice(found)[0] + content[end:]


def _line(rng: random.Random, content: bytes) -> bytes:
    lines = content.split(b"\n")
    lines.insert(rng.randrange(len(lines) + 1), rng.choice(LINES).encode())
    return b"\n".join(lines)


def _without_lines(rng: random.Random, content: bytes) -> bytes:
    lines = content.split(b"\n")
    start = rng.randrange(len(lines))
    del lines[start : start + rng.randint(1, 3)]
    return b"\n".join(lines)


def _repeated_lines(rng: random.Random, content: bytes) -> bytes:
    lines = content.split(b"\n")
    start, end = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[end:end] = lines[start : start + rng.randint(1, 3)] * rng.choice([1, 1, 50])
    return b"\n".join(lines)


def _indented(rng: random.Random, content: bytes) -> bytes:
    lines = content.split(b"\n")
    place = rng.randrange(len(lines))
    lines[place] = rng.choice([b" ", b"   ", b"\t"]) + lines[place].lstrip()
    return b"\n".join(lines)


def _bytes(rng: random.Random, content: bytes) -> bytes:
    place = rng.randrange(len(content) + 1)
    return content[:place] + rng.choice(BYTES) * rng.choice([1, 1, 1, 300]) + content[place:]


def _without_bytes(rng: random.Random, content: bytes) -> bytes:
    place = rng.randrange(len(content) + 1)
    return content[:place] + content[place + rng.choice([1, 1, 2, 30]) :]


def _repeated_bytes(rng: random.Random, content: bytes) -> bytes:
    start = rng.randrange(len(content) + 1)
    part = content[start : start + rng.randint(1, 40)] * rng.choice([1, 2, 500])
    return content[:start] + part + content[start:]


def _flipped_bit(rng: random.Random, content: bytes) -> bytes:
    if not content:
        return content
    place = rng.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]


def _cut_off(rng: random.Random, content: bytes) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def _otherwise_encoded(rng: random.Random, content: bytes) -> bytes:
    text = content.decode("utf-8", errors="replace")
    encodings = ("utf-16", "utf-16-le", "utf-32", "utf-7", "utf-8-sig", "cp1252")
    return text.encode(rng.choice(encodings), errors="replace")


MUTATIONS: tuple[Mutation, ...] = (
    *(_value,) * 6, *(_other_place,) * 2, *(_line,) * 3, _without_lines, _repeated_lines, _indented,
    *(_bytes,) * 2, _without_bytes, _repeated_bytes, _flipped_bit, _cut_off, _otherwise_encoded,
)  # fmt: skip
"""Those that leave the file readable are drawn more often: what they reach lies deeper."""
