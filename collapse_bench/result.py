"""What a record says of its arrays, so that it can be held against them."""

from typing import Any

from collapse_bench.metrics import Arrays, score, verdict, versioned
from collapse_bench.metrics.labels import entropy, has_label

TOLD = "told in advance"
"""In place of the verdict on an oracle, which had nothing to find out."""


def in_record(latent: int, arrays: Arrays, *, told: bool) -> dict[str, Any]:
    """What a record says of its model's scores.

    Args:
        latent: D; without a latent there is no verdict.
        arrays: of the test split.
        told: whether the model was told something in advance, of which there is no verdict either.
    """
    scores = score(arrays)
    labels = {k.removeprefix("label_"): v for k, v in arrays.items() if k.startswith("label_")}
    sentences = int(arrays.get("aggregate_size", len(arrays["tokens"])))
    return {
        "family": str(arrays["family"]),
        "metrics": versioned(scores.metrics),
        "standard_errors": versioned(scores.standard_errors),
        "label_entropy": {n: entropy(v) for n, v in sorted(labels.items()) if has_label(v).any()},
        "verdict": "no latent" if not latent else TOLD if told else verdict(scores, sentences),
    }
