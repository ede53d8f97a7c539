"""Which setting of each entry of a grid is chosen: `python suites/choose.py [runs/quick-grid]`.

Of the settings that end at most 1 nat above the language model on validation, the one whose latent
tells most there (the lower bound on the mutual information); if there is none, the least loss.
Validation knows the bound D + R and not the NLL, so what is compared is D + I, the bound that the
model would have if its prior were the aggregate of its posteriors.
"""

import json
import sys
from pathlib import Path

TOLERANCE = 1.0


def main(folder: Path) -> None:
    """Print every cell of the grid, and mark what is chosen."""
    ends = {}
    for path in sorted(folder.glob("*/record.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["status"] == "done":
            lines = (path.parent / "history.jsonl").read_text(encoding="utf-8").splitlines()
            ends[record["entry"]] = json.loads(lines[-1])
    if "language_model" not in ends:
        sys.exit(f"{folder}: no finished language model; run suites/quick-grid.yaml first")
    loss = {name: end["distortion"] + end["mutual_information"] for name, end in ends.items()}
    told = {name: end["mutual_information"] for name, end in ends.items()}
    entries: dict[str, list[str]] = {}
    for name in ends:
        entry, _, value = name.rpartition("-")
        entries.setdefault(entry if value[:1].isdigit() else name, []).append(name)
    print("| entry | D + R | D + I | I | chosen |\n| --- | ---: | ---: | ---: | --- |")
    for names in entries.values():
        near = [name for name in names if loss[name] <= loss["language_model"] + TOLERANCE]
        chosen = max(near, key=told.__getitem__) if near else min(names, key=loss.__getitem__)
        for name in names:
            print(
                f"| {name} | {ends[name]['negative_elbo']:.2f} | {loss[name]:.2f} |"
                f" {told[name]:.2f} | {'yes' if name == chosen else ''} |"
            )


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/quick-grid"))
