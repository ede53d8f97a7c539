"""Which code it is that computes something, for records and checkpoints."""

import hashlib
import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import collapse_bench


def provenance(code: str) -> dict[str, Any]:
    """Which code did something, for the record; `code` is its digest."""
    return {"collapse_bench": collapse_bench.__version__, "commit": commit(), "code": code}


def code_digest() -> str:
    """SHA-256 over the package's source: every cell of a run has to come from the same code."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


CODE = code_digest()
"""Of the code that this process has loaded, whatever is done to the files later."""


SENT = "COLLAPSE_BENCH_COMMIT"
"""Variable of the environment: the commit of code that has been sent to where there is no git."""


@cache
def commit() -> str | None:
    """The commit of the code, with `+` where it has been changed since; None where neither git nor
    whoever sent the code tells it."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return os.environ.get(SENT)
    try:
        head = subprocess.run(
            ["git", "-C", root, "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+"],
            capture_output=True,
            text=True,
            timeout=5,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return head.stdout.strip() or None
