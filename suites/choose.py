"""Which setting of each entry of a grid is chosen: `.venv/bin/python suites/choose.py [RUNS]`.

Of the values that end at most 1 nat above the language model on validation, the one whose latent
tells most there (the lower bound on the mutual information), and of several that tell as much
within 0.05 nats the one with the least loss; if none is near, the least loss of all. Validation
knows the bound D + R and not the NLL, so what is compared is D + I, the bound that the model would
have if its prior were the aggregate of its posteriors. A cell is looked at where its bound was
best, which are the weights that it ends with.
"""

import json
import sys
from pathlib import Path
from typing import Any

from collapse_bench.plugins import remedy_files
from collapse_bench.suite import belongs_to, curves_of, load_suite

SUITE = Path(__file__).with_name("quick-grid.yaml")
CONTROL = "language_model"
TOLERANCE, TIE = 1.0, 0.05


def chosen(ends: dict[str, dict[str, Any]], values: list[str]) -> str:
    """The value of an entry that the rule above chooses.

    Args:
        ends: the best validation of each cell, by its entry's name.
        values: names of the entry at each value.
    """

    def loss(name: str) -> float:
        return float(ends[name]["distortion"] + ends[name]["mutual_information"])

    def told(name: str) -> float:
        return float(ends[name]["mutual_information"])

    near = [name for name in values if loss(name) <= loss(CONTROL) + TOLERANCE]
    best = max(map(told, near), default=0.0)
    return min([name for name in near if told(name) >= best - TIE] or values, key=loss)


def main(runs: Path) -> None:
    """Print every cell of the grid, and mark what is chosen."""
    suite = load_suite(SUITE, remedy_files([]))
    belongs, ends = belongs_to(suite), dict[str, dict[str, Any]]()
    for path in sorted((runs / suite.name).glob("*/record.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["status"] == "done" and belongs(record):
            if record["entry"] in ends:
                sys.exit(f"{path}: a second cell of {record['entry']}; name a folder with one grid")
            history = (path.parent / "history.jsonl").read_text(encoding="utf-8").splitlines()
            ends[record["entry"]] = min(map(json.loads, history), key=lambda h: h["negative_elbo"])
    if missing := [entry.name for entry in suite.entries if entry.name not in ends]:
        sys.exit(f"{runs / suite.name}: not finished: {', '.join(missing)}; run {SUITE.name}")
    curves = curves_of(suite)
    swept = {name for names in curves.values() for name in names}
    alone = {name: [name] for name in ends if name not in swept and name != CONTROL}
    print("| entry | D + R | D + I | I | chosen |\n| --- | ---: | ---: | ---: | --- |")
    for names in ([CONTROL], *curves.values(), *alone.values()):
        best = chosen(ends, list(names))
        for name in names:
            end = ends[name]
            told = end["mutual_information"]
            print(
                f"| {name} | {end['negative_elbo']:.2f} | {end['distortion'] + told:.2f} |"
                f" {told:z.2f} | {'yes' if name == best and name != CONTROL else ''} |"
            )


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs"))
