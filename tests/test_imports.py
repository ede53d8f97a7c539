"""The import directions: each module may know those below it, and nothing else of the package."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import collapse_bench

ROOT = Path(collapse_bench.__file__).parent

MAY_IMPORT = {
    "__init__": {"diagnosis"},
    "__main__": {"cli", "interruption"},
    "interruption": set(),
    "lease": {"writing", "errors"},
    "errors": set(),
    "rules": set(),
    "settings": {"errors", "rules"},
    "plugins": {"errors", "settings"},
    "importing": {"errors", "settings"},
    "description": {"errors", "settings", "plugins", "importing"},
    "listing": {"settings", "plugins", "description"},
    "suite": {"errors", "settings", "plugins", "description", "metrics"},
    "corpus": {"errors"},
    "device": {"errors"},
    "precision": {"errors"},
    "provenance": set(),
    "model": {"corpus", "errors"},
    "remedy": {
        "model", "corpus", "settings", "errors", "plugins", "importing", "description",
    },
    "remedies": {"remedy", "model", "corpus", "settings", "errors"},
    "latent_model": {"model", "errors"},
    "evaluation": {
        "latent_model", "model", "corpus", "metrics", "device", "precision", "errors",
    },
    "metrics": set(),
    "training": {
        "remedy", "model", "corpus", "evaluation", "metrics", "precision", "record", "writing",
        "errors",
    },
    "diagnosis": {"evaluation", "latent_model", "model", "corpus", "metrics", "errors"},
    "truth": {
        "evaluation", "latent_model", "remedy", "model", "corpus", "metrics", "errors",
    },
    "honesty_controls": {"truth", "laws", "evaluation", "plugins", "remedy"},
    "verification": {
        "honesty_controls", "truth", "diagnosis", "evaluation", "latent_model", "metrics", "model",
        "device",
    },
    "writing": {"errors"},
    "seal": set(),
    "record": {"seal", "writing", "errors"},
    "damage": {"record", "writing", "errors"},
    "job": {"suite", "corpus", "record", "lease", "provenance"},
    "result": {"metrics"},
    "cell": {
        "job", "result", "suite", "plugins", "remedy", "model", "corpus", "training", "evaluation",
        "metrics", "record", "writing", "device", "precision", "provenance", "errors",
    },
    "evidence": {"result", "provenance", "suite", "metrics", "record", "writing", "errors"},
    "rescoring": {
        "evidence", "cell", "result", "suite", "plugins", "remedy", "model", "corpus", "metrics",
        "record", "errors", "diagnosis", "device", "precision", "provenance",
    },
    "progress": {"job", "metrics", "writing"},
    "durations": set(),
    "status": {"lease", "record", "suite", "durations", "errors"},
    "forecast": {
        "cell", "job", "suite", "device", "remedy", "training", "record", "damage", "lease",
    },
    "runner": {
        "cell", "job", "progress", "suite", "corpus", "training", "record", "damage", "evidence",
        "lease", "interruption", "writing", "errors", "plugins", "device", "precision",
        "provenance",
    },
    "trial": {
        "cell", "suite", "corpus", "remedy", "training", "evaluation", "importing", "errors",
    },
    "laws": {
        "cell", "suite", "remedy", "model", "corpus", "training", "evaluation", "metrics",
        "record", "plugins", "importing", "settings", "description", "device", "errors",
    },
    "new_remedy": {"laws", "remedy", "model", "corpus", "plugins", "settings", "errors"},
    "leaderboard": {"suite", "metrics", "record", "writing", "errors", "plugins"},
}  # fmt: skip
"""`cli` may import everything, and so nobody but `__main__` may import it."""

LIBRARIES = {
    "metrics": {"numpy", "scipy"},
    "leaderboard": {"numpy", "scipy", "matplotlib"},
    "suite": {"yaml"},
    "rules": set(),
    "settings": set(),
    "seal": set(),
    "writing": set(),
    "plugins": set(),
    "importing": set(),
    "description": set(),
    "listing": set(),
    "errors": set(),
    "cli": set(),
}
"""The only third-party libraries in some parts, whatever the nesting of the import."""


def imports(path: Path) -> set[str]:
    """Dotted names that a file imports, at any depth; `from a import b` is a.b."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def part_of(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[0]


FILES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_what_is_below_it(path):
    part = part_of(path)
    names = [name.split(".") for name in imports(path)]
    parts = {name[1] for name in names if name[0] == "collapse_bench" and name[1:]}
    used = {part for part in parts if not part.startswith("__")} - {part}
    if part != "cli":
        assert part in MAY_IMPORT, f"{part} is new: say in MAY_IMPORT what it may import"
        assert used <= MAY_IMPORT[part]
    if part in LIBRARIES:
        others = {name[0] for name in names} - {"collapse_bench", *sys.stdlib_module_names}
        assert others <= LIBRARIES[part]


def test_a_remedy_knows_no_other_remedy():
    for path in (ROOT / "remedies").rglob("*.py"):
        assert not any(name.startswith("collapse_bench.remedies") for name in imports(path))


def test_no_direction_is_a_circle():
    done: set[str] = set()
    while ready := {part for part in MAY_IMPORT if MAY_IMPORT[part] <= done | {"cli"}} - done:
        done |= ready
    assert done == set(MAY_IMPORT)


def test_a_suite_is_checked_without_torch():
    code = """if True:
        import sys
        import collapse_bench.cli, collapse_bench.leaderboard, collapse_bench.metrics
        import collapse_bench.plugins, collapse_bench.record, collapse_bench.suite
        sys.exit("torch" in sys.modules)
    """
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
