"""What a reader of a section has to know before the first number, from the records alone."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from collapse_bench.leaderboard.markdown import escape, number
from collapse_bench.leaderboard.marks import APART, OWN_BUDGET
from collapse_bench.leaderboard.section import (
    Record,
    Section,
    ceiling,
    channels,
    metric_of,
    number_of,
)

BEFORE = {"weights": "best"}
"""Settings that records older than these do not tell, as they were then."""

KNOWN = {
    "global_information": "Global information of a sentence",
    "exact_nll_of_test": "NLL of the test sentences under the process that made them",
}
"""What a built-in corpus knows of itself, as its record calls it."""

CONVERGED = "gained less than 0.1 nats on validation, or lost, since three quarters of the budget"


def header(section: Section) -> list[str]:
    """The lines of the header; what is shown apart counts in none of them."""
    corpus = section.records[0]["corpus"]
    done = [record for row in section.rows if not row.apart for record in row.done]
    name, tokens = escape(section.corpus), "steps" if section.of_values else "tokens"
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
        f"- Corpus: **{name}**{level(corpus)}, sha256 {escape(section.sha256)} ({standard});"
        f" train / valid / test: {splits(corpus['sentences'])}"
        f" {'sequences' if section.of_values else 'sentences'},"
        f" {splits(corpus['tokens'])} {tokens}"
        f"{'' if section.of_values else ' with end of sentence'}",
        values(corpus)
        if section.of_values
        else f"- Vocabulary: {vocabulary(corpus['vocabulary'])}",
        *labels(corpus),
        *length(done),
        f"- Budget: {section.budget:,} decoded {tokens} a cell{epochs}{own_budgets(section)}",
        f"- Converged: {convergence([r for r in done if not r.get('trained_as')])}",
        f"- Seeds: {listed(r['seed'] for r in section.records)}; {finished_cells(section)}",
        f"- NLL: importance weighted, S = {samples(done)}; ceiling of MI: ln N ="
        f" {ceiling(section.records[0]):.2f} nats",
        f"- Sizes: {settings(section.records, 'sizes', 'latent')}, {latent(section.records)}",
        f"- Training: {settings(section.records, 'training', 'budget')}",
        f"- Evaluation: {settings(section.records, 'evaluation')}",
        f"- Machine: {environment(section.records)}",
        f"- Scored by: {scored(section.records)}",
        *held(section),
    ]
    if not any(row.is_language_model for row in section.rows):
        lines.append(
            "- **No language model control has a valid record, so there is no gap to read.**"
        )
    for name, what in KNOWN.items():
        if name in corpus:
            known = number_of({"corpus": corpus}, "corpus", name)
            lines.append(f"- {what}, known exactly: {number(known)} nats")
    return lines


def values(corpus: Mapping[str, Any]) -> str:
    """What the steps are that every NLL is about."""
    told = f"- Values: **{channels(corpus['channels'])}**"
    log_scale = number_of({"corpus": corpus}, "corpus", "log_scale")
    if log_scale is not None:
        told += (
            f", standardised over the training split: {number(log_scale)} nats a step added to an"
            f" NLL or D make it that of the values as they were given"
        )
    return (
        f"{told}. **NLL and D are those of a density**: they may be below 0, in other units of the"
        f" values they are other numbers, and there is no perplexity. How many steps a sequence has"
        f" is not counted. *Beyond* is beyond the length, and beyond the first three steps only in"
        f" what the decoder loses later with another z: what z tells of these steps is not known"
    )


def vocabulary(told: Mapping[str, Any]) -> str:
    """What the tokens are that every NLL and perplexity is about."""
    share = number_of({"told": told}, "told", "unknown_share_of_test")
    unknown = "share not recorded" if share is None else f"{number(100 * share)} %"
    return (
        f"**{told['types']:,} types**, tokenizer {escape(told['tokenizer'])}, `<unk>` in test:"
        f" {unknown}; NLL and perplexity under another vocabulary must not be compared with these"
    )


def level(corpus: Mapping[str, Any]) -> str:
    """How hard newswire is; empty for what has no levels, and for records older than these."""
    return f", level {escape(corpus['level'])}" if corpus.get("level") else ""


def labels(corpus: Mapping[str, Any]) -> list[str]:
    """How many test sentences carry each label; empty without labels."""
    of = number(number_of(corpus, "sentences", "test"), 0)
    told = [
        f"{escape(name)} on {number(number_of({'n': counts}, 'n', 'test'), 0)} of {of}"
        for name, counts in sorted((corpus.get("labelled") or {}).items())
    ]
    return [f"- Labels, test sentences that carry one: {', '.join(told)}"] if told else []


def length(done: Sequence[Record]) -> list[str]:
    """The most that z can tell of the length; empty where no cell has it."""
    known = (metric_of(record, "length_entropy") for record in done)
    entropy = next((value for value in known if value is not None), None)
    if entropy is None:
        return []
    room = number(ceiling(done[0]) - entropy)
    return [
        f"- Entropy of the length in test: {number(entropy)} nats; ceiling of MI given length:"
        f" {room} nats"
    ]


def own_budgets(section: Section) -> str:
    """The entries that have another budget than the section."""
    told = {
        f"{escape(row.entry)} {' or '.join(f'{budget:,}' for budget in row.own_budgets)}": None
        for row in section.rows
        if row.own_budgets
    }
    return f"; **budgets of their own ({OWN_BUDGET}): {', '.join(told)}**" if told else ""


def finished_cells(section: Section) -> str:
    """How many cells have finished, and how many of the finished are shown apart."""
    rows = section.rows
    done = sum(len(row.done) for row in rows)
    told = f"{done} of {sum(len(row.cells) for row in rows)} cells finished"
    apart = sum(len(row.done) for row in rows if row.apart)
    return (
        f"{told}, **{apart} of them shown apart ({APART}) and counted in no other line**"
        if apart
        else told
    )


def settings(records: Sequence[Record], section: str, left_out: str = "") -> str:
    """A section of the suite as it was in these records; several values where they differ."""
    parts = [(record.get("settings") or {}).get(section) or {} for record in records]
    names = dict.fromkeys(name for part in parts for name in part if name != left_out)
    values = {n: [part.get(n, BEFORE.get(n)) for part in parts] for n in names}
    several = [n for n, each in values.items() if len(set(map(str, each))) > 1]
    told = [f"{escape(n)} {listed(each)}" for n, each in values.items()]
    differ = f" (**cells differ in {', '.join(map(escape, several))}**)" if several else ""
    return f"{', '.join(told)}{differ}" if told else "not recorded"


def latent(records: Sequence[Record]) -> str:
    """The dimensions of z, of an entry's own too; a language model has none."""
    sizes = [r["latent"] for r in records if r["latent"] > 0 and r.get("bound") != "oracle"]
    return f"latent {listed(sizes) if sizes else 'none'}"


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
        f"{told.get('training')} in training and"
        f" {(record.get('scored') or {}).get('precision') or told.get('evaluation')} in evaluation"
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


def held(section: Section) -> list[str]:
    """How many finished records were held against their arrays, those shown apart too; the records
    tell it themselves, since who makes the page again may not have the arrays."""
    done = [record for row in section.rows for record in row.done]
    without = [record for record in done if record.get("held") is None]
    of, when = len(done), "when this page was first made"
    if not done:
        return []
    if not without:
        return [f"- Records: {of} of {of} were held against their arrays {when}"]
    if len(without) == of:
        return [f"- Records: **none of {of}** was held against its arrays {when}"]
    names = (f"{r['entry']}/{r['architecture']}/{r['seed']}" for r in without)
    return [
        f"- Records: **{of - len(without)} of {of}** were held against their arrays {when}, and not"
        f" {', '.join(map(escape, names))}"
    ]


def listed(values: Iterable[object]) -> str:
    """The different values, escaped; "not recorded" for those that are null."""
    found = sorted(
        {"not recorded" if value is None else str(value) for value in values}, key=natural
    )
    return ", ".join(map(escape, found)) or "not recorded"


def natural(text: str) -> tuple[int, str]:
    """A sort key that puts 2 before 10."""
    return (int(text) if text.isdecimal() else 0, text)
