"""The report of `make bench`: bench.json to tables of ratios and rates, as markdown."""

import argparse
import json
import statistics
import sys
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

Sides = dict[str, dict[str, Any]]


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


def by_group(benchmarks: list[dict[str, Any]]) -> dict[str, Sides]:
    """Benchmarks by group and side, the groups with a target first."""
    groups: dict[str, Sides] = {}
    for each in benchmarks:
        side = each["name"].rpartition("[")[2].rstrip("]")
        groups.setdefault(each["group"], {})[side] = each
    known = {name: groups.pop(name) for name in TARGETS if name in groups}
    return known | groups


def report(groups: dict[str, Sides], machine: dict[str, Any]) -> str:
    """All tables, and the machine they are from."""
    return "\n\n".join([
        ratio_table(groups), rate_table(groups), value_table(groups),
        public_table(groups, machine), machine_lines(groups, machine),
    ])  # fmt: skip


def ratio_table(groups: dict[str, Sides]) -> str:
    """Medians, their ratio and its target."""
    rows = []
    for name, sides in groups.items():
        medians = {side: each["stats"]["median"] for side, each in sides.items()}
        target = TARGETS.get(name)
        ratio = medians["reference"] / medians["bench"] if len(medians) == 2 else None
        pairs = paired_ratios(sides) if ratio else []
        paired = (
            f"{statistics.median(pairs):.2f} ({min(pairs):.2f}-{max(pairs):.2f})" if pairs else ""
        )
        met = "" if target is None or ratio is None else "yes" if ratio >= target else "no"
        rows.append([
            name, *(seconds(medians.get(side)) for side in ("reference", "bench")),
            "" if ratio is None else f"{ratio:.2f}", paired,
            "" if target is None else f"{target:g}", met,
        ])  # fmt: skip
    missing = [name for name, target in TARGETS.items() if target and name not in groups]
    rows += [[name, "not run", "", "", "", f"{TARGETS[name]:g}", "no"] for name in missing]
    head = ["group", "reference median", "bench median", "ratio", "pair by pair", "target", "met?"]
    return table(head, rows)


def paired_ratios(sides: Sides) -> list[float]:
    """Reference over bench for every timed round and the round of the other side before it."""
    ratios = []
    for side, each in sides.items():
        other = each["extra_info"]["other_seconds"]
        for own_seconds, other_seconds in zip(each["stats"]["data"], other, strict=True):
            ratio = own_seconds / other_seconds
            ratios.append(ratio if side == "reference" else 1 / ratio)
    return ratios


def rate_table(groups: dict[str, Sides]) -> str:
    """What was done a second: tokens, token evaluations, sentences, GFLOP."""
    rows = []
    for name, sides in groups.items():
        if units := {each["extra_info"].get("unit") for each in sides.values()} - {None}:
            rates = [f"{rate(sides[s]):,.0f}" if s in sides else "" for s in ("reference", "bench")]
            rows.append([name, f"{units.pop()}/s", *rates])
    return table(["group", "unit", "reference", "bench"], rows)


def value_table(groups: dict[str, Sides]) -> str:
    """What came out: the draws differ between the sides, what they estimate does not."""
    rows = [
        [name, *(f"{sides[s]['extra_info']['value']:.6g}" for s in ("reference", "bench"))]
        for name, sides in groups.items()
        if len(sides) == 2 and all("value" in each["extra_info"] for each in sides.values())
    ]
    return table(["value computed", "reference", "bench"], rows)


def public_table(groups: dict[str, Sides], machine: dict[str, Any]) -> str:
    """The reference beside the public code that it stands for."""
    rows = [
        [name, f"{public:,.0f}", f"{measured:,.0f}", f"{measured / public:.2f}"]
        for name, public in PUBLIC.items()
        if "reference" in groups.get(name, {})
        for measured in [rate(groups[name]["reference"])]
    ]
    text = table(["group, units a second", "public code", "reference here", "share"], rows)
    if machine.get("corpus") != "ptb":
        text += "\n\nThe public code's figures are of the Penn Treebank, those here are not."
    return text


def machine_lines(groups: dict[str, Sides], machine: dict[str, Any]) -> str:
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
    if product := groups.get("vocabulary_product", {}).get("bench"):
        share, precision = (product["extra_info"][k] for k in ("share_of_ceiling", "precision"))
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
    for name, sides in groups.items():
        drawn = sides.get("bench", {}).get("extra_info", {}).get("draws_of_bench")
        if drawn is not None:
            lines.append(f"{name}: the bench drew {drawn:.0f} times a sentence")
    if first := groups.get("start_up_first_step", {}).get("bench"):
        parts = ("import", "build", "step")
        times = (f"{part} {first['extra_info'][f'{part}_seconds']:.2f} s" for part in parts)
        lines.append("first step of a process: " + ", ".join(times))
    return "\n".join(f"- {line}" for line in lines)


def rate(each: dict[str, Any]) -> float:
    """Work a second at the median."""
    return float(each["extra_info"]["work"] / each["stats"]["median"])


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
