"""Crafted suites, one idea each: what is written, in which line it is told, and a part of how."""

from collections.abc import Callable

BASE = """\
corpus: {name: newswire, sentences: 200}
architectures: [lstm]
sizes: {embedding: 8, hidden: 8, latent: 2}
training: {budget: 4000, learning_rate: 1e-3}
evaluation: {samples: 4}
seeds: [1]
entries:
  vae: []
  free: [{free_bits: {target: 2}}]
  drop: [{word_dropout: {rate: {sweep: [0.1, 0.5]}}}]
"""

Crafted = tuple[bytes, int, str]


def _with(old: str, new: str, line: int, part: str) -> Crafted:
    assert BASE.count(old) == 1, old
    return BASE.replace(old, new).encode(), line, part


def _whole(content: str | bytes, line: int, part: str) -> Crafted:
    return content.encode() if isinstance(content, str) else content, line, part


def _after(text: str | bytes, part: str, line: int = 11) -> Crafted:
    return BASE.encode() + (text.encode() if isinstance(text, str) else text), line, part


_RATE, _SEEDS, _TARGET, _VAE = "1e-3", "[1]", "target: 2", "vae: []"

SUITES: dict[str, Crafted] = {
    # numbers that are none
    "nan": _with(_RATE, ".nan", 4, "learning_rate must be a number above 0, not nan"),
    "infinity": _with(_RATE, ".inf", 4, "above 0, not inf"),
    "minus infinity": _with(_RATE, "-.Inf", 4, "above 0, not -inf"),
    "nan of YAML 1.1 is a text": _with(_RATE, "nan", 4, "not 'nan'"),
    "1e400": _with(_RATE, "1e400", 4, "above 0, not inf"),
    "1e-400 is 0": _with(_RATE, "1e-400", 4, "above 0, not 0.0"),
    "minus zero": _with(_RATE, "-0.0", 4, "above 0, not -0.0"),
    "5,000 digits": _with("4000", "9" * 5000, 4, "not inf"),
    "20 digits": _with("4000", "9" * 20, 4, "a whole number at least 1"),
    "underscores": _with("4000", "4_000", 4, "without quotes or underscores"),
    "hexadecimal": _with("4000", "0x10", 4, "not '0x10'"),
    "octal": _with("4000", "0o17", 4, "not '0o17'"),
    "sexagesimal": _with("4000", "1:30:00", 4, "not '1:30:00'"),
    "a date": _with("4000", "2026-01-01", 4, "not '2026-01-01'"),
    "other digits": _with("4000", "\u0664\u0660\u0660", 4, "a whole number at least 1"),
    "a whole float": _with("4000", "4e3", 4, "not 4000.0; write 4000"),
    "a huge whole float": _with("4000", "1e300", 4, "write the digits out"),
    "true for a number": _with("4000", "true", 4, "not True"),
    "null for a number": _with("4000", "~", 4, "not null"),
    "a quoted number": _with("4000", '"4000"', 4, "without quotes"),
    "nan in a sweep": _with("[0.1, 0.5]", "[0.1, .nan]", 10, "between 0 and 1, not nan"),
    "nan of a remedy": _with(_TARGET, "target: .nan", 9, "not nan"),
    "a seed below 0": _with(_SEEDS, "[-1]", 6, "not [-1]"),
    "a seed of 20 digits": _with(_SEEDS, f"[{'9' * 20}]", 6, "a whole number at least 0"),
    "nan as a seed": _with(_SEEDS, "[.nan]", 6, "not [nan]"),
    "a seed twice": _with(_SEEDS, "[1, 001]", 6, "must not repeat 1"),
    # other kinds of values
    "a list for a mapping": _with("{samples: 4}", "[4]", 5, "evaluation must be a mapping"),
    "a text for a mapping": _with("{samples: 4}", "samples", 5, "not 'samples'"),
    "a mapping for a list": _with(_SEEDS, "{1: 2}", 6, "seeds must be a list"),
    "a list in a list": _with(_SEEDS, "[[1]]", 6, "not [[1]]"),
    "a mapping for a number": _with("samples: 4", "samples: {a: 4}", 5, "not {'a': 4}"),
    "a list for a number": _with("samples: 4", "samples: [4]", 5, "not [4]"),
    "a mapping for a text": _with("name: newswire", "name: {a: b}", 1, "not {'a': 'b'}"),
    "a number for a text": _with("name: newswire", "name: 3", 1, "not 3"),
    "null for all sizes": _with("{embedding: 8, hidden: 8, latent: 2}", "", 3, "not null"),
    "an entry that is true": _with(_VAE, "vae: true", 8, "not True"),
    "an entry that is a number": _with(_VAE, "vae: .inf", 8, "not inf"),
    "a list of lists of remedies": _with(_VAE, "vae: [[]]", 8, "a remedy must be a name"),
    "a remedy that is null": _with(_VAE, "vae: [~]", 8, "not null"),
    "a remedy that is empty": _with(_VAE, "vae: ['']", 8, "unknown remedy ''"),
    "settings that are a list": _with("{target: 2}", "[target]", 9, "must be a mapping"),
    "a sweep in a sweep": _with("[0.1, 0.5]", "[{sweep: [0, 1]}, 0.5]", 10, "between 0 and 1"),
    "a sweep of a mapping": _with("[0.1, 0.5]", "{a: b}", 10, "{sweep: [value, value, ...]}"),
    "a sweep of nothing": _with("[0.1, 0.5]", "[]", 10, "2 values or more, not 0"),
    "a budget for a number": _with("4000", "{1: 2}", 4, "a mapping from"),
    "a budget for nobody": _with("4000", "{}", 4, "for newswire"),
    # names
    "a remedy by path": _with(_VAE, "vae: [../../remedy]", 8, "unknown remedy '../../remedy'"),
    "a remedy of Python": _with(_VAE, "vae: [__import__]", 8, "unknown remedy '__import__'"),
    "a remedy by module": _with(_VAE, "vae: [os.system]", 8, "unknown remedy 'os.system'"),
    "a hidden file as a remedy": _with(_VAE, "vae: [__init__]", 8, "unknown remedy '__init__'"),
    "a dunder as a setting": _with(_TARGET, "__class__: 2", 9, "unknown setting '__class__'"),
    "a method as a setting": _with(_TARGET, "objective: 2", 9, "unknown setting 'objective'"),
    "an entry that leaves its folder": _with("  vae:", "  ../../vae:", 8, "entry '../../vae'"),
    "an entry from the root": _with("  vae:", "  /tmp/vae:", 8, "entry '/tmp/vae'"),
    "an entry of dots": _with("  vae:", "  ..:", 8, "entry '..'"),
    "an entry of nothing": _with("  vae:", "  '':", 8, "entry ''"),
    "an entry of a blank": _with("  vae:", "  ' ':", 8, "entry ' '"),
    "an entry that is an option": _with("  vae:", "  --out:", 8, "entry '--out'"),
    "an entry with a slash": _with("  vae:", "  a/b:", 8, "entry 'a/b'"),
    "an entry in capitals": _with("  vae:", "  VAE:", 8, "entry 'VAE'"),
    "an entry in other letters": _with("  vae:", "  v\u0430e:", 8, "1 to 64 characters of a-z"),
    "an entry of 64 KiB": _with("  vae:", f"  ? {'v' * 65_536}\n  :", 8, "vvv...: the name"),
    "a NUL in a name": _with("  vae:", '  "v\\0ae":', 8, "one line of printable characters"),
    "an escape in a name": _with("  vae:", '  "\\e[2Jvae":', 8, "one line of printable"),
    "a line break in a name": _with("  vae:", '  "v\\nae":', 8, "'v\\nae'"),
    "bidi in a name": _with("  vae:", "  v\u202eae:", 8, "'v\\u202eae'"),
    "a zero-width name": _with("  vae:", "  v\u200bae:", 8, "'v\\u200bae'"),
    "a lone surrogate": _with("  vae:", '  "\\ud800":', 8, "'\\ud800'"),
    "a character beyond Unicode": _with("  vae:", '  "\\UFFFFFFFF":', 1, "is not YAML"),
    "an unknown corpus": _with("name: newswire", "name: /etc/passwd", 1, "not '/etc/passwd'"),
    "a path for what is built in": _with("sentences: 200", "path: /dev/null", 1, "path must not"),
    "a path of two lines": _with("sentences: 200", 'path: "a\\nb"', 1, "one line of printable"),
    "an unknown section": _with("seeds:", "__builtins__:", 6, "unknown setting '__builtins__'"),
    "a section of 64 KiB": _after(f"? {'s' * 65_536}\n: 1\n", "'sss"),
    "a section of a text": _with("{samples: 4}", "x" * 65_536, 5, "not 'xxx"),
    # YAML that computes
    "a Python object": _with(_VAE, "vae: !!python/object:os.x {}", 8, "tags such as"),
    "a Python call": _with(
        _VAE, "vae: !!python/object/apply:os.system [touch canary]", 8, "python/object/apply:os.sys"
    ),
    "a Python name": _with(_VAE, "vae: !!python/name:os.system", 8, "tags such as"),
    "a tag with a line break": _with(_VAE, "vae: !a%0ab []", 8, "tags such as !a\\nb"),
    "a tag of 64 KiB": _with(_VAE, f"vae: !{'t' * 65_536} []", 8, "ttt... are not read"),
    "binary": _with("name: newswire", "name: !!binary aGk=", 1, "2002:binary"),
    "a set": _with(_SEEDS, "!!set {1}", 6, "2002:set"),
    "a tag of one's own": _after("%TAG ! tag:x,2000:\n", "is not YAML", line=12),
    "an anchor": _with(_SEEDS, "&a [1]", 6, "anchors such as &a"),
    "an anchor of 64 KiB": _with(_SEEDS, f"&{'a' * 65_536} [1]", 6, "aaa... are not read"),
    "an alias": _with(_SEEDS, "*nobody", 6, "aliases such as *nobody"),
    "a list that holds itself": _with(_SEEDS, "&a [*a]", 6, "aliases such as *a"),
    "an alias as a key": _with("  vae:", "  *a :", 8, "a key must be text"),
    "a merge key": _with("  vae: []", "  <<: {a: []}", 8, "merge keys"),
    "a merge of an alias": _with("  vae: []", "  <<: *a", 8, "merge keys"),
    "a billion laughs": _whole(
        "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi",
                strict=True)), 1, "aliases such as *a"),
    # shapes
    "a key twice": _with("evaluation:", "sizes:", 5, "the key 'sizes' is already on line 3"),
    "an entry twice": _with("  free:", "  vae:", 9, "the key 'vae' is already on line 8"),
    "a list as a key": _with("  vae:", "  ? [1, 2]\n  :", 8, "a key must be text"),
    "a mapping as a key": _with("  vae:", "  ? {a: b}\n  :", 8, "a key must be text"),
    "100 lists": _with(_SEEDS, "[" * 100 + "]" * 100, 6, "more than 20 deep"),
    "100 open lists": _with(_SEEDS, "[" * 100, 6, "more than 20 deep"),
    "100,000 mappings": _with(_SEEDS, "{a: " * 60_000, 6, "more than 20 deep"),
    "a tower of keys": _after("".join(f"{' ' * i}a:\n" for i in range(40)), "20 deep", line=31),
    "two documents": _after("---\nseeds: [1]\n", "one document", line=12),
    "a second, broken document": _after("---\n[\n", "one document", line=12),
    "an old directive": _whole("%YAML 2.0\n---\n" + BASE, 1, "found incompatible YAML document"),
    "a tab": _with("  vae:", "\tvae:", 8, "is not YAML, column 1"),
    "an open quote": _with("name: newswire", "name: 'newswire", 11, "is not YAML, column 1"),
    "an open bracket": _with(_SEEDS, "[1", 7, "is not YAML, column 8"),
    "a reserved sign": _with("name: newswire", "name: @a", 1, "column 16"),
    "indented otherwise": _with("  vae:", "    vae:", 9, "is not YAML"),
    # bytes
    "nothing": _whole("", 1, "a suite must be a mapping"),
    "blanks": _whole(" \n" * 9, 1, "not null"),
    "a zero": _whole(b"\0", 1, "is not YAML, column 1: the character U+0000"),
    "zeros": _whole(b"\0" * 200_000, 1, "U+0000 is not allowed"),
    "NUL in the last line": _after(b"# \0\n", "column 3: the character U+0000"),
    "an escape sequence": _after(b"# \x1b[31m\n", "U+001B is not allowed"),
    "Latin-1": _after("# \u00e9\n".encode("latin-1"), "not the byte 0xe9"),
    "UTF-16": _whole(BASE.encode("utf-16-le"), 1, "U+0000 is not allowed"),
    "UTF-16 with a mark": _whole(BASE.encode("utf-16"), 1, "not the byte 0xff"),
    "an encoded surrogate": _after(b"# \xed\xa0\x80\n", "not the byte 0xed"),
    "an overlong zero": _after(b"# \xc0\x80\n", "not the byte 0xc0"),
    "gzip": _whole(b"\x1f\x8b\x08" + b"\0" * 99, 1, "not the byte 0x8b"),
    "a pickle": _whole(b"\x80\x04cos\nsystem\n", 1, "not the byte 0x80"),
    "HTML": _whole("<!DOCTYPE html>\n<p>a: b</p>\n", 1, "a suite must be"),
    "JSON of another kind": _whole('{"cell": 1, "schema": 3}', 1, "unknown setting 'cell'"),
    "a megabyte": _whole(BASE + "#" * 2**20, 1, "256 KiB"),
}  # fmt: skip
"""By what it is: the bytes, the line that is told, and a part of what is told."""


