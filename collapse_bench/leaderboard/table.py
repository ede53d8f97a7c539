"""Rows -> markdown tables. One list of columns makes both a table and its legend."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from collapse_bench.leaderboard.markdown import NONE, escape, markdown, number, shown
from collapse_bench.leaderboard.ranking import HEADLINE, TOLERANCE, Group
from collapse_bench.leaderboard.section import Record, Row, ceiling, other_versions
from collapse_bench.metrics import METRICS, VERDICTS, key_of
from collapse_bench.metrics.active_units import THRESHOLD, THRESHOLDS
from collapse_bench.metrics.verdict import SATURATED

SETTLED = 0.1
"""Nats of NLL that the last doubling of the draws may still gain."""

OF_A_LANGUAGE_MODEL = ("nll", "distortion", "negative_elbo", "perplexity")
"""The metrics that say something of a model without a latent."""

ABOUT = "information_about_"

GAP = "gap to LM"

RISE_WITH_THE_NLL = ("nll", "useful_rate", HEADLINE, GAP)
"""What is too high by as much as the NLL is, if not always for the headline, which is a minimum."""

BEYOND_A_RECORD = "inference collapse"
"""The verdict that no record can hold: it takes posteriors refined under the frozen decoder."""

MARKS = {
    "§": "set or moved by construction: a remedy of this entry does so whatever the model learns,"
    " and nothing is to be concluded from the value",
    "†": f"MI of a seed is above {100 * SATURATED:.0f} % of its ceiling ln N, and hence too low"
    " (saturated); so is useful information where MI is the smaller of the two",
    "‡": "the draws ran out: the Monte-Carlo error of a seed is above what the suite asks for, and"
    " the NLL, and with it U, useful information and gap to LM, is too high by an unknown amount",
    "¶": f"not settled: of a seed, the last doubling of the draws took more than {SETTLED:g} nats"
    " off the NLL, and the next one may as well; U, useful information and gap to LM are too high"
    " by as much as the NLL is; the row keeps its place, which may be too good",
}


def marks(row: Row, name: str) -> str:
    """What has to be known of the value of a metric, or of the gap, as MARKS explains it.

    Args:
        row: with a finished seed.
        name: of the metric, or GAP.
    """
    rises = name in RISE_WITH_THE_NLL
    error, gain = "nll_monte_carlo_error", "nll_gain_of_doubling"
    found = {
        "§": row.holds_by_construction(name),
        "†": saturated(row, name),
        "‡": (rises or name == error) and exceeds(row, error, error_asked_for(row)),
        "¶": (rises or name == gain) and exceeds(row, gain, SETTLED),
    }
    text = "".join(mark for mark, holds in found.items() if holds)
    return f" {text}" if text else ""


def exceeds(row: Row, name: str, limit: float) -> bool:
    """True if a metric of any finished seed is above a limit."""
    return any(value is not None and value > limit for value in row.values(name))


def saturated(row: Row, name: str) -> bool:
    """True if the mutual information of any finished seed is saturated and makes this metric."""
    limit = SATURATED * ceiling(row.done[0])
    if name == "mutual_information":
        return exceeds(row, name, limit)
    pairs = zip(row.values("mutual_information"), row.values("useful_rate"), strict=True)
    return name == HEADLINE and any(
        told is not None and used is not None and limit < told < used for told, used in pairs
    )


def may_be_too_high(row: Row) -> bool:
    """True if the headline of a row carries a mark that says so."""
    return any(mark in measured(row, HEADLINE) for mark in "‡¶")


def error_asked_for(row: Row) -> float:
    """Monte-Carlo error that ends the draws of a sentence; infinite where the suite sets none."""
    settings = (row.done[0].get("settings") or {}).get("evaluation") or {}
    return float(settings.get("standard_error") or math.inf)


def measured(row: Row, name: str, digits: int = 2) -> str:
    """A metric with its marks; of a language model only what it has."""
    value = row.metric(name)
    if value is None or (row.is_language_model and name not in OF_A_LANGUAGE_MODEL):
        return NONE
    return shown(value, digits) + ("" if row.is_language_model else marks(row, name))


def outcomes(row: Row) -> str:
    """The verdict of every seed, or what became of it if it has none: one word if all agree, else
    how many of all the seeds got which."""
    counts = Counter(escape(outcome(record)) for record in row.cells.values())
    if len(counts) < 2:
        return next(iter(counts), NONE)
    return ", ".join(f"{name} {n}/{len(row.cells)}" for name, n in sorted(counts.items()))


def outcome(record: Record | None) -> str:
    """What a cell has come to."""
    if record is None:
        return "missing"
    done = record["status"] == "done"
    return str(record.get("verdict") or "unknown") if done else str(record["status"])


def gap(row: Row) -> str:
    """The gap to the language model with its marks."""
    value = row.gap()
    if row.is_language_model or value is None:
        return NONE
    return shown(value, sign="+") + marks(row, GAP)


def information(row: Row) -> str:
    """Both bounds on the mutual information."""
    lower, upper = (row.metric(f"mutual_information{end}") for end in ("", "_upper"))
    if row.is_language_model or lower is None:
        return NONE
    return f"{shown(lower)} – {shown(upper) if upper else '?'}{marks(row, 'mutual_information')}"


def active_units(row: Row) -> str:
    """Active units out of the size of the latent."""
    active = row.metric("active_units")
    if row.is_language_model or active is None:
        return NONE
    count = f"({shown(active, 1)})" if active.seeds > 1 else number(active.mean, 0)
    return f"{count}/{row.done[0]['latent']}{marks(row, 'active_units')}"


def active_by_threshold(row: Row) -> str:
    """Means over seeds of the active units at each threshold, the lowest first."""
    counts = [
        row.metric("active_units" if t == THRESHOLD else f"active_units_{t:g}")
        for t in AT_THRESHOLDS
    ]
    if row.is_language_model or None in counts:
        return NONE
    return " / ".join(f"{count.mean:.3g}" for count in counts if count)


def effective(row: Row) -> str:
    """Effective sample size out of the draws."""
    size, draws = row.metric("ess"), row.metric("nll_samples")
    if row.is_language_model or size is None or draws is None:
        return NONE
    return f"{shown(size, 1)} of {number(draws.mean, 1)}"


def updates(row: Row) -> str:
    """Gradient updates of the encoder's side and of the decoder's."""
    encoder, decoder = row.cost("encoder_updates"), row.cost("decoder_updates")
    return f"{number(encoder, 0)} / {number(decoder, 0)}" if row.done else NONE


def lever(row: Row) -> str:
    """The lever; a row without a remedy pulls none."""
    return {"none": NONE, "unknown": "?"}.get(row.lever, row.lever)


@dataclass(frozen=True)
class Column:
    """A column: its title, its unit, what it means, what it cannot see, and the text of a row."""

    title: str
    unit: str
    meaning: str
    blind: str
    text: Callable[[Row], str]


def of_metric(
    title: str, name: str, text: Callable[[Row], str] | None = None, note: str = "", digits: int = 2
) -> Column:
    """The column of a metric, told as its catalogue does."""
    metric = METRICS[name]
    meaning = (metric.meaning + note).replace("|", r"\|")
    return Column(
        title,
        metric.unit,
        meaning,
        metric.blind.replace("|", r"\|"),
        text or (lambda row: measured(row, name, digits)),
    )


AT_THRESHOLDS = sorted((*THRESHOLDS, THRESHOLD))
COSTS = "means over finished seeds"

MAIN = (
    Column(
        "place",
        "",
        "by mean useful information, among those whose mean NLL is at most"
        f" {TOLERANCE:.1f} nat above the language model's; equal places are ties: a row is behind"
        " the first of a tie only if all of the 95 % interval over seeds of their paired difference"
        " is above 0",
        "a difference that so few seeds cannot show",
        lambda r: NONE if r.place is None else str(r.place),
    ),
    Column("entry", "", "name in the suite", NONE, lambda r: escape(r.entry)),
    Column(
        "lever",
        "",
        "what its remedies change: *build*, what the model is; *objective*, how much each term"
        " counts; *step*, which part is updated when; or several of them",
        NONE,
        lever,
    ),
    Column(
        "verdict",
        "",
        "of every seed that the suite asks for, by the rules below, or what became of it if it did"
        " not finish, which is an outcome as well; counted where seeds differ",
        f"*{BEYOND_A_RECORD}*, which only `python -m collapse_bench diagnose CELL` tells apart from"
        " *collapsed* and *rate without use*, since that needs refined posteriors",
        outcomes,
    ),
    of_metric("useful information", HEADLINE),
    of_metric("NLL", "nll", note="; exact for the language model"),
    Column(
        GAP,
        "nats",
        "NLL minus that of the language model of the same architecture and seed; below 0 is better",
        "whether it is z or another decoder that moved it",
        gap,
    ),
    of_metric("U", "useful_rate"),
    of_metric("R", "kl"),
    of_metric("MI", "mutual_information", information, note=", and an upper bound"),
    of_metric("MI of He 2019", "mutual_information_he2019"),
    of_metric("AU", "active_units", active_units),
    of_metric("effective units", "effective_units", digits=1),
    of_metric("D", "distortion"),
)

DIAGNOSTICS = (
    MAIN[1],
    of_metric("shuffle gap", "shuffle_gap"),
    of_metric("probe", "probe_information"),
    of_metric("marginal KL", "marginal_kl"),
    of_metric("moment KL", "moment_kl"),
    of_metric("TC", "total_correlation"),
    of_metric("dimension KL", "dimension_kl"),
    of_metric("relative AU", "relative_active_units", digits=1),
    of_metric("whitened AU", "whitened_active_units", digits=1),
    Column(
        "AU by threshold",
        "units",
        "active units at a variance above "
        + " / ".join(f"{threshold:g}" for threshold in AT_THRESHOLDS),
        METRICS["active_units"].blind,
        active_by_threshold,
    ),
    of_metric("R + D", "negative_elbo"),
    of_metric("jackknife NLL", "nll_jackknife"),
    of_metric("gain", "nll_gain_of_doubling"),
    of_metric("ESS", "ess", effective, note=", out of how many there were"),
    of_metric("MC error", "nll_monte_carlo_error"),
    of_metric("PPL", "perplexity", digits=1),
    Column(
        "min",
        "minutes",
        f"wall clock of a cell, {COSTS}",
        "what else the machine did",
        lambda r: number(r.cost("seconds", 60), 1),
    ),
    Column(
        "Mtokens",
        "10⁶ tokens",
        f"tokens decoded in training, inner loops and pre-training included, {COSTS}",
        "what a token costs",
        lambda r: number(r.cost("tokens_decoded", 1e6), 2),
    ),
    Column(
        "updates",
        "enc / dec",
        f"gradient updates of encoder's and of decoder's side, {COSTS}",
        "what an update costs",
        updates,
    ),
    Column(
        "ok/n",
        "seeds",
        "finished cells out of those that the suite asks for",
        NONE,
        lambda r: f"{len(r.done)}/{len(r.cells)}",
    ),
)


def main_table(groups: Sequence[Group]) -> list[str]:
    """The table of one architecture, a line above each group that says what it is."""
    lines: list[list[str]] = []
    for group in groups:
        if group.title:
            lines.append(["", f"**{group.title}**", *[""] * (len(MAIN) - 2)])
        lines += [[column.text(row) for column in MAIN] for row in group.rows]
    return markdown([column.title for column in MAIN], lines, numeric=4)


def diagnostics(rows: Iterable[Row]) -> list[str]:
    """The second table of one architecture: what to look at before believing the first."""
    lines = [[column.text(row) for column in DIAGNOSTICS] for row in rows]
    return markdown([column.title for column in DIAGNOSTICS], lines, numeric=1)


def attributes(rows: Sequence[Row]) -> list[str]:
    """What z tells of each known attribute of a sentence; empty where none is known."""
    found = sorted({key for row in rows for record in row.done for key in record["metrics"]})
    names = [str(key).partition("@")[0] for key in found if str(key).startswith(ABOUT)]
    names = [name for name in dict.fromkeys(names) if key_of(name) in found]
    if not names:
        return []
    columns = ["global_information_share", *names]
    lines = [
        [escape(row.entry), *(measured(row, name) for name in columns)]
        for row in rows
        if not row.is_language_model
    ]
    titles = ["entry", "share", *(escape(name.removeprefix(ABOUT)) for name in names)]
    return markdown(titles, lines, numeric=1)


def legend(columns: Iterable[Column]) -> list[str]:
    """What every column means and what it cannot see."""
    return markdown(
        ["column", "unit", "meaning", "cannot see"],
        [[f"**{c.title}**", c.unit, c.meaning, c.blind] for c in columns],
    )


def signs() -> list[str]:
    """What the marks and the verdicts mean that the tables can show."""
    told = {name: meaning for name, meaning in VERDICTS.items() if name != BEYOND_A_RECORD}
    return [
        *(f"- {mark} {meaning}." for mark, meaning in MARKS.items()),
        *(f"- *{name}*: {meaning}." for name, meaning in told.items()),
    ]


def outdated(rows: Iterable[Row]) -> list[str]:
    """Every finished cell with a metric of another version than the present one."""
    lines = [
        [escape(record["cell"]), escape(", ".join(names))]
        for row in rows
        for record in row.done
        if (names := other_versions(record))
    ]
    return markdown(["cell", "metrics"], lines) if lines else []


def unfinished(rows: Sequence[Row]) -> list[str]:
    """Every cell without a result, with the last line of its error; empty if there is none."""
    seeds: dict[tuple[str, str, str, str], list[int]] = {}
    for row in rows:
        for seed, record in row.cells.items():
            status = record["status"] if record else "missing"
            if status != "done":
                error = last_line(record) if record else "no record"
                key = (escape(row.entry), escape(row.architecture), escape(status), error)
                seeds.setdefault(key, []).append(seed)
    lines = [
        [entry, architecture, ", ".join(map(str, sorted(numbers))), status, error]
        for (entry, architecture, status, error), numbers in seeds.items()
    ]
    titles = ["entry", "architecture", "seeds", "status", "last line of its error"]
    return markdown(titles, lines) if lines else []


def last_line(record: Record) -> str:
    """The last line of a record's error, which in a traceback says what happened."""
    lines = str(record.get("error") or "").strip().splitlines()
    line = lines[-1] if lines else "no error was recorded"
    return escape(line if len(line) <= 200 else f"{line[:200]} ...")
