"""The report of `make bench`: bench.json to tables of ratios and rates, as markdown."""

import argparse
import json
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TARGETS: dict[str, float | None] = {
    "train_step_lstm": 2.6,
    "train_step_transformer": 2.5,
    "encoder_step": 3.0,
    "nll": 4.0,
    "nll_to_standard_error": 10.0,
    "nll_to_standard_error_informative": None,
    "mutual_information": 2.0,
    "active_units": None,
    "cell": 3.0,
    "vocabulary_product": None,
    "corpus_loading": None,
}
"""Reference over bench, by group; the groups come in this order, others after them."""

SHARE_TARGET = 0.5
"""Of the ceiling of its precision, for the vocabulary product."""

QUIET = 0.1
"""Cores that other processes may use on a machine that is called quiet."""

PUBLIC = {"train_step_lstm_sgd": 5136.0, "nll": 15400.0, "corpus_loading": 1_036_580 / 0.26}
"""What the closest public code does a second, on the Penn Treebank and two cores with AVX-512 and
bfloat16 (float32 164, bfloat16 675 GFLOP/s): tokens trained, token evaluations, words loaded."""

SIDES = ("reference", "bench")


@dataclass
class Group:
    """One benchmark.

    Attributes:
        seconds: of every timed round, by side; a round of the bench follows one of the reference.
        facts: what the benchmark says of itself.
    """

    seconds: dict[str, list[float]]
    facts: dict[str, Any]

    def median(self, side: str) -> float | None:
        """Seconds of a round; None for a side that is not in the benchmark."""
        return statistics.median(self.seconds[side]) if side in self.seconds else None

    def rate(self, side: str) -> float | None:
        """Work a second at the median."""
        seconds = self.median(side)
        return None if seconds is None else float(self.facts["work"] / seconds)

    @property
    def ratios(self) -> list[float]:
        """Reference over bench, round by round."""
        if any(side not in self.seconds for side in SIDES):
            return []
        pairs = zip(self.seconds["reference"], self.seconds["bench"], strict=True)
        return [reference / bench for reference, bench in pairs]


Groups = dict[str, Group]


def main() -> None:
    """Print the report."""
    parser = argparse.ArgumentParser(description="Ratios of medians, reference over bench.")
    parser.add_argument("file", type=Path, nargs="?", default=Path("bench.json"), metavar="FILE",
                        help="what pytest --benchmark-json wrote (%(default)s)")  # fmt: skip
    file = parser.parse_args().file
    try:
        measured = json.loads(file.read_text(encoding="utf-8"))
        groups, machine = by_group(measured["benchmarks"]), measured["machine_info"]
        text = report(groups, machine)
    except OSError as error:
        sys.exit(f"error: {file}: {error.strerror}; `make bench` writes it")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        sys.exit(
            f"error: {file}: not what pytest --benchmark-json writes "
            f"({type(error).__name__}: {error}); run `make bench` to the end"
        )
    print(text)


def by_group(benchmarks: list[dict[str, Any]]) -> Groups:
    """Benchmarks by group, those with a target first."""
    groups: Groups = {}
    for each in benchmarks:
        facts = each["extra_info"]
        seconds = {facts.get("only", "bench"): each["stats"]["data"]}
        if "reference_seconds" in facts:
            seconds["reference"] = facts["reference_seconds"]
        groups[each["group"]] = Group(seconds, facts)
    known = {name: groups.pop(name) for name in TARGETS if name in groups}
    return known | groups


def report(groups: Groups, machine: dict[str, Any]) -> str:
    """All tables, and the machine they are from."""
    return "\n\n".join([
        ratio_table(groups), rate_table(groups), value_table(groups),
        public_table(groups, machine), machine_lines(groups, machine),
    ])  # fmt: skip


