"""The page: an honest header, the tables, and how to read them. A pure function of the records."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from collapse_bench.errors import UserError
from collapse_bench.leaderboard.comparison import against_plain_vae, matched, over_tasks
from collapse_bench.leaderboard.curves import JUMP, swept
from collapse_bench.leaderboard.figure import draw
from collapse_bench.leaderboard.markdown import escape, number
from collapse_bench.leaderboard.ranking import TOLERANCE, ranked
from collapse_bench.leaderboard.section import (
    CellKey,
    Record,
    Row,
    Section,
    ceiling,
    metric_of,
    number_of,
    sections_of,
)
from collapse_bench.leaderboard.table import (
    DIAGNOSTICS,
    MAIN,
    attributes,
    diagnostics,
    legend,
    main_table,
    may_be_too_high,
    outdated,
    signs,
    unfinished,
)

CELL_ID = re.compile(r"[a-z0-9][a-z0-9_.+-]*-[0-9a-f]{8}")

CONVERGED = "gained less than 0.1 nats on validation since three quarters of the budget"

OUTDATED = """\
These cells carry metrics of another version than this package computes, which are shown as `–`.
Score each anew: `python -m collapse_bench score --write arrays CELL`, CELL being its folder among
the runs."""

TOO_HIGH = """\
Useful information marked ‡ or ¶ may be too high: such a row keeps its place, which may be too good.
The comparisons below do not repeat the marks."""

TASKS = """\
A task is an architecture on a corpus at a budget. IQM is the interquartile mean over the finished
seeds of all tasks, in nats as they are, so a task in which there is more to tell weighs more; its
interval is a bootstrap over seeds within each task. P is the chance that a seed is above a seed of
the plain VAE, a tie counting half, mean over tasks; it does not depend on the scale. Neither knows
of NLL, so entries of which it is more than {tolerance} above the language model's in some task, or
whose gap is not known, come last.""".replace("{tolerance}", f"{TOLERANCE:.1f} nat")

READING = """\
- One evaluator measures every entry: whole test split, dropout and word dropout off, beta = 1.
  Checkpoints are chosen on the validation split, never on test. Adam trains every entry; its
  learning rate is constant for half the budget, then falls linearly to a twentieth.
- Begin with useful information, min(U, MI). U = NLL - D is what the decoder gains from z, the rate
  less the gap between posterior and true posterior. MI is what z tells of the sentence. Each can be
  had without the other: a decoder that is blind has U = 0 whatever the encoder writes into z, and
  a posterior that is the same for all sentences has MI = 0 whatever its rate. The smaller of the
  two is what z tells *and* the decoder uses.
- Then read what it costs, the gap to the language model. A remedy may buy information with a worse
  model of the text, so only entries within {tolerance} of the language model have a place. Where a
  remedy replaces the decoder, the gap is the decoder's as well: below 0 at R = 0 is no use of z.
- KL alone ranks nothing here, nor does MI or AU: R is set by hand in many remedies, MI of an
  encoder that nobody listens to can be as high as ln N, and AU counts dimensions however little
  they carry. The MI of He et al. 2019 stands beside ours for comparison with published tables only:
  it is capped at ln 32 = 3.47 nats.
- A remedy that is swept through its knob is a curve. Compare curves at the same rate or at the same
  NLL. Nothing is read off beyond the first and the last point, nor between two neighbours of which
  one has more than {jump} times the rate of the other: somewhere between them the model collapses,
  and nobody has measured where. The line in the picture is broken there, and the most useful
  information at an NLL is that of points and unbroken lines only.
- `value (s)` is one seed: s is the standard error over test sentences that its record carries. It
  says nothing about another seed, and since all entries meet the same sentences, it overstates the
  error of a gap.
- `mean ± h` is over two to nine seeds, h being half of the 95 % Student t interval; from ten seeds
  on `mean [low, high]` is the 95 % BCa bootstrap interval. Sentences never count as seeds.
