"""The measured bound held against remedies that keep the laws and cheats that break one each."""

from collections.abc import Iterator
from typing import NamedTuple

from collapse_bench.evaluation import Finding, bound_from, findings, wider
from collapse_bench.laws.bench import ARCHITECTURES, Built, make, tiny_corpus
from collapse_bench.plugins import built_in
from collapse_bench.remedy import find_class
from collapse_bench.truth.cheats import CHEATS, cheat_files

BATCH, SEED = 16, 1

HONEST = (
    "pooling", "bn_vae", "scale_vae", "delta_vae", "mixture_prior", "flow_prior",
    "word_dropout", "dilated_convolutions", "skip_vae", "latent_memory", "semi_amortised",
)  # fmt: skip
"""Remedies that fill every slot; whether the bound of any other is one `check FILE.py` asks."""


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
    """Plain VAE, language model and `HONEST` in the architectures they are for, and every cheat."""
    files = built_in()
    for architecture in ARCHITECTURES:
        yield tried(f"language_model, {architecture}", "valid", make(architecture, latent=0))
        yield tried(f"vae, {architecture}", "valid", make(architecture))
        for name in HONEST:
            if architecture in find_class(name, files[name]).architectures:
                yield tried(f"{name}, {architecture}", "valid", make(architecture, [name]))
    for name, (law, kind) in CHEATS.items():
        built = make("lstm", [name], files=cheat_files())
        yield tried(f"cheat: {name}", f"{kind}: {law}", built)


def tried(name: str, expected: str, built: Built) -> Tried:
    """What is found of a model against what should be."""
    found = findings(wider(built.model), tiny_corpus().train, batch=BATCH, seed=SEED)
    return Tried(name, expected, told(found))


def told(found: tuple[Finding, ...]) -> str:
    """The kind of bound and the laws that are broken."""
    laws = ", ".join(finding.law for finding in found)
    return f"{bound_from(found).kind}: {laws}" if laws else bound_from(found).kind
