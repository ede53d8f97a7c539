"""A small cell of any remedy."""

from pathlib import Path

from conftest import KNOWN

from collapse_bench.job import Job
from collapse_bench.laws.bench import ARCHITECTURES, SIZES, TRAINING, tiny_corpus, tiny_values
from collapse_bench.remedy import find_class
from collapse_bench.runner import plan
from collapse_bench.suite import Cell, CorpusSettings, Entry, Evaluation, RemedySettings

BUDGET = 6000

LEARNING = {"fitted_prior": {"share": 0.9}}
"""Settings with which the first updates learn from the reconstruction: with those for tiny sizes
this one fits its prior from the second update on, to which no reconstruction is anything."""


def job_of(name: str, architecture: str | None, out: Path) -> Job:
    """A cell of a remedy at its tiny settings, as a run that begins now plans it.

    Args:
        name: the remedy's.
        architecture: None is the first that it is for.
        out: folder of the runs.
    """
    remedy = find_class(name, KNOWN[name])
    corpus = tiny_values() if remedy.values else tiny_corpus()
    cell = Cell(
        "tiny",
        Entry(name, (RemedySettings(name, {**remedy.small, **LEARNING.get(name, {})}),)),
        architecture or next(each for each in ARCHITECTURES if each in remedy.architectures),
        1,
        CorpusSettings(),
        SIZES,
        TRAINING,
        Evaluation(samples=2, precision="float32"),
    )
    budget = BUDGET * (2 if name == "svi" else 1)  # whose updates decode each sentence often
    [job] = plan([cell], corpus, out, budget=budget, device="cpu", remedy_files=KNOWN)
    return job
