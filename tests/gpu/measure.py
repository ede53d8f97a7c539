"""Everything that only a GPU can tell, in one command of at most eight minutes.

    PYTHONPATH=. python tests/gpu/measure.py [--out gpu] [--rehearse] [--only STEP ...]

What is most needed and most likely to be wrong comes first; gpu.json and gpu.md are written anew
after every step. `--rehearse` does it all on a processor, at sizes whose figures mean nothing.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from harness import Step, run_steps
from report import write

STEPS = (
    Step("chip", "versions, permissions, and what the chip reaches", 25),
    Step("kernels", "in which dtype and by which kernels", 40),
    Step("parity", "are loss, gradient and evaluation those of float64?", 100),
    Step("smoke", "does the smoke suite run?", 60),
    Step("training_step", "how fast is a step, and where does its time go?", 45),
    Step("syncs", "where does the host wait for the device?", 20),
    Step("decoding", "how many rows should a decode have?", 30),
    Step("evaluation", "how long does a test split take?", 50),
    Step("repeating", "does training repeat bit for bit, and at what cost?", 25),
    Step("graph", "do captured updates hold, and what do they save?", 30),
    Step("together", "how many cells at once?", 130),
    Step("cells", "what do two whole cells take?", 150),
)
SECONDS = 480


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("gpu"), help="folder (%(default)s)")
    parser.add_argument("--rehearse", action="store_true", help="on a processor, tiny")
    parser.add_argument("--only", nargs="+", choices=[step.name for step in STEPS], metavar="STEP")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for all (%(default)s)")
    options = parser.parse_args()

    from setting import Setting, corpus_of

    from collapse_bench.device import resolve_device
    from collapse_bench.errors import UserError

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    try:
        device = "cpu" if options.rehearse else resolve_device("cuda")
    except UserError as error:
        say(f"error: {str(error).partition(';')[0]}; rehearse on this processor with --rehearse")
        return error.exit_code
    folder = os.environ.get("COLLAPSE_BENCH_DATA")
    data = Path(folder) if folder else None
    options.out.mkdir(parents=True, exist_ok=True)
    corpus = corpus_of(data, options.rehearse, say)
    head = {
        "device": device,
        "corpus": corpus.name,
        "vocabulary": corpus.vocabulary.size,
        "rehearsal": "yes, no figure means anything" if options.rehearse else "no",
    }

    def after(found: list) -> None:
        write(found, head, options.out)
        last = found[-1]
        reason = (last.error or "").strip().splitlines()
        told = f": {reason[-1]}" if reason else ""
        say(f"{last.step.name}: {last.status} in {last.seconds:.1f} s{told}")

    steps = [step for step in STEPS if not options.only or step.name in options.only]
    with tempfile.TemporaryDirectory() as scratch:
        setting = Setting(device, options.rehearse, Path(scratch), data, corpus)
        found = run_steps(steps, setting, options.seconds, after, apart=not options.rehearse)
    print(options.out / "gpu.md")
    return 0 if all(each.status == "done" for each in found) else 1


if __name__ == "__main__":
    sys.exit(main())
