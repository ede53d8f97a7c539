"""Whether training repeats bit for bit, with `deterministic: true` and without, and the cost."""

import time

import torch
from harness import Tell
from setting import ARCHITECTURES, Setting, average_batches, new_run, synchronize
from torch import Tensor

ENTRIES = ("vae", "limited_receptive_field")
"""The latter for its convolution."""


def run(setting: Setting, tell: Tell) -> None:
    names = [f"{ENTRIES[0]}/{architecture}/1" for architecture in ARCHITECTURES]
    names.append(f"{ENTRIES[1]}/lstm/1")
    # With it first: cuBLAS reads its setting but once.
    for deterministic in (True, False):
        for name in names:
            told = {"cell": name, "deterministic": "yes" if deterministic else "no"}
            try:
                (one, ms), (other, again) = (
                    trained(name, setting, deterministic) for _ in range(2)
                )
            except RuntimeError as error:
                tell.row(**told, same=str(error).splitlines()[0])
                continue
            same = all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
            tell.row(**told, ms=min(ms, again), same="yes" if same else "NO")


def trained(name: str, setting: Setting, deterministic: bool) -> tuple[list[Tensor], float]:
    """The weights after some updates, and the milliseconds of one."""
    cell = setting.cell(name)
    training = new_run(cell, setting, deterministic=deterministic)
    batches = average_batches(cell, setting, setting.of_size(20, 3))
    torch.manual_seed(1)
    for batch in batches:
        training.update(batch)
    synchronize(setting.device)
    weights = [parameter.detach().clone() for parameter in training.model.parameters()]
    began = time.perf_counter()
    for batch in batches:
        training.update(batch)
    synchronize(setting.device)
    return weights, 1000 * (time.perf_counter() - began) / len(batches)
