"""Captured updates against ordinary ones: whether they can be captured, equal, and how much faster.

Both runs begin with the same weights and random numbers, and see the same batch again and again.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from harness import Tell
from setting import ARCHITECTURES, Setting, average_batches, new_run, seconds_of

from collapse_bench.training import TrainingRun

UPDATES = 10
"""Updates after which weights are compared; all but the first are replays."""


def run(setting: Setting, tell: Tell) -> None:
    for architecture in ARCHITECTURES:
        for precision in setting.precisions():
            tell.row(
                architecture=architecture,
                precision=precision,
                **compared(architecture, precision, setting),
            )


def compared(architecture: str, precision: str, setting: Setting) -> dict[str, Any]:
    """Milliseconds of an update either way, and by how much weights differ after some."""
    found, weights, why = {}, [], None
    for name, captured in (("eager ms", False), ("captured ms", True)):
        cell = setting.cell(f"vae/{architecture}/1")
        training = replace(cell.training, captured=captured, precision=precision)
        cell = replace(cell, training=training)
        training_run = new_run(cell, setting)
        (batch,) = average_batches(cell, setting, 1)
        torch.manual_seed(1)
        for _ in range(UPDATES):
            training_run.update(batch)
        weights.append(weights_of(training_run))
        update = partial(training_run.update, batch)
        found[name] = 1000 * seconds_of(update, setting, setting.of_size(50, 2))
        why = training_run.passes.eager
    difference = float((weights[0] - weights[1]).abs().max())
    same = f"replayed, weights differ by up to {difference:.2g} after {UPDATES} updates"
    return found | {"graph": f"refused: {why}" if why else same}


def weights_of(run: TrainingRun) -> torch.Tensor:
    """All weights as one vector."""
    return torch.cat([p.detach().flatten().double() for p in run.model.parameters()])
