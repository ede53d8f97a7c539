"""The independent streams of randomness of a run."""

import hashlib
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def stream_seed(seed: int, stream: str) -> int:
    """A seed for one of the independent streams of randomness of a run.

    Args:
        seed: the cell's.
        stream: `initialisation`, `order`, `dropout`, `latent`, `validation` or `test`.
    """
    return int.from_bytes(hashlib.sha256(f"{seed}:{stream}".encode()).digest()[:5], "big")


def streams(device: torch.device) -> dict[str, Any]:
    """Where the generators of this process are: tensors and plain values.

    Args:
        device: whose generator of torch's is told, too.
    """
    algorithm, keys, *rest = np.random.get_state()  # noqa: NPY002
    on_gpu = device.type == "cuda"
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if on_gpu else None,
        "numpy": (algorithm, np.asarray(keys).tolist(), *rest),
        "python": random.getstate(),
    }


def set_streams(state: Mapping[str, Any], device: torch.device) -> None:
    """Set the generators of this process to where `streams` found them."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)
    np.random.set_state(state["numpy"])  # noqa: NPY002
    random.setstate(state["python"])
