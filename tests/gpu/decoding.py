"""How many rows a decode should have: tokens/s and memory of log p(x|z) by their number."""

import numpy as np
import torch
from harness import Tell
from setting import ARCHITECTURES, Setting, forget_peak, new_run, seconds_of

from collapse_bench.corpus import Split
from collapse_bench.corpus.batches import collate
from collapse_bench.device import peak_gpu_memory_mib
from collapse_bench.precision import products_in

ROWS, TOKENS = (64, 256, 1024, 4096), 22


def run(setting: Setting, tell: Tell) -> None:
    rows = (2, 4, 8, 16) if setting.rehearse else ROWS
    words = np.full(TOKENS - 1, 10, dtype=setting.corpus.test.tokens.dtype)
    one = Split(np.tile(words, max(rows)), np.arange(max(rows) + 1) * len(words))
    for architecture in ARCHITECTURES:
        model = new_run(setting.cell(f"vae/{architecture}/1"), setting).model.eval()
        for precision in setting.precisions():
            for count in rows:
                batch = collate(one, np.arange(count)).to(setting.device)
                z = torch.zeros(count, model.dimensions.latent, device=setting.device)
                forget_peak(setting.device)
                with torch.no_grad(), products_in(precision, setting.device):
                    seconds = seconds_of(
                        lambda m=model, b=batch, z=z: m.log_likelihood(b, z),
                        setting,
                        setting.of_size(10, 1),
                    )
                tell.row(
                    architecture=architecture,
                    precision=precision,
                    rows=count,
                    ms=1000 * seconds,
                    **{
                        "tokens/s": count * TOKENS / seconds,
                        "GPU MiB": peak_gpu_memory_mib(setting.device),
                    },
                )
