"""A process that does one training step of `suites/ptb.yaml` and says what that took.

Prints the seconds of the imports, of building model and optimiser, and of the step, as JSON.
"""

import json
import time
from dataclasses import asdict
from pathlib import Path

SUITE = Path(__file__).parents[2] / "suites" / "ptb.yaml"
WORDS, SENTENCES = 10_000, 320


def main() -> None:
    """Import, build, step; a small generated corpus gives the batch."""
    times = [time.perf_counter()]
    from collapse_bench.corpus import load_corpus
    from collapse_bench.model import Dimensions, build_model
    from collapse_bench.plugins import remedy_files
    from collapse_bench.remedy import chain
    from collapse_bench.suite import CorpusSettings, cells_of, load_suite, select
    from collapse_bench.training import TrainingRun

    times.append(time.perf_counter())
    cell = select(cells_of(load_suite(SUITE, remedy_files())), "vae/lstm/*")[0]
    corpus = load_corpus(CorpusSettings(sentences=SENTENCES), None, say=lambda text: None)
    dimensions = Dimensions(
        vocabulary=WORDS, dropout=0.5, sentences=SENTENCES, longest=corpus.longest,
        **asdict(cell.sizes),
    )  # fmt: skip
    model = build_model(cell.architecture, dimensions)
    run = TrainingRun(model, chain([]), corpus, cell.training, budget=10**9, seed=cell.seed)
    model.train()
    times.append(time.perf_counter())
    run.update(run.draw())
    times.append(time.perf_counter())
    names = ("import_seconds", "build_seconds", "step_seconds")
    print(json.dumps({n: b - a for n, a, b in zip(names, times, times[1:], strict=False)}))


if __name__ == "__main__":
    main()
