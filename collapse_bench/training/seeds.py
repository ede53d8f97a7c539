"""The independent streams of randomness of a run."""

import hashlib


def stream_seed(seed: int, stream: str) -> int:
    """A seed for one of the independent streams of randomness of a run.

    Args:
        seed: the cell's.
        stream: `initialisation`, `order`, `dropout`, `latent`, `validation` or `test`.
    """
    return int.from_bytes(hashlib.sha256(f"{seed}:{stream}".encode()).digest()[:5], "big")