- p is that of a paired sign-flip test over seeds, two-sided and up to 14 seeds exact; beside it p
  after Holm's correction for the number of entries in the table, each measure by itself. Places
  rest on intervals that are not corrected so.
- An estimate of MI may fall below 0 by noise. Two entries that agree to the last digit have
  settings that made no difference at this budget.
- `–` means that there is no such number, `not finite` that it is NaN or infinite; a mean is shown
  only if every finished seed has a number.
- In the picture the axes of R and of the gap are linear up to 1 nat and logarithmic beyond. On a
  grey line the negative ELBO R + D is the same, lower is better; on the dashed line it equals the
  language model's NLL. A collapsed model sits at R = 0. In the lower panels up is more use of z and
  left is a better model of the text."""
READING = READING.replace("{tolerance}", f"{TOLERANCE:.1f} nat").replace("{jump}", f"{JUMP:g}")


def write_leaderboard(
    suite_name: str,
    expected: Sequence[CellKey],
    records: Sequence[Record],
    out: Path,
    curves: Mapping[str, Sequence[str]],
) -> Path:
    """Write `<out>/<suite>.md`, its picture, and a copy of every record; return the page's path.

    The order of the records does not matter, and the same records give the same bytes.

    Args:
        suite_name: names the files.
        expected: (entry, architecture, seed) of every cell of the suite, in its order.
        records: what the cells left, finished or not; each is shown.
        out: folder, made if need be.
        curves: swept entry -> the entries of its values, in the suite's order; may be empty.

    Raises:
        UserError: no records, a record that this version cannot read, or two of the same cell.
    """
    if not records:
        raise UserError(
            f"no records of suite '{suite_name}' as it is now: make them with `python -m"
            " collapse_bench run SUITE`, the same SUITE and the same --plugin, or say where they"
            " are with --runs"
        )
    sections = sections_of(expected, records)
    if bad := sorted(r["cell"] for r in records if not CELL_ID.fullmatch(r["cell"])):
        raise UserError(f"{bad[0]!r} is not a cell id: entry-architecture-seed-<8 hex digits>")
    folder = out / suite_name
    folder.mkdir(parents=True, exist_ok=True)
    # The folder is the evidence of this page, so a record that is not in the page leaves it.
    for stale in {p.stem for p in folder.glob("*.json")} - {r["cell"] for r in records}:
        if CELL_ID.fullmatch(stale):
            (folder / f"{stale}.json").unlink()
    for record in records:
        text = json.dumps(record, indent=1, sort_keys=True)
        (folder / f"{record['cell']}.json").write_text(text + "\n", encoding="utf-8")
    draw(sections, curves, out / f"{suite_name}.png")
    page = out / f"{suite_name}.md"
    page.write_text(render(suite_name, sections, curves), encoding="utf-8")
    return page


def render(
    suite_name: str, sections: Sequence[Section], curves: Mapping[str, Sequence[str]]
) -> str:
    """The page as markdown."""
    link = quote(suite_name)
    lines = [
        f"# Leaderboard: {escape(suite_name)}",
        "",
        f"Generated by `python -m collapse_bench leaderboard SUITE` from [these records]({link}/).",
        "",
    ]
    if len(sections) > 1:
        lines += [
            f"The records hold {len(sections)} combinations of corpus, digest and budget. Each has"
            " its own section; numbers of different sections must not be compared.",
            "",
        ]
    lines += [f"![rate against distortion, and useful information against cost]({link}.png)", ""]
    for section in sections:
        lines += [f"## {escape(section.corpus)}, {section.budget:,} tokens a cell", ""]
        lines += [*header(section), ""]
        for architecture in section.architectures:
            lines += tables(architecture, section.rows_of(architecture), curves)
        lines += ["### Entries", "", *entries(section.records), ""]
        if failures := unfinished(section.rows):
            lines += ["### Cells without a result", "", *failures, ""]
        if old := outdated(section.rows):
            lines += ["### Cells scored by another version", "", OUTDATED, "", *old, ""]
    tasks = [section.rows_of(name) for section in sections for name in section.architectures]
    if shared := over_tasks(tasks):
        lines += [f"## Over all {len(tasks)} tasks", "", TASKS, "", *shared, ""]
    lines += ["## How to read this", "", READING, "", *signs(), ""]
    lines += ["## Columns", "", "Nats are nats a sentence.", "", *legend(MAIN), ""]
    lines += ["### Diagnostics", "", *legend(DIAGNOSTICS[1:])]
    return "\n".join(lines) + "\n"


def tables(architecture: str, rows: list[Row], curves: Mapping[str, Sequence[str]]) -> list[str]:
    """Everything on one architecture of a section."""
    groups = ranked(rows)
    rows = [row for group in groups for row in group.rows]
    lines = [f"### {escape(architecture)}", "", *main_table(groups), ""]
    if all(len(row.done) < 2 for row in rows):
        lines += ["No places: a single seed says nothing about another.", ""]
    elif not any(row.language_model for row in rows):
        lines += ["No places: without a language model nobody knows what an entry pays.", ""]
    if any(map(may_be_too_high, rows)):
        lines += [TOO_HIGH, ""]
    lines += ["Marks and columns are explained below. KL alone ranks nothing.", ""]
    parts = {
        "Against the plain VAE": against_plain_vae(rows),
        "At the same rate and at the same NLL": matched(swept(rows, curves)),
        "What z tells of the known attributes": attributes(rows),
        "Diagnostics": diagnostics(rows),
    }
    for title, part in parts.items():
        if part:
            lines += [f"#### {title}: {escape(architecture)}", "", *part, ""]
    return lines


def header(section: Section) -> list[str]:
    """What a reader has to know before the first number, from the records alone."""
    corpus = section.records[0]["corpus"]
    done = [record for row in section.rows for record in row.done]
    name = escape(section.corpus)
    missed = {r["corpus"]["requested"] for r in section.records} - {section.corpus}
    lines = []
    for requested in map(escape, sorted(missed)):
        lines += [
            f"> **{requested.upper()} WAS ASKED FOR AND NOT FOUND:"
            f" every number below is of {name}, none is of {requested}.**",
            "",
        ]
    standard = (
        "the known digest of this corpus"
        if all(r["corpus"].get("standard") is True for r in section.records)
        else "**not a digest known to the bench: do not compare with published numbers**"
    )
    train = corpus["tokens"].get("train")
    epochs = f" = {section.budget / train:.2f} epochs of the training split" if train else ""
    lines += [
        f"- Corpus: **{name}**, sha256 {escape(section.sha256)} ({standard}); train / valid / test:"
        f" {splits(corpus['sentences'])} sentences, {splits(corpus['tokens'])} tokens with end of"
        " sentence",
        f"- Budget: {section.budget:,} decoded tokens a cell{epochs}",
        f"- Converged: {convergence(done)}",
        f"- Seeds: {listed(r['seed'] for r in section.records)}; {len(done)} of"
        f" {sum(len(row.cells) for row in section.rows)} cells finished",
        f"- NLL: importance weighted, S = {samples(done)}; ceiling of MI: ln N ="
        f" {ceiling(section.records[0]):.2f} nats",
        f"- Sizes: {settings(section.records, 'sizes', 'latent')}",
        f"- Training: {settings(section.records, 'training', 'budget')}",
        f"- Evaluation: {settings(section.records, 'evaluation')}",
        f"- Machine: {environment(section.records)}",
        f"- Scored by: {scored(section.records)}",
    ]
    if not any(record["latent"] == 0 for record in section.records):
        lines.append("- **No language model control has a record, so there is no gap to read.**")
    if "global_information" in corpus:
        known = number_of({"corpus": corpus}, "corpus", "global_information")
        lines.append(f"- Global information of a sentence, known exactly: {number(known)} nats")
    return lines


def settings(records: Sequence[Record], section: str, left_out: str = "") -> str:
    """A section of the suite as it was in these records; several values where they differ."""
    parts = [(record.get("settings") or {}).get(section) or {} for record in records]
    names = dict.fromkeys(name for part in parts for name in part if name != left_out)
    told = [f"{escape(n)} {listed(part.get(n) for part in parts)}" for n in names]
    return ", ".join(told) or "not recorded"


def entries(records: Iterable[Record]) -> list[str]:
    """What each entry is: its remedies with all their settings, the first acting first."""
    told = {}
    for record in sorted(records, key=lambda record: str(record["cell"])):
        remedies = [
            f"{escape(remedy['name'])} ("
            + ", ".join(f"{escape(k)} = {escape(v)}" for k, v in remedy["settings"].items())
            + ")"
            for remedy in record.get("remedies") or []
        ]
        plain = "no remedy" if record["latent"] else "no remedy and no latent"
        told[record["entry"]] = f"- {escape(record['entry'])}: {', then '.join(remedies) or plain}"
    return list(told.values())


def splits(counts: Mapping[str, Any]) -> str:
    """Counts of the three splits."""
    return " / ".join(
        number(number_of({"n": counts}, "n", s), 0) for s in ("train", "valid", "test")
    )


def convergence(done: Sequence[Record]) -> str:
    """How many finished cells had converged."""
    n = sum((record.get("validation") or {}).get("converged") is True for record in done)
    if not done:
        return "no cell has finished"
    if n == len(done):
        return f"{n} of {n} finished cells {CONVERGED}"
    return (
        f"**{n} of {len(done)}** finished cells {CONVERGED}; the others gained more or have too"
        " few validations to tell, so **their numbers are of this budget and not final**"
    )


def samples(done: Sequence[Record]) -> str:
    """S of the importance-weighted NLL and its effective sample size, least to most of a cell."""
    latent = [record for record in done if record["latent"] > 0]

    def least_to_most(metric: str) -> str:
        values = [v for r in latent if (v := metric_of(r, metric)) is not None]
        ends = dict.fromkeys(number(end(values), 1) for end in (min, max) if values)
        return " to ".join(ends) or "not recorded"

    return f"{least_to_most('nll_samples')} draws a sentence (effective: {least_to_most('ess')})"


def environment(records: Sequence[Record]) -> str:
    """Device, threads and versions; several values where the cells differ."""

    def value(name: str) -> str:
        return listed((record.get("environment") or {}).get(name) for record in records)

    products = listed(
        f"{told.get('training')} in training and {told.get('evaluation')} in evaluation"
        for record in records
        if (told := (record.get("environment") or {}).get("precision"))
    )
    return (
        f"{value('device')}, products in {products}, threads: {value('threads')},"
        f" {value('platform')}; collapse_bench {value('collapse_bench')} (commit"
        f" {value('commit')}), Python {value('python')}, torch {value('torch')}"
    )


def scored(records: Sequence[Record]) -> str:
    """The code behind the numbers, which may be later than that which trained."""
    told = [record.get("scored") or {} for record in records]
    version, commit = (
        listed(each.get(name) for each in told) for name in ("collapse_bench", "commit")
    )
    return f"collapse_bench {version} (commit {commit})"


def listed(values: Iterable[object]) -> str:
    """The different values, escaped; "not recorded" for those that are null."""
    found = sorted(
        {"not recorded" if value is None else str(value) for value in values}, key=natural
    )
    return ", ".join(map(escape, found)) or "not recorded"


def natural(text: str) -> tuple[int, str]:
    """A sort key that puts 2 before 10."""
    return (int(text) if text.isdecimal() else 0, text)
