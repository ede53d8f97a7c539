"""The entries of a suite tried before it is run: whether they build, and train for a few steps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from collapse_bench import cell as cells
from collapse_bench.corpus import Corpus, load_corpus
from collapse_bench.errors import UserError
from collapse_bench.evaluation import wider
from collapse_bench.importing import place
from collapse_bench.remedy import chain, find_class
from collapse_bench.suite import VALUES, Cell, CorpusSettings
from collapse_bench.training import Selection, TrainingRun, train

TINY_CORPUS, TINY_BUDGET = 40, 1000
"""Sentences and tokens that `check` tries every entry of a suite on: two batches of 32."""

UNKNOWN = 10**5
"""Sentences of a corpus that has not been read: more than any codebook asks for, and no more than a
memory of all of them has room for."""


@dataclass(frozen=True)
class Built:
    """What came of building each model of a suite.

    Attributes:
        problems: what its author can mend, each once, with the entries and architectures.
        parameters: of each model, by entry and architecture; where it could be built.
    """

    problems: list[str]
    parameters: Mapping[tuple[str, str], int]


def check_builds(chosen: Sequence[Cell], corpus: Corpus, remedy_files: Mapping[str, Path]) -> Built:
    """Build each model of a suite, and say what its author can mend.

    Whatever else goes wrong is left to the cells, where it harms no other.

    Args:
        chosen: cells; those that differ in the seed alone are taken once.
        remedy_files: where each remedy is.
    """
    problems: dict[str, list[str]] = {}
    parameters: dict[tuple[str, str], int] = {}
    for name, each in _without_seeds(chosen).items():
        try:
            model, _ = cells.build(each, cells.seen_by(each, corpus), remedy_files)
        except UserError as error:
            problems.setdefault(str(error), []).append(name)
        except Exception:  # the cell's own outcome
            continue
        else:
            count = sum(weight.numel() for weight in model.parameters())
            parameters[each.entry.name, each.architecture] = count
    return Built(_told(problems), parameters)


def check_steps(
    chosen: Sequence[Cell], remedy_files: Mapping[str, Path], sentences: int = UNKNOWN
) -> list[str]:
    """Build each model and train it on a little that is generated, for `TINY_BUDGET` tokens.

    Args:
        chosen: cells; those that differ in the seed alone are taken once.
        remedy_files: where each remedy is.
        sentences: of the training split that the suite is for, which a remedy is built for.

    Returns:
        What went wrong, each once, with the entries and architectures in which it did.
    """
    problems: dict[str, list[str]] = {}
    for name, each in _without_seeds(chosen).items():
        try:
            corpus = _tiny(each)
            seen = cells.seen_by(each, corpus)
            model, remedies = cells.build(each, seen, remedy_files, sentences)
            run = TrainingRun(
                model, chain(remedies), seen, each.training, budget=TINY_BUDGET, seed=each.seed
            )
            train(run, Selection(run), lambda run, forward: None)
            told = cells.bound_in_record(each, wider(model), corpus)
            if told["bound"] in ("conditional", "invalid"):
                for why in told["bound_reasons"]:
                    text = f"no bound on log p(x), {told['bound']}: {why}"
                    problems.setdefault(text, []).append(name)
        except Exception as error:
            kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            where = place(error, {str(path) for path in remedy_files.values()})
            text = f"{kind}{error}{f' ({where})' if where else ''}"
            problems.setdefault(text, []).append(name)
    return _told(problems)


def about_reference(chosen: Sequence[Cell], remedy_files: Mapping[str, Path]) -> str | None:
    """What to warn of in the language model that gaps will be read from; None where all is well."""
    models = [cell for cell in chosen if cell.sizes.latent == 0 and not cell.entry.told]
    if not models:
        return (
            "without a language model nobody knows what an entry pays, and none will have a place:"
            " add 'language_model: {latent: 0}' to entries"
        )
    reference, *others = (
        any(find_class(each.name, remedy_files[each.name]).values for each in cell.entry.remedies)
        for cell in (models[0], *chosen)
    )
    if reference or not any(others):
        return None
    return (
        "the first language model has the variance 1, and gaps to it are of the variance as much as"
        " of z: give the first one a learned variance, '{latent: 0, remedies:"
        " [learned_decoder_variance]}'"
    )


def _tiny(cell: Cell) -> Corpus:
    """A little of a built-in corpus of the kind that the cell is for."""
    settings = CorpusSettings(sentences=TINY_CORPUS)
    if cell.corpus.name in VALUES:
        steps = 1 if cell.architecture == "linear" else 4
        settings = CorpusSettings("linear_gaussian", sentences=TINY_CORPUS, steps=steps)
        if cell.entry.told == "labels":
            settings = CorpusSettings("sine_maps", sentences=TINY_CORPUS, steps=steps)
    return load_corpus(settings, None, say=lambda text: None)


def _told(problems: Mapping[str, Sequence[str]]) -> list[str]:
    """What went wrong, after the names of those that it went wrong with."""
    return [f"{', '.join(names)}: {problem}" for problem, names in problems.items()]


def _without_seeds(chosen: Sequence[Cell]) -> dict[str, Cell]:
    return {f"{each.entry.name}/{each.architecture}": each for each in chosen}
