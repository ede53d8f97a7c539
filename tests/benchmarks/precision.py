"""What `precision: auto` chooses between: tokens a second in float32 and bfloat16, by size.

    python tests/benchmarks/precision.py --out tests/benchmarks

adds what this processor does to `precision.md`, in a section of its own: one thread, as a cell has,
training steps and decodes of evaluation apart.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from collapse_bench.corpus import Corpus, load_corpus
from collapse_bench.device import prepare
from collapse_bench.errors import UserError
from collapse_bench.evaluation.evaluate import evaluating
from collapse_bench.model import Dimensions, build_model
from collapse_bench.precision import NATIVE, products_in, resolve_precision
from collapse_bench.remedy import chain
from collapse_bench.suite import CorpusSettings, Sizes, Training
from collapse_bench.training import TrainingRun

SIZES = {"64/128/16": (Sizes(64, 128, 16), 2_000), "256/256/32": (Sizes(256, 256, 32), 10_000)}
"""Embedding, hidden and latent, and the words of the vocabulary."""
BATCH, ROWS, SENTENCES = 32, 64, 1_280
WARM_UP, SECONDS = 2, 3.0
PAGE = "precision.md"
HEAD = """\
# Precision

Decoded tokens a second of the plain VAE in one thread. `auto` is bfloat16 where the processor has
instructions for it and float32 elsewhere: a rule of the processor alone, which load cannot change.
`tests/benchmarks/precision.py` writes a section for each kind of processor that it is run on.
"""


def rate(work: Callable[[], int]) -> float:
    """Tokens a second of what returns how many it decoded."""
    for _ in range(WARM_UP):
        work()
    tokens, began = 0, time.perf_counter()
    while time.perf_counter() < began + SECONDS:
        tokens += work()
    return tokens / (time.perf_counter() - began)


def training(architecture: str, sizes: Sizes, words: int, precision: str, corpus: Corpus) -> float:
    """Of training steps."""
    run = new_run(architecture, sizes, words, precision, corpus)
    run.model.train()

    def step() -> int:
        batch = run.draw()
        run.update(batch)
        return batch.tokens

    return rate(step)


def evaluation(
    architecture: str, sizes: Sizes, words: int, precision: str, corpus: Corpus
) -> float:
    """Of log p(x|z)."""
    run = new_run(architecture, sizes, words, "float32", corpus)
    batch = run.draw()
    batch = batch.rows(torch.arange(ROWS) % len(batch.index))
    z = torch.zeros(ROWS, sizes.latent)
    with evaluating(run.model), products_in(precision, "cpu"):
        tokens = batch.tokens

        def decode() -> int:
            run.model.log_likelihood(batch, z)
            return tokens

        return rate(decode)


def new_run(
    architecture: str, sizes: Sizes, words: int, precision: str, corpus: Corpus
) -> TrainingRun:
    """A run of the plain VAE, whose vocabulary is wider than that of its text."""
    dimensions = Dimensions(
        vocabulary=words, dropout=0.5, sentences=SENTENCES, longest=corpus.longest, **asdict(sizes)
    )
    settings = Training(budget=10**9, batch=BATCH, precision=precision)
    model = build_model(architecture, dimensions)
    return TrainingRun(model, chain([]), corpus, settings, budget=10**9, seed=1)


def measured() -> list[str]:
    """A section on this processor, a line each."""
    prepare(1, deterministic=False)
    corpus = load_corpus(CorpusSettings(sentences=SENTENCES), None, say=lambda text: None)
    has = [name for name in NATIVE if torch.cpu.get_capabilities().get(name)]
    lines = [
        f"bfloat16 instructions: {', '.join(has) or 'none'}, so `auto` is"
        f" {resolve_precision('auto', 'cpu')}; torch {torch.__version__}.",
        "",
        "| work | architecture | sizes | vocabulary | float32 | bfloat16 |",
        "| --- | --- | --- | ---: | ---: | ---: |",
    ]
    for work in (training, evaluation):
        for architecture in ("lstm", "transformer"):
            for name, (sizes, words) in SIZES.items():
                found = []
                for precision in ("float32", "bfloat16"):
                    try:
                        resolve_precision(precision, "cpu")
                    except UserError:
                        found.append("cannot")
                        continue
                    found.append(f"{work(architecture, sizes, words, precision, corpus):,.0f}")
                row = (work.__name__, architecture, name, f"{words:,}", *found)
                lines.append(f"| {' | '.join(row)} |")
                print(lines[-1], flush=True)
    return lines


def processor() -> str:
    """Its name, as Linux tells it."""
    told = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [line.partition(":")[2].strip() for line in told.splitlines() if "model name" in line]
    return f"{names[0] if names else 'unknown'}, {torch.backends.cpu.get_cpu_capability()}"


def main() -> None:
    """Measure, and write the section of this processor anew."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the page")
    page = parser.parse_args().out / PAGE
    before = page.read_text().split("\n## ")[1:] if page.exists() else []
    title = processor()
    sections = [each for each in before if not each.startswith(f"{title}\n")]
    sections.append("\n".join([title, "", *measured(), ""]))
    page.write_text("\n## ".join([HEAD, *sections]))
    print(page)


if __name__ == "__main__":
    main()
