"""How long the test split takes with 500 draws a sentence, and with as many as each needs."""

import time
from functools import partial

from harness import Tell
from parity import first_of
from setting import ARCHITECTURES, Setting, forget_peak, new_run, synchronize

from collapse_bench.device import peak_gpu_memory_mib
from collapse_bench.evaluation import evaluate

SENTENCES, SAMPLES, WARMUP = 500, 500, 4


def run(setting: Setting, tell: Tell) -> None:
    some = first_of(setting.corpus.test, setting.of_size(SENTENCES, 10))
    samples = setting.of_size(SAMPLES, 8)
    for architecture in ARCHITECTURES:
        model = new_run(setting.cell(f"vae/{architecture}/1"), setting).model
        for precision in setting.precisions():
            for standard_error in (0.05, 0.0):
                evaluated = partial(
                    evaluate, model, samples=samples, batch=64, seed=1, precision=precision,
                    standard_error=standard_error, shuffled=False,
                )  # fmt: skip
                evaluated(first_of(some, WARMUP))
                forget_peak(setting.device)
                began = time.perf_counter()
                arrays = evaluated(some)
                synchronize(setting.device)
                seconds = time.perf_counter() - began
                decoded = float((arrays["draws"] * arrays["tokens"]).sum())
                tell.row(
                    architecture=architecture,
                    precision=precision,
                    draws=float(arrays["draws"].mean()),
                    seconds=seconds,
                    **{
                        "seconds for the whole split": seconds
                        * setting.corpus.test.n_tokens
                        / some.n_tokens,
                        "tokens/s": decoded / seconds,
                        "GPU MiB": peak_gpu_memory_mib(setting.device),
                    },
                )
