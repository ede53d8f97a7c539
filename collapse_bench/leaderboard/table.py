"""Rows -> markdown tables. One list of columns makes both the table and its legend."""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from collapse_bench.leaderboard.section import KINDS, Record, Row, ceiling, number_of
from collapse_bench.leaderboard.statistics import Estimate

COLLAPSED = 0.5  # nats a sentence
SATURATED = 0.6  # share of ln N above which even the full-sum bound falls behind
NONE = "–"


def clean(text: str) -> str:
    """One line without control, direction or unassigned characters."""
    line = " ".join(str(text).split())
    return "".join(c for c in line if not unicodedata.category(c).startswith("C"))


def escape(text: str) -> str:
    """Text of a record as markdown that shows it and does nothing else."""
    marked = re.sub(r"([\\|<>&\[\]()!`*~$#@]|:(?=//)|(?<=www)\.)", r"\\\1", clean(text))
    # Inside a word an underscore means nothing, and names are easier to read without backslashes.
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", marked)


def number(value: float | None, digits: int = 2, sign: str = "") -> str:
    """A number for a table; null and NaN say so."""
    if value is None:
        return NONE
    if not math.isfinite(value):
        return "not finite"
    return f"{round(value, digits) + 0.0:{sign},.{digits}f}"  # + 0.0: never "-0.00"


def shown(estimate: Estimate | None, digits: int = 2, sign: str = "") -> str:
    """`mean ± half width` over seeds, `value (standard error)` of a single one."""
    if estimate is None:
        return NONE
    text = number(estimate.mean, digits, sign)
    if estimate.spread is None:
        return text
    spread = number(estimate.spread, digits)
    return f"{text} ± {spread}" if estimate.seeds > 1 else f"{text} ({spread})"


def verdict(record: Record) -> str:
    """The verdict of one cell, by the stated rule alone."""
    rate = number_of(record, "metrics", "kl")
    information = number_of(record, "metrics", "mutual_information")
    if not record["latent"]:
        return "no latent"
    if rate is None or information is None or not math.isfinite(rate + information):
        return "unknown"
    if rate < COLLAPSED:
        return "collapsed"
    return "rate without information" if information < COLLAPSED else "not collapsed"


def verdicts(row: Row) -> str:
    """One verdict if the seeds agree, else how many seeds got which."""
    counts = Counter(verdict(record) for record in row.done)
    if len(counts) < 2:
        return next(iter(counts), NONE)
    return ", ".join(f"{name} {n}/{len(row.done)}" for name, n in sorted(counts.items()))


def information(row: Row) -> str:
    """Both bounds on the mutual information, marked where the lower one nears its ceiling."""
    lower, upper = row.metric("mutual_information"), row.metric("mutual_information_upper")
    if row.is_language_model or lower is None:
        return NONE
    mark = " †" if lower.mean > SATURATED * ceiling(row.done[0]) else ""
    return f"{shown(lower)} – {shown(upper) if upper else '?'}{mark}"


def active_units(row: Row) -> str:
    """Active units out of the size of the latent."""
    active = row.metric("active_units")
    if row.is_language_model or active is None:
        return NONE
    count = f"({shown(active, 1)})" if active.seeds > 1 else number(active.mean, 0)
    return f"{count}/{row.done[0]['latent']}"


def effective(row: Row) -> str:
    """Effective sample size out of the draws."""
    size, draws = row.metric("ess"), row.metric("nll_samples")
    if row.is_language_model or size is None or draws is None:
        return NONE
    return f"{shown(size, 1)} of {number(draws.mean, 1)}"


def monte_carlo_error(row: Row) -> str:
    """Error of a sentence's NLL, marked where it is above what the suite asks for."""
    error = row.metric("nll_monte_carlo_error")
    if row.is_language_model or error is None:
        return NONE
    settings = (row.done[0].get("settings") or {}).get("evaluation") or {}
    asked = settings.get("standard_error") or math.inf
    return number(error.mean) + (" ‡" if error.mean > asked else "")


def updates(row: Row) -> str:
    """Gradient updates of the encoder's side and of the decoder's."""
    encoder, decoder = row.cost("encoder_updates"), row.cost("decoder_updates")
    return f"{number(encoder, 0)} / {number(decoder, 0)}" if row.done else NONE


@dataclass(frozen=True)
class Column:
    """A column: its title, its unit, what it means, and the text of a row in it."""

    title: str
    unit: str
    meaning: str
    text: Callable[[Row], str]


