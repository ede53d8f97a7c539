"""Forward and backward pass of one batch as a CUDA graph, held against the same pass without.

The least that any captured training step rests on: whether the parts of the model can be captured
at all, whether the replay has the same gradients, and what it saves.
"""

from collections.abc import Callable
from typing import Any

import torch
from harness import Tell
from parity import fixed_noise
from setting import ARCHITECTURES, Setting, average_batches, new_run, seconds_of
from torch import Tensor

from collapse_bench.model import SequenceVAE
from collapse_bench.precision import resolve_precision

WARMUP = 3


def run(setting: Setting, tell: Tell) -> None:
    for architecture in ARCHITECTURES:
        for precision in setting.precisions():
            tell.row(
                architecture=architecture,
                precision=precision,
                **replayed(architecture, precision, setting),
            )


def replayed(architecture: str, precision: str, setting: Setting) -> dict[str, Any]:
    """Milliseconds with and without a graph, and by how much gradients differ."""
    cell = setting.cell(f"vae/{architecture}/1")
    model = new_run(cell, setting, dropout=False).model
    (batch,) = average_batches(cell, setting, 1)
    noise = fixed_noise(model)(torch.Size([len(batch.lengths), model.dimensions.latent]))

    def both() -> None:
        with autocast(precision, setting.device):
            loss = model(batch, lambda shape: noise).loss()
        loss.backward()

    both()
    eager = gradients_after(both, model)
    found: dict[str, Any] = {"eager ms": 1000 * seconds_of(both, setting, setting.of_size(20, 1))}
    if setting.device == "cpu":
        return found | {"graph": "none on a processor"}
    try:
        replay = captured(both)
    except RuntimeError as error:
        return found | {"graph": f"refused: {str(error).splitlines()[0]}"}
    pairs = zip(gradients_after(replay, model), eager, strict=True)
    difference = max(float((one - other).abs().max()) for one, other in pairs if one.numel())
    return found | {
        "replay ms": 1000 * seconds_of(replay, setting, 20),
        "graph": f"captured, gradients differ by up to {difference:.2g}",
    }


def gradients_after(do: Callable[[], None], model: SequenceVAE) -> list[Tensor]:
    """Copies of the gradients that a call leaves where there were zeros."""
    model.zero_grad(set_to_none=False)
    do()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def captured(do: Callable[[], None]) -> Callable[[], None]:
    """Capture a call, after it has run on a stream of its own, and return what replays it."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARMUP):
            do()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        do()
    return graph.replay


def autocast(precision: str, device: str) -> torch.autocast:
    """As `products_in`, without a cache: what a capture has cached is freed with its graph."""
    reduced = resolve_precision(precision, device) == "bfloat16"
    return torch.autocast(device, torch.bfloat16, enabled=reduced, cache_enabled=False)
