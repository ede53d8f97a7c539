"""JSON that carries its own digest, so that it is known to be, to the last byte, what was written.

That is a guard against accidents and edits by hand. Whoever means to deceive makes another digest:
against that `evidence` holds a record against its arrays.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

DIGEST = "sha256"
"""The field that holds the digest of all the others."""


def digest_of(content: Mapping[str, Any]) -> str:
    """SHA-256 of all fields but the digest, as read from JSON: of their canonical form, with sorted
    keys and no spaces."""
    rest = {name: value for name, value in content.items() if name != DIGEST}
    canonical = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def broken(text: str, content: Mapping[str, Any]) -> str | None:
    """Why a text is not what was written; None if it is.

    Args:
        text: of the file.
        content: what it holds.
    """
    if DIGEST not in content:
        return f"its {DIGEST} is missing"
    if content[DIGEST] != digest_of(content):
        return f"its SHA-256 is not the one that it carries as {DIGEST}"
    if text not in (laid_out(content, sort_keys=False), laid_out(content, sort_keys=True)):
        return "its numbers or spaces are not as they are written"
    return None


def laid_out(content: Mapping[str, Any], *, sort_keys: bool) -> str:
    """The only text that some content has: of a run as it is, as published with sorted keys."""
    return json.dumps(content, indent=1, sort_keys=sort_keys) + "\n"
