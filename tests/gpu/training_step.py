"""A training step at the sizes of ptb-paper: tokens/s, kernels, host and busy time, memory."""

import time
from collections import Counter
from functools import partial

from chip import STATED_BANDWIDTH, STATED_BFLOAT16
from harness import Tell
from setting import (
    ARCHITECTURES,
    Setting,
    average_batches,
    forget_peak,
    kernels_of,
    new_run,
    synchronize,
)

from collapse_bench.device import peak_gpu_memory_mib
from collapse_bench.model import SequenceVAE
from collapse_bench.training import TrainingRun

BYTES_PER_PARAMETER = 36
"""That have to move in a dense step, in float32: the gradient is written and its norm read; Adam
reads weight, gradient and two averages, and writes all but the gradient."""
PROFILED = 5
"""Steps under the profiler."""
PASSES_OVER_LOGITS = 5
"""Written; read and overwritten by the softmax; read for either gradient."""


def run(setting: Setting, tell: Tell) -> None:
    for architecture in ARCHITECTURES:
        cell = setting.cell(f"vae/{architecture}/1")
        batches = average_batches(cell, setting, 20)
        forget_peak(setting.device)
        training = new_run(cell, setting)
        warm(training, batches)
        repeats = setting.of_size(5, 1)
        began = time.perf_counter()
        for _ in range(repeats):
            for batch in batches:
                training.update(batch)
        host = time.perf_counter() - began
        synchronize(setting.device)
        seconds = (time.perf_counter() - began) / (repeats * len(batches))
        tokens = sum(batch.tokens for batch in batches) / len(batches)
        kernels = kernels_of(partial(warm, training, batches[:PROFILED]), setting)
        profiled = len(batches[:PROFILED])
        busy = sum(ms for _, ms in kernels) / profiled
        bytes_moved, operations = work_of(training.model, tokens)
        tell.row(
            architecture=architecture,
            **{
                "tokens a step": tokens,
                "tokens/s": tokens / seconds,
                "ms": 1000 * seconds,
                "host ms": 1000 * host / (repeats * len(batches)),
                "busy ms": busy,
                "kernels": len(kernels) / profiled,
                "GPU MiB": peak_gpu_memory_mib(setting.device),
                "share of bandwidth": bytes_moved / seconds / STATED_BANDWIDTH,
                "share of bfloat16 rate": operations / seconds / STATED_BFLOAT16,
            },
        )
        longest: Counter[str] = Counter()
        for name, ms in kernels:
            longest[name[:50]] += ms / profiled
        for name, ms in longest.most_common(12):
            tell.fact(f"{architecture}: {name}, ms a step", ms)


def warm(training: TrainingRun, batches: list) -> None:
    """One update on each batch."""
    for batch in batches:
        training.update(batch)


def work_of(model: SequenceVAE, tokens: float) -> tuple[float, float]:
    """Least bytes to be moved and operations of products in a dense step, of so many tokens.

    A weight of a product costs six operations a token: two forward, four backward.
    """
    vocabulary, products = model.dimensions.vocabulary, 0
    for name, parameter in model.named_parameters():
        products += parameter.numel() if parameter.dim() == 2 and "embedding" not in name else 0
    logits = PASSES_OVER_LOGITS * 2 * tokens * vocabulary
    moved = BYTES_PER_PARAMETER * sum(p.numel() for p in model.parameters()) + logits
    return moved, 6 * products * tokens