NATS = "nats/sentence"
COLUMNS = (
    Column("entry", "", "name in the suite, grouped by its lever", lambda r: escape(r.entry)),
    Column(
        "verdict",
        "",
        f"by rule, seed by seed: *collapsed* if R < {COLLAPSED}; else *rate without information* if"
        f" the lower bound of MI < {COLLAPSED}; else *not collapsed*, which does not yet mean that"
        " the decoder makes good use of z",
        verdicts,
    ),
    Column(
        "NLL",
        NATS,
        "negative log-likelihood: exact for the language model, with a latent an upper bound,"
        " importance weighted; one draw in eight, and at least one, comes from the prior, so it"
        " stays finite where R is huge and then tells nothing of the posterior; lower is better",
        lambda r: shown(r.metric("nll")),
    ),
    Column(
        "gap to LM",
        NATS,
        "NLL minus that of the language model of the same architecture and seed; below 0 is better"
        " than the language model. A remedy that replaces the decoder also moves it by that,"
        " whatever z does",
        lambda r: NONE if r.is_language_model else shown(r.gap(), sign="+"),
    ),
    Column(
        "R",
        NATS,
        "rate, E KL(q(z\\|x) ‖ p(z)); can be set by construction",
        lambda r: NONE if r.is_language_model else shown(r.metric("kl")),
    ),
    Column(
        "MI",
        NATS,
        "mutual information of sentence and latent under q, lower – upper bound over the whole test"
        f" split; † where the lower bound is above {100 * SATURATED:.0f} % of its ceiling ln N, and"
        " hence too low (saturated)",
        information,
    ),
    Column(
        "AU",
        "of the latent",
        "active units: dimensions whose posterior mean has a variance above 0.01 over the test"
        " sentences; depends on the scale of z",
        active_units,
    ),
    Column(
        "D",
        NATS,
        "distortion, -E log p(x\\|z); D alone is not a likelihood",
        lambda r: shown(r.metric("distortion")),
    ),
    Column(
        "R + D",
        NATS,
        "negative ELBO; far above the NLL, the posterior is far from the true one",
        lambda r: shown(r.metric("negative_elbo")),
    ),
    Column(
        "ESS",
        "of S draws",
        "effective sample size of the draws behind a sentence's NLL, mean over sentences; near 1,"
        " one draw decides, and the NLL is loose",
        effective,
    ),
    Column(
        "MC error",
        NATS,
        "standard error of a sentence's NLL, from the draws behind it, mean over sentences; ‡ where"
        " it is above what the suite asks for, since the draws ran out: the NLL is then too high by"
        " about half its square, or more",
        monte_carlo_error,
    ),
    Column(
        "PPL",
        "per token",
        "perplexity, exp(NLL / tokens); end of sentence counted, beginning and padding not",
        lambda r: shown(r.metric("perplexity"), 1),
    ),
    Column("min", "minutes", "wall clock of a cell", lambda r: number(r.cost("seconds", 60), 1)),
    Column(
        "Mtokens",
        "10⁶ tokens",
        "tokens decoded in training, inner loops and pre-training included",
        lambda r: number(r.cost("tokens_decoded", 1e6), 2),
    ),
    Column("updates", "enc / dec", "gradient updates of encoder's and of decoder's side", updates),
    Column(
        "ok/n",
        "seeds",
        "finished cells out of those that the suite asks for",
        lambda r: f"{len(r.done)}/{len(r.cells)}",
    ),
)


def markdown(titles: Sequence[str], rows: Sequence[Sequence[str]], numeric: int = 99) -> list[str]:
    """A table padded so that its source reads as well; columns from `numeric` on align right."""
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if place >= numeric else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = [f"{'-' * (w - 1)}{':' if i >= numeric else '-'}" for i, w in enumerate(widths)]
    return [line(titles), line(rule), *map(line, rows)]


def table(rows: Sequence[Row]) -> list[str]:
    """The table of one architecture, a line for each lever above its entries."""
    lines: list[list[str]] = []
    for kind, title in KINDS.items():
        members = [[column.text(row) for column in COLUMNS] for row in rows if row.kind == kind]
        lines += [[f"**{title}**", *[""] * (len(COLUMNS) - 1)], *members] if members else []
    return markdown([column.title for column in COLUMNS], lines, numeric=2)


def legend() -> list[str]:
    """What every column means."""
    return markdown(
        ["column", "unit", "meaning"], [[f"**{c.title}**", c.unit, c.meaning] for c in COLUMNS]
    )


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
