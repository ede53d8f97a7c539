"""A finished cell again: scored from its arrays and from its model, and diagnosed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from collapse_bench import record
from collapse_bench.cell import build, code_digest, evaluate_cell, provenance, write_scores
from collapse_bench.corpus import Corpus, load_corpus
from collapse_bench.corpus.vocabulary import Vocabulary
from collapse_bench.diagnosis import Diagnosis, examine
from collapse_bench.errors import UserError
from collapse_bench.metrics import Arrays, ArraysError, IdentityError, Scores, score, versioned
from collapse_bench.model import SequenceVAE
from collapse_bench.remedy import by_construction
from collapse_bench.suite import (
    Cell,
    CorpusSettings,
    Entry,
    Evaluation,
    RemedySettings,
    Sizes,
    Training,
)

SAME_ARRAYS, SAME_MODEL = 1e-9, 0.01
"""Nats or units by which a number may differ from the record's: arithmetic of another machine, and
of its products in bfloat16 or with other threads."""


@dataclass(frozen=True)
class Restored:
    """A cell's model as it was when it had been trained, and what it is scored on."""

    cell: Cell
    model: SequenceVAE
    corpus: Corpus
    by_construction: list[str]


@dataclass(frozen=True)
class Line:
    """One metric of a record, and what it is when computed again; None where it is unknown."""

    name: str
    recorded: float | None
    from_arrays: float | None
    from_model: float | None

    @property
    def agrees(self) -> bool:
        """Whether both are what the record says."""
        return all(
            again is not None and self.recorded is not None and abs(again - self.recorded) <= same
            for again, same in ((self.from_arrays, SAME_ARRAYS), (self.from_model, SAME_MODEL))
        )


def read_finished(folder: Path, oldest: int = record.SCHEMA) -> dict[str, Any]:
    """The record of a cell that has a result.

    Raises:
        UserError: the folder is no cell's, or the cell has none.
    """
    path = folder / record.RECORD
    if not path.exists():
        raise UserError(
            f"{folder}: no {record.RECORD} here; a cell is a folder such as runs/<suite>/<cell id>"
        )
    result = record.read_record(path, oldest)
    if result["status"] != "done":
        raise UserError(
            f"{folder}: this cell is {result['status']} and has no numbers; run its suite again"
        )
    return result


def restore(
    folder: Path,
    result: Mapping[str, Any],
    remedy_files: Mapping[str, Path],
    data: Path | None,
    say: Callable[[str], None],
) -> Restored:
    """The model of a finished cell, and the corpus that it was trained on.

    Args:
        folder: the cell's.
        result: its record.
        remedy_files: where each remedy is.
        data: folder of corpora; of a corpus of one's own, the folder of its three files.
        say: told of what takes long.

    Raises:
        UserError: weights, vocabulary, a remedy or the corpus is missing or another one.
    """
    settings, names = result["settings"], result["corpus"]
    remedies = tuple(RemedySettings(**each) for each in settings["remedies"])
    if unknown := [each.name for each in remedies if each.name not in remedy_files]:
        raise UserError(
            f"{folder}: trained with the remedy {unknown[0]}, which is not known here; add"
            f" --plugin FILE"
        )
    wanted = CorpusSettings(
        name=names["name"],
        path=str(data) if names["name"] == "text" and data and not names.get("hub") else None,
        hub=names.get("hub"),
        revision=names.get("revision"),
        vocabulary=settings["corpus"]["vocabulary"],
        tokenizer=settings["corpus"]["tokenizer"],
        sentences=names["sentences"]["train"] if names["name"] == "newswire" else None,
    )
    corpus = load_corpus(wanted, data, say=say)
    if corpus.sha256 != names["sha256"]:
        raise UserError(
            f"{folder}: trained on a {names['name']} of SHA-256 {names['sha256'][:12]}..., found is"
            f" {corpus.sha256[:12]}...; give the same text with --data"
        )
    cell = Cell(
        result["suite"],
        Entry(result["entry"], remedies),
        result["architecture"],
        result["seed"],
        wanted,
        Sizes(**settings["sizes"]),
        Training(**settings["training"]),
        Evaluation(**settings["evaluation"]),
    )
    vocabulary = Vocabulary.load(folder / record.VOCABULARY)
    model, built = build(cell, vocabulary.size, remedy_files)
    record.read_model(folder, model)
    return Restored(cell, model, corpus, by_construction(built))


def rescore(folder: Path, restored: Restored, result: Mapping[str, Any]) -> list[Line]:
    """Every metric of a record beside what it is now, from the arrays and from the model.

    Raises:
        UserError: the arrays are missing, damaged or not those of the record.
    """
    from_arrays = versioned(_score_of(folder, record.read_arrays(folder, _digest(result))).metrics)
    again = evaluate_cell(restored.cell, restored.model, restored.corpus)
    from_model = versioned(score(again).metrics)
    recorded = result["metrics"]
    return [
        Line(name, recorded.get(name), from_arrays.get(name), from_model.get(name))
        for name in dict.fromkeys([*recorded, *from_arrays, *from_model])
    ]


def score_anew(
    folder: Path, restored: Restored, result: dict[str, Any], *, from_model: bool
) -> dict[str, Any]:
    """Write arrays and record anew; training and its cost stay as they were.

    Args:
        folder: the cell's.
        restored: its model.
        result: its record.
        from_model: whether the model is evaluated again; else its arrays are taken.

    Returns:
        The record that was written.

    Raises:
        UserError: the arrays are missing, damaged or not those of the record.
    """
    if from_model:
        arrays = evaluate_cell(restored.cell, restored.model, restored.corpus)
    else:
        arrays = record.read_arrays(folder, _digest(result))
    result = result | {
        "schema": record.SCHEMA,
        "by_construction": restored.by_construction,
        "scored": provenance(code_digest()),
    }
    write_scores(folder, result, arrays, _score_of(folder, arrays))
    record.write_record(folder, result)
    return result


def diagnose_cell(
    folder: Path,
    remedy_files: Mapping[str, Path],
    data: Path | None,
    say: Callable[[str], None],
) -> Diagnosis:
    """The diagnosis of a finished cell: its arrays, and its model on some of the test sentences.

    Raises:
        UserError: as for `restore`, or the cell has no latent.
    """
    result = read_finished(folder)
    restored = restore(folder, result, remedy_files, data, say)
    arrays = record.read_arrays(folder, _digest(result))
    return examine(restored.model, restored.corpus.test, arrays)


def _digest(result: Mapping[str, Any]) -> str | None:
    return result.get("sentences_sha256")


def _score_of(folder: Path, arrays: Arrays) -> Scores:
    try:
        return score(arrays)
    except (ArraysError, IdentityError) as error:
        raise UserError(f"{folder / record.SENTENCES}: {error}") from error
