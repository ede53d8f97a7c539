"""The measured bound held against remedies that keep the laws and cheats that break one each."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

from collapse_bench.cell import build
from collapse_bench.corpus import Corpus, load_corpus
from collapse_bench.evaluation import Finding, bound_from, findings, wider
from collapse_bench.model import SequenceVAE
from collapse_bench.plugins import remedy_files
from collapse_bench.remedy import find_class
from collapse_bench.suite import (
    Cell,
    CorpusSettings,
    Entry,
    Evaluation,
    RemedySettings,
    Sizes,
    Training,
)
from collapse_bench.suite.definition import Architecture
from collapse_bench.truth.cheats import CHEATS, cheat_files

SIZES = Sizes(embedding=10, hidden=15, latent=8, layers=2, heads=3)
CORPUS = CorpusSettings(sentences=60, vocabulary=41)
BATCH, SEED = 16, 1


class Tried(NamedTuple):
    """A model and what was found.

    Attributes:
        name: of the remedy or cheat, and the architecture.
        expected, found: kind of bound with the laws that are broken.
    """

    name: str
    expected: str
    found: str


def honesty_controls() -> Iterator[Tried]:
    """The plain VAE, the language model and every remedy in both architectures, and every cheat."""
    corpus = load_corpus(CORPUS, None, lambda told: None)
    files, cheats = remedy_files(), cheat_files()
    for architecture in ("lstm", "transformer"):
        for name, latent in (("language_model", 0), ("vae", None), *((f, None) for f in files)):
            model = small_model(architecture, name, files, corpus, latent)
            yield tried(f"{name}, {architecture}", "valid", model, corpus)
    for name, (law, kind) in CHEATS.items():
        model = small_model("lstm", name, cheats, corpus)
        yield tried(f"cheat: {name}", f"{kind}: {law}", model, corpus)


def small_model(
    architecture: str,
    name: str,
    files: Mapping[str, Path],
    corpus: Corpus,
    latent: int | None = None,
) -> SequenceVAE:
    """An untrained model with this remedy, or with none if there is no file of the name."""
    remedies: tuple[RemedySettings, ...] = ()
    if name in files:
        small: Any = find_class(name, files[name])
        remedies = (RemedySettings(name, dict(small.small)),)
    cell = Cell(
        "verify",
        Entry(name, remedies),
        cast(Architecture, architecture),
        SEED,
        CORPUS,
        SIZES if latent is None else replace(SIZES, latent=latent),
        Training(budget=1000),
        Evaluation(),
    )
    model, _ = build(cell, corpus, files)
    return wider(model)


def tried(name: str, expected: str, model: SequenceVAE, corpus: Corpus) -> Tried:
    """What is found of a model against what should be."""
    found = findings(model, corpus.train, batch=BATCH, seed=SEED)
    return Tried(name, expected, told(found))


def told(found: tuple[Finding, ...]) -> str:
    """The kind of bound and the laws that are broken."""
    laws = ", ".join(finding.law for finding in found)
    return f"{bound_from(found).kind}: {laws}" if laws else bound_from(found).kind
