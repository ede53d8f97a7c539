"""Every entry and architecture against float64 on a processor: loss, gradient, evaluation."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from harness import Tell
from setting import SMOKE, Setting
from torch import Tensor

from collapse_bench.cell import build
from collapse_bench.corpus import Batch, Corpus, Split, load_corpus, training_batches
from collapse_bench.device import prepare
from collapse_bench.evaluation import evaluate
from collapse_bench.model import SequenceVAE
from collapse_bench.plugins import remedy_files
from collapse_bench.precision import products_in
from collapse_bench.remedy import chain
from collapse_bench.runner import cores
from collapse_bench.suite import Cell, cells_of

ALLOWED = {"float32": 1e-3, "bfloat16": 2e-2}
"""Distance from float64, as a share of the norm there."""
SENTENCES, SAMPLES, SEED, THREADS = 200, 4, 1, 8

Numbers = dict[str, np.ndarray]


def run(setting: Setting, tell: Tell) -> None:
    # The processor does most of the work here; its vocabulary is small for the same reason.
    prepare(min(THREADS, cores()), deterministic=False)
    suite = setting.suite(SMOKE)
    corpus = setting.corpus if setting.rehearse else load_corpus(suite.corpus, None, print)
    cells = [
        replace(cell, training=replace(cell.training, dropout=0.0)) for cell in cells_of(suite)
    ]
    some = first_of(corpus.train, setting.of_size(SENTENCES, 20))
    batch = next(training_batches(some, suite.training.batch, SEED, 0))
    found_off: dict[str, list[float]] = {precision: [] for precision in setting.precisions()}
    for cell in cells[: setting.of_size(len(cells), 6)]:
        exact: Numbers | None = None
        for precision, every in found_off.items():
            told = {"cell": cell.name, "precision": precision}
            try:
                exact = exact or numbers_of(cell, corpus, batch, some, "cpu", "float64")
                found = numbers_of(cell, corpus, batch, some, setting.device, precision)
            except Exception as error:  # the other cells are none the worse for it
                tell.row(**told, within=f"NO: {type(error).__name__}: {error}")
                every.append(math.inf)
                continue
            off = {name: distance(found[name], exact[name]) for name in exact}
            every += off.values()
            within = all(distant <= ALLOWED[precision] for distant in off.values())
            tell.row(**told, **off, within="yes" if within else "NO")
    for precision, every in found_off.items():
        allowed = ALLOWED[precision]
        tell.fact(f"{precision}, worst of {allowed} allowed", float(np.max(every)))
    if not all(d <= ALLOWED[precision] for precision, every in found_off.items() for d in every):
        raise RuntimeError("a cell is further from float64 than allowed; see the table")


def first_of(split: Split, count: int) -> Split:
    """The first sentences of a split."""
    kept = [split.sentence(i) for i in range(min(count, len(split)))]
    return Split(np.concatenate(kept), np.cumsum([0, *map(len, kept)]))


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """Norm of the difference as a share of the norm of the other."""
    scale = float(np.linalg.norm(other))
    return float(np.linalg.norm(one - other)) / (scale or 1.0)


def numbers_of(
    cell: Cell, corpus: Corpus, batch: Batch, some: Split, device: str, precision: str
) -> Numbers:
    """Loss and gradient of a batch, and what evaluation finds of some sentences, in float64.

    Every random part is off, and the noise is the same numbers everywhere.
    """
    model, remedies = build(cell, corpus, remedy_files())
    model.to(device)
    if precision == "float64":
        model.double()
    products = "float32" if precision == "float64" else precision
    model.eval()
    noise = fixed_noise(model)
    with products_in(products, device):
        forward = model(batch.to(device), noise, progress=0.5, objective=chain(remedies).objective)
        loss = forward.loss()
    loss.backward()
    gradients = [p.grad.double().flatten().cpu() for p in model.parameters() if p.grad is not None]
    arrays = evaluate(
        model, some, samples=SAMPLES, batch=64, seed=SEED, precision=products, shuffled=False
    )
    return {
        "loss": loss.detach().double().cpu().numpy(),
        "gradient": torch.cat(gradients).numpy(),
        **{name: arrays[name].astype(np.float64) for name in ("distortion", "kl", "log_weights")},
    }


def fixed_noise(model: SequenceVAE) -> Callable[[torch.Size], Tensor]:
    """Standard normal numbers that depend on nothing but the shape, as the model takes them."""
    parameter = next(model.parameters())

    def noise(shape: torch.Size) -> Tensor:
        generator = torch.Generator().manual_seed(SEED)
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(parameter)

    return noise
