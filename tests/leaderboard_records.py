"""Records of cells as a suite leaves them, and pages made of them, for the leaderboard's tests."""

import re

from collapse_bench.leaderboard.columns import MAIN
from collapse_bench.leaderboard.page import render
from collapse_bench.leaderboard.section import sections_of
from collapse_bench.metrics import METRICS as CATALOGUE
from collapse_bench.metrics import key_of
from collapse_bench.record import SCHEMA

METRICS = {
    "nll": 104.0,
    "nll_samples": 16,
    "nll_monte_carlo_error": 0.125,
    "nll_gain_of_doubling": 0.05,
    "ess": 12.0,
    "negative_elbo": 104.1,
    "distortion": 104.0,
    "kl": 0.1,
    "marginal_kl": 0.05,
    "useful_rate": 0.04,
    "useful_beyond": 0.03,
    "useful_information": 0.04,
    "mutual_information": 0.05,
    "mutual_information_upper": 0.06,
    "mutual_information_he2019": 0.03,
    "active_units": 0,
    "perplexity": 115.2,
}


def record(entry="vae", seed=1, architecture="lstm", corpus=(), status="done", **changes):
    """A finished record; metrics may be given by name."""
    metrics = METRICS | {name: changes.pop(name) for name in list(changes) if name in CATALOGUE}
    errors = changes.pop("standard_errors", {})
    levers = changes.pop("levers", [])
    return {
        "schema": SCHEMA,
        "suite": "tiny",
        "cell": f"{entry}-{architecture}-{seed}-00c0ffee",
        "entry": entry,
        "architecture": architecture,
        "seed": seed,
        "status": status,
        "error": None,
        "budget": 1000,
        "suite_budget": 1000,
        "family": "normal",
        "bound": "valid",
        "bound_reasons": [],
        "levers": levers,
        "settings": {
            "sizes": {"hidden": 8, "latent": 32},
            "training": {"batch": 32, "precision": "auto", "budget": 1000},
            "evaluation": {"samples": 32},
        },
        "corpus": {
            "name": "ptb",
            "requested": "ptb",
            "sha256": "0123abcd",
            "standard": True,
            "sentences": {"train": 100, "valid": 10, "test": 20},
            "tokens": {"train": 2000, "valid": 200, "test": 400},
            "vocabulary": {"types": 50, "tokenizer": "words", "unknown_share_of_test": 0.0125},
            **dict(corpus),
        },
        "remedies": [{"name": entry, "settings": {}}] if levers else [],
        "latent": 32,
        "metrics": {key_of(n): v for n, v in metrics.items()} if status == "done" else {},
        "standard_errors": {key_of(name): value for name, value in errors.items()},
        "by_construction": [],
        "verdict": "collapsed" if status == "done" else None,
        "validation": {
            "negative_elbo": 104.0,
            "tokens": 0.9 * changes.get("budget", 1000),
            "converged": False,
        },
        "cost": {
            "seconds": 90.0,
            "tokens_decoded": 1_500_000,
            "encoder_updates": 1234,
            "decoder_updates": 1234,
        },
        "environment": {
            "collapse_bench": "0.1.0",
            "python": "3.11.9",
            "torch": "2.13.0",
            "device": "cpu",
            "threads": 1,
            "precision": {"training": "bfloat16", "evaluation": "float32"},
            "platform": "Linux",
            "commit": "79a4ff3",
        },
        **changes,
    }


def language_model(seed=1, **changes):
    changes = {"latent": 0, "kl": 0.0, "nll": 103.5, "distortion": 103.5} | changes
    changes = {"useful_rate": 0.0, "useful_beyond": 0.0, "verdict": "no latent"} | changes
    return record("language_model", seed, **changes)


def keys(records):
    return [(r["entry"], r["architecture"], r["seed"]) for r in records]


def page_of(records, expected=None, curves=()):
    return render("tiny", sections_of(expected or keys(records), records), dict(curves))


def rows_of(page):
    """The cells of every table line, split as GitHub splits them."""
    lines = [line for line in page.splitlines() if line.startswith("|")]
    return [[c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def row_of(page, entry, columns=MAIN):
    titles = [column.title for column in columns]
    at = titles.index("entry")
    cells = next(r for r in rows_of(page) if len(r) == len(titles) and r[at] == entry)
    return dict(zip(titles, cells, strict=True))


def rows_in(records):
    """The rows of the only architecture of the only section."""
    return sections_of(keys(records), records)[0].rows


def entries_in(page):
    """The first entries of the main tables, with the lines above groups."""
    at = [column.title for column in MAIN].index("entry")
    return [row[at] for row in rows_of(page) if len(row) == len(MAIN)][2:]


def seeds_of(entry, useful, nll=104.0, **changes):
    """A finished record for each value of the headline."""
    return [
        record(entry, seed, useful_beyond=value, nll=nll, levers=["step"], **changes)
        for seed, value in enumerate(useful, 1)
    ]


def section_of(page, title):
    """The table rows of a part of the page, without its heads."""
    part = page.split(f"#### {title}")[1].split("\n#")[0]
    return [row for row in rows_of(part) if not row[0].startswith("-")], part


def sweep(*points, seed=1):
    """Finished records of a swept entry from (R, headline, NLL)."""
    return [
        record(f"knob-{i}", seed, levers=["step"], **values)
        for i, (r, u, n) in enumerate(points)
        for values in [{"kl": r, "useful_beyond": u, "nll": n, "distortion": n - u}]
    ]


def names_of(records):
    return list(dict.fromkeys(r["entry"] for r in records if r["entry"].startswith("knob")))