def ratio_table(groups: Groups) -> str:
    """Medians, their ratio and its target; pair by pair its median, range and number of pairs."""
    rows = []
    for name, group in groups.items():
        medians, target = {side: group.median(side) for side in SIDES}, TARGETS.get(name)
        reference, bench = medians.values()
        ratio = reference / bench if reference and bench else None
        pairs = group.ratios
        paired = (
            f"{statistics.median(pairs):.2f} ({min(pairs):.2f}-{max(pairs):.2f}, {len(pairs)})"
            if pairs
            else ""
        )
        met = "" if target is None or ratio is None else "yes" if ratio >= target else "no"
        rows.append([
            name, seconds(reference), seconds(bench),
            "" if ratio is None else f"{ratio:.2f}", paired,
            "" if target is None else f"{target:g}", met,
        ])  # fmt: skip
    missing = [name for name, target in TARGETS.items() if target and name not in groups]
    rows += [[name, "not run", "", "", "", f"{TARGETS[name]:g}", "no"] for name in missing]
    head = ["group", "reference median", "bench median", "ratio", "pair by pair", "target", "met?"]
    return table(head, rows)


def rate_table(groups: Groups) -> str:
    """What was done a second: tokens, token evaluations, sentences, GFLOP."""
    rows = []
    for name, group in groups.items():
        if unit := group.facts.get("unit"):
            rates = [group.rate(side) for side in SIDES]
            rows.append([name, f"{unit}/s", *("" if r is None else f"{r:,.0f}" for r in rates)])
    return table(["group", "unit", *SIDES], rows)


def value_table(groups: Groups) -> str:
    """What came out: the draws differ between the sides, what they estimate does not."""
    rows = [
        [name, *(f"{value:.6g}" for value in group.facts["values"])]
        for name, group in groups.items()
        if "values" in group.facts
    ]
    return table(["value computed", *SIDES], rows)


def public_table(groups: Groups, machine: dict[str, Any]) -> str:
    """The reference beside the public code that it stands for."""
    rows = [
        [name, f"{public:,.0f}", f"{measured:,.0f}", f"{measured / public:.2f}"]
        for name, public in PUBLIC.items()
        if name in groups and (measured := groups[name].rate("reference"))
    ]
    text = table(["group, units a second", "public code", "reference here", "share"], rows)
    if machine.get("corpus") != "ptb":
        text += "\n\nThe public code's figures are of the Penn Treebank, those here are not."
    return text


def machine_lines(groups: Groups, machine: dict[str, Any]) -> str:
    """Where, on what, and how close to what the machine can do."""
    ceilings = {
        dtype: machine[f"gflop_per_s_{dtype}"]
        for dtype in ("float32", "bfloat16")
        if f"gflop_per_s_{dtype}" in machine
    }
    lines = [
        f"{machine['cpu'].get('brand_raw', 'unknown processor')}, {machine['threads']} threads, "
        f"torch {machine['torch']}, Python {machine['python_version']}",
        f"corpus {machine['corpus']}, vocabulary {machine['vocabulary']:,}",
        "2048^3 product: "
        + ", ".join(f"{dtype} {gflops:,.0f} GFLOP/s" for dtype, gflops in ceilings.items()),
    ]
    if product := groups.get("vocabulary_product"):
        share, precision = (product.facts[key] for key in ("share_of_ceiling", "precision"))
        lines.append(
            f"vocabulary product of the bench: {share:.0%} of the {precision} ceiling "
            f"(target {SHARE_TARGET:.0%})"
        )
    others = machine.get("cores_used_by_others")
    if others is not None and others > QUIET:
        lines.insert(
            0,
            f"**not a quiet machine: other processes used {others:.1f} cores** meanwhile; ratios"
            " pair by pair still hold, times and rates do not",
        )
    for name, group in groups.items():
        if drawn := group.facts.get("draws_of_bench"):
            lines.append(f"{name}: the bench drew {drawn:.0f} times a sentence")
        if told := group.facts.get("mutual_information"):
            lines.append(f"{name}: mutual information {told:.2f} nats")
    if first := groups.get("start_up_first_step"):
        parts = ("import", "build", "step")
        times = (f"{part} {first.facts[f'{part}_seconds']:.2f} s" for part in parts)
        lines.append("first step of a process: " + ", ".join(times))
    return "\n".join(f"- {line}" for line in lines)


def seconds(value: float | None) -> str:
    """A duration with its unit."""
    if value is None:
        return ""
    return f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.1f} ms"


def table(head: list[str], rows: list[list[str]]) -> str:
    """Markdown; the first column is text."""
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, rule, *rows])


if __name__ == "__main__":
    main()
