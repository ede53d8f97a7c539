"""JSON that carries its own digest, so that it is known to be, to the last byte, what was written.

That is a guard against accidents and edits by hand. Whoever means to deceive makes another digest:
against that `evidence` holds a record against its arrays.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

DIGEST = "sha256"
"""The field that holds the digest of all else in the file."""

LINE = re.compile(rf'^ "{DIGEST}": "([0-9a-f]{{64}})?"', re.MULTILINE)
"""Where it stands: of all fields only those of the outermost level are indented by one."""


def sealed(content: Mapping[str, Any], *, sort_keys: bool) -> str:
    """Some content as the text of a file, with its digest.

    Args:
        content: ready for JSON, without a digest.
        sort_keys: whether the digest stands among sorted keys, as in what is published, or last.

    Raises:
        ValueError: a number is not finite.
    """
    blank = laid_out({**content, DIGEST: ""}, sort_keys=sort_keys)
    return LINE.sub(f' "{DIGEST}": "{_digest_of(blank)}"', blank, count=1)


def laid_out(content: Mapping[str, Any], *, sort_keys: bool) -> str:
    """Some content as text, whether it has a digest or not."""
    return json.dumps(content, indent=1, sort_keys=sort_keys, allow_nan=False) + "\n"


def broken(text: str) -> str | None:
    """Why the text of a file is not what was written; None if it is."""
    found = LINE.search(text)
    if found is None or found[1] is None:
        return f"its {DIGEST} is missing"
    if found[1] != _digest_of(LINE.sub(f' "{DIGEST}": ""', text, count=1)):
        return f"its SHA-256 is not the one that it carries as {DIGEST}"
    return None


def _digest_of(blank: str) -> str:
    """SHA-256 of a text whose digest is left out."""
    return hashlib.sha256(blank.encode()).hexdigest()