_HEAD = BASE.partition("seeds")[0]


def _entries(*lines: str) -> bytes:
    return (_HEAD + "entries:\n" + "".join(lines)).encode()


HARD: dict[str, Callable[[], bytes]] = {
    "nine thousand seeds": lambda: (
        f"{_HEAD}seeds: [{', '.join(map(str, range(9_900)))}]\nentries: {{a: [], b: []}}\n".encode()
    ),
    "one seed nine thousand times": lambda: (
        f"{_HEAD}seeds: [{'1, ' * 9_900}]\nentries: {{a: []}}\n".encode()
    ),
    "three thousand unknown remedies": lambda: _entries(
        *(f"  a{i}: [free_bit{i}]\n" for i in range(3_200))
    ),
    "four thousand unknown settings": lambda: _entries(
        f"  a: [{{free_bits: {{{', '.join(f'targe{i}: 1' for i in range(4_900))}}}}}]\n"
    ),
    "four thousand unknown sections": lambda: (
        _HEAD + "".join(f"seed{i}: 1\n" for i in range(4_900))
    ).encode(),
    "nine thousand remedies in one entry": lambda: _entries(
        f"  a: [{', '.join(['free_bits'] * 9_900)}]\n", "  b: 1\n"
    ),
    "dials that nothing has the default of": lambda: _entries(
        *(f"  a{i}: [{{multi_rate: {{at: {1 + i / 999}}}}}]\n" for i in range(1_600))
    ),
    "nine thousand illegal values of a sweep": lambda: _entries(
        f"  a: [{{free_bits: {{per: {{sweep: [{', '.join(map(str, range(9_900)))}]}}}}}}]\n"
    ),
    "a quarter of a megabyte of one text": lambda: (BASE + "x: " + "a b " * 65_000).encode(),
    "a quarter of a megabyte of escapes": lambda: (
        BASE + 'x: "' + "\\x41" * 65_000 + '"'
    ).encode(),
    "a quarter of a megabyte of brackets": lambda: ("a: " + "[" * 260_000).encode(),
    "a quarter of a megabyte of lines": lambda: b"\n" * 262_000,
    "a quarter of a megabyte of short keys": lambda: (
        "{" + ", ".join(f"{i}" for i in range(43_000)) + "}"
    ).encode(),
    "a quarter of a megabyte of indented lines": lambda: (
        "".join(f"{' ' * (i % 200)}a\n" for i in range(2_500))
    ).encode(),
}  # fmt: skip
"""As large as a suite may be, or larger, and slow to read where something is done in a square."""
