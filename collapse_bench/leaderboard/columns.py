"""The columns of the tables. One list of them makes both a table and its legend."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from collapse_bench.leaderboard.markdown import NONE, escape, number, shown
from collapse_bench.leaderboard.marks import ABSENT, GAP, marks, named
from collapse_bench.leaderboard.ranking import HEADLINE, TIE, TOLERANCE
from collapse_bench.leaderboard.section import Record, Row
from collapse_bench.metrics import METRICS
from collapse_bench.metrics.active_units import THRESHOLD, THRESHOLDS

OF_A_LANGUAGE_MODEL = ("nll", "distortion", "negative_elbo", "perplexity")
"""The metrics that say something of a model without a latent."""

BEYOND_A_RECORD = "inference collapse"
"""The verdict that no record can hold: it takes posteriors refined under the frozen decoder."""

BOUND_IN_WORDS = {"oracle": "told in advance", "conditional": "conditional", "invalid": "no bound"}
"""In place of the verdict, which would be about a model that is not what it seems."""


def without(row: Row, *names: str) -> str:
    """What stands where there is no number: with a mark if the family has no such metric."""
    return f"{NONE} {ABSENT}" if row.has_latent and row.absent.keys() & set(names) else NONE


def measured(row: Row, name: str, digits: int = 2) -> str:
    """A metric with its marks; of a model without a latent only what it has."""
    value = row.metric(name)
    if value is None or not (row.has_latent or name in OF_A_LANGUAGE_MODEL):
        return without(row, name)
    return shown(value, digits) + (marks(row, name) if row.has_latent else "")


def entry(row: Row) -> str:
    """The name of a row, its budget where it has one of its own, and at which share of it the
    weights were selected where that is early."""
    budgets = " or ".join(f"{budget:,}" for budget in row.own_budgets)
    text = f"{named(row)} {budgets} tokens" if budgets else named(row)
    return text if row.scored_at is None else f"{text} at {100 * row.scored_at:.0f} %"


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
    if record["status"] != "done":
        return str(record["status"])
    return BOUND_IN_WORDS.get(record["bound"]) or str(record.get("verdict") or "unknown")


def gap(row: Row) -> str:
    """The gap to the language model with its marks; without a bound there is none to read."""
    value = row.gap()
    if row.is_language_model or row.bound not in ("valid", "oracle") or value is None:
        return NONE
    return shown(value, sign="+") + (marks(row, GAP) if row.has_latent else "")


def information(row: Row, name: str = "mutual_information") -> str:
    """Both bounds on an information."""
    lower, upper = (row.metric(f"{name}{end}") for end in ("", "_upper"))
    if not row.has_latent or lower is None:
        return without(row, name)
    return f"{shown(lower)} – {shown(upper) if upper else '?'}{marks(row, name)}"


def active_units(row: Row) -> str:
    """Active units out of the size of the latent."""
    active = row.metric("active_units")
    if not row.has_latent or active is None:
        return without(row, "active_units")
    count = f"({shown(active, 1)})" if active.seeds > 1 else number(active.mean, 0)
    return f"{count}/{row.done[0]['latent']}{marks(row, 'active_units')}"


def active_by_threshold(row: Row) -> str:
    """Means over seeds of the active units at each threshold, the lowest first."""
    names = ["active_units" if t == THRESHOLD else f"active_units_{t:g}" for t in AT_THRESHOLDS]
    counts = [row.metric(name) for name in names]
    if not row.has_latent or None in counts:
        return without(row, *names)
    return " / ".join(f"{count.mean:.3g}" for count in counts if count)


def effective(row: Row) -> str:
    """Effective sample size out of the draws."""
    size, draws = row.metric("ess"), row.metric("nll_samples")
    if not row.has_latent or size is None or draws is None:
        return NONE
    return f"{shown(size, 1)} of {number(draws.mean, 1)}"


def updates(row: Row) -> str:
    """Gradient updates of the encoder's side and of the decoder's."""
    encoder, decoder = row.cost("encoder_updates"), row.cost("decoder_updates")
    return f"{number(encoder, 0)} / {number(decoder, 0)}" if row.done else NONE


def speed(row: Row) -> float | None:
    """Decoded tokens a second; None where a record does not say how long the training took."""
    tokens, seconds = row.cost("tokens_decoded"), row.cost("training_seconds")
    return tokens / seconds if tokens and seconds else None


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
        "by mean *beyond*, among those whose mean NLL is at most"
        f" {TOLERANCE:.1f} nat above the language model's; equal places are ties: a row is behind"
        " the first of a tie only if all of the 95 % interval over seeds of their paired difference"
        f" is above 0 and their mean above {TIE:g} nats; intervals are not corrected for the number"
        " of rows",
        "a difference that so few seeds cannot show; how much NLL was paid within the 1 nat",
        lambda r: NONE if r.place is None else str(r.place),
    ),
    Column("entry", "", "name in the suite, and a budget of its own", NONE, entry),
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
        " not finish, which is an outcome as well; counted where seeds differ. A cell that is shown"
        " apart has none: *told in advance* by the suite; *conditional*, its prior looks at the"
        " sentence or at other data; *no bound*, its NLL is none on -log p(x)",
        f"*{BEYOND_A_RECORD}*, which only `python -m collapse_bench diagnose CELL` tells apart from"
        " *collapsed* and *rate without use*, since that needs refined posteriors",
        outcomes,
    ),
    of_metric("beyond", HEADLINE),
    of_metric("useful", "useful_information"),
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
    of_metric("AU", "active_units", active_units),
    of_metric("D", "distortion"),
)

BARE_ENTRY = Column("entry", "", "name in the suite", NONE, named)

TOLD_OF_WHAT = (
    BARE_ENTRY,
    of_metric("MI beyond", "information_beyond"),
    of_metric("trivial MI", "trivial_information"),
    of_metric(
        "MI given length",
        "information_given_length",
        lambda row: information(row, "information_given_length"),
        note=", and an upper bound",
    ),
    of_metric("first words", "first_words_information"),
    of_metric("probe", "probe_information"),
    of_metric("shuffle gap", "shuffle_gap"),
    of_metric("later", "shuffle_gap_later"),
    of_metric("shuffle gap, any length", "shuffle_gap_any"),
    of_metric("MI of He 2019", "mutual_information_he2019"),
    of_metric("effective units", "effective_units", digits=1),
)

DIAGNOSTICS = (
    BARE_ENTRY,
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
        "tok/s",
        "decoded",
        f"tokens decoded a second of training and validation, {COSTS}",
        "what else the machine did",
        lambda r: number(speed(r), 0),
    ),
    Column(
        "MiB",
        "peak",
        f"most memory of a cell's process, {COSTS}",
        "what of it is text and libraries",
        lambda r: number(r.cost("peak_memory_mib"), 0),
    ),
    Column(
        "ok/n",
        "seeds",
        "finished cells out of those that the suite asks for",
        NONE,
        lambda r: f"{len(r.done)}/{len(r.cells)}",
    ),
)

REFINED = (
    of_metric("refined R + D", "refined_bound"),
    of_metric("gain of refining", "refinement_gain"),
)

GIVEN_NEIGHBOURS = (of_metric("R + D given neighbours", "negative_elbo_given_neighbours"),)


def of_diagnostics(rows: Sequence[Row]) -> tuple[Column, ...]:
    """The columns of the last table; those of refined posteriors, and of priors that know a
    sentence's neighbours, where a record has any."""
    refined = any(row.metric("refined_bound") for row in rows)
    given = any(row.metric("negative_elbo_given_neighbours") for row in rows)
    return (*DIAGNOSTICS, *(REFINED if refined else ()), *(GIVEN_NEIGHBOURS if given else ()))
