"""How often, and where, training and evaluation make the host wait for the device."""

import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from harness import Tell
from parity import first_of
from setting import ARCHITECTURES, Setting, average_batches, new_run

from collapse_bench.evaluation import evaluate

UPDATES, SENTENCES = 20, 64


def run(setting: Setting, tell: Tell) -> None:
    for architecture in ARCHITECTURES:
        training = new_run(setting.cell(f"vae/{architecture}/1"), setting)
        batches = average_batches(setting.cell(f"vae/{architecture}/1"), setting, UPDATES)
        some = first_of(setting.corpus.test, SENTENCES)

        def updates(training: Any = training, batches: Any = batches) -> None:
            for batch in batches:
                training.update(batch)

        def evaluation(training: Any = training, some: Any = some) -> None:
            evaluate(training.model, some, samples=16, batch=SENTENCES, seed=1, precision="auto",
                     shuffled=False)  # fmt: skip

        for what, do in ((f"{len(batches)} updates", updates), ("an evaluated batch", evaluation)):
            do()  # what is made ready once does not count
            waits = waits_of(do, setting)
            places = ", ".join(f"{place} {count}" for place, count in waits.most_common(6))
            tell.row(architecture=architecture, work=what, waits=waits.total(), where=places)


def waits_of(do: Callable[[], None], setting: Setting) -> Counter[str]:
    """How often each line made the host wait, as torch notices it; nothing on a processor."""
    if setting.device == "cpu":
        do()
        return Counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            do()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return Counter(
        f"{Path(warning.filename).name}:{warning.lineno}"
        for warning in caught
        if "synchroniz" in str(warning.message)
    )
