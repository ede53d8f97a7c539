"""A finished cell again: scored from its arrays and from its model, and diagnosed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from collapse_bench import record
from collapse_bench.cell import bound_in_record, build, evaluate_cell, seen_by
from collapse_bench.corpus import Corpus, load_corpus
from collapse_bench.corpus.vocabulary import Vocabulary
from collapse_bench.device import name_of_device, prepare
from collapse_bench.diagnosis import Diagnosis, dial, examine
from collapse_bench.errors import CorpusMissing, UserError
from collapse_bench.evidence import Line, scores_of
from collapse_bench.metrics import ArraysError, IdentityError, key_of
from collapse_bench.model import SequenceVAE
from collapse_bench.plugins import fingerprint
from collapse_bench.precision import resolve_precision
from collapse_bench.provenance import CODE, provenance
from collapse_bench.remedy import Remedy, by_construction, load_remedy
from collapse_bench.result import in_record
from collapse_bench.suite import (
    DRAWN,
    Cell,
    CorpusSettings,
    Entry,
    Evaluation,
    RemedySettings,
    Sizes,
    Training,
)


@dataclass(frozen=True)
class Restored:
    """A cell's model as it was when it had been trained, and what it is scored on.

    Attributes:
        device: where the model is, `cpu` or `cuda`.
    """

    cell: Cell
    model: SequenceVAE
    corpus: Corpus
    device: str


def read_finished(folder: Path, oldest: int = record.OLDEST) -> dict[str, Any]:
    """The record of a cell that has a result, or whose model was trained and not scored.

    Raises:
        UserError: the folder is no cell's, or the cell has none.
    """
    path = folder / record.RECORD
    if not path.exists():
        raise UserError(
            f"{folder}: no {record.RECORD} here; a cell is a folder such as runs/<suite>/<cell id>"
        )
    result = record.read_record(path, oldest)
    unscored = result["status"] == "failed" and (folder / record.MODEL).exists()
    if result["status"] != "done" and not (unscored and oldest < record.OLDEST):
        reason = ((result.get("error") or "").strip().splitlines() or ["no reason recorded"])[-1]
        if unscored:
            way_out = (
                "its model was trained and not scored: score it with `python -m collapse_bench"
                f" score --write model {folder}`"
            )
        elif result["status"] == "diverged":
            way_out = (
                "running its suite again keeps it, since it would diverge again: lower"
                " training.learning_rate or training.clip, or change its remedy, which makes it"
                " another cell"
            )
        else:
            way_out = "mend that and run its suite again, which tries it once more"
        raise UserError(
            f"{folder}: this cell is {result['status']} and has no numbers ({reason}); {way_out}"
        )
    return result


def remedies_of(
    folder: Path, result: Mapping[str, Any], remedy_files: Mapping[str, Path]
) -> list[Remedy]:
    """The remedies that a cell was trained with.

    Raises:
        UserError: one is not known here, or its file is another one now.
    """
    remedies = []
    for each in result["settings"]["remedies"]:
        name = each["name"]
        if name not in remedy_files:
            raise UserError(
                f"{folder}: trained with the remedy {name}, which is not known here; add"
                f" --plugin FILE"
            )
        if fingerprint(remedy_files[name]) != each["sha256"]:
            raise UserError(
                f"{remedy_files[name]}: not the file that {folder} was trained with: it has been"
                f" edited since, so it is another remedy; give the old one with --plugin FILE"
            )
        remedies.append(load_remedy(name, each["settings"], remedy_files))
    return remedies


def restore(
    folder: Path,
    result: Mapping[str, Any],
    remedy_files: Mapping[str, Path],
    data: Path | None,
    say: Callable[[str], None],
    device: str = "cpu",
) -> Restored:
    """The model of a finished cell, and the corpus that it was trained on.

    From then on this process computes with the cell's threads, and as exactly as its run did.

    Args:
        folder: the cell's.
        result: its record.
        remedy_files: where each remedy is.
        data: folder of corpora; of a corpus of one's own, the folder of its three files.
        say: told of what takes long.
        device: where the model is to be, `cpu` or `cuda`.

    Raises:
        UserError: weights, vocabulary, a remedy or the corpus is another one, or missing.
        CorpusMissing: the corpus is not on this machine.
    """
    settings, names = result["settings"], result["corpus"]
    remedies_of(folder, result, remedy_files)
    own = names["name"] in ("text", "values") and not names.get("hub")
    if own and data is None:
        raise CorpusMissing(
            f"{folder}: trained on a corpus of one's own; name the folder of its training,"
            f" validation and test files with --data DIR"
        )
    wanted = CorpusSettings(
        name=names["name"],
        path=str(data) if own else None,
        hub=names.get("hub"),
        revision=names.get("revision"),
        vocabulary=settings["corpus"]["vocabulary"],
        tokenizer=settings["corpus"]["tokenizer"],
        sentences=names["sentences"]["train"] if names["name"] in DRAWN else None,
        steps=names.get("steps"),
        level=names.get("level", "hard"),  # older records do not tell
    )
    corpus = load_corpus(wanted, data, say=say)
    if corpus.sha256 != names["sha256"]:
        raise UserError(
            f"{folder}: trained on a {names['name']} of SHA-256 {names['sha256'][:12]}..., found is"
            f" {corpus.sha256[:12]}...; give the same text with --data"
        )
    labels = names.get("labels_sha256", corpus.labels_sha256)  # older records do not tell
    if corpus.labels_sha256 != labels:
        had, has = (
            f"{each[:12]}..." if each else "none" for each in (labels, corpus.labels_sha256)
        )
        raise UserError(
            f"{folder}: scored with labels of SHA-256 {had}, found are {has}; put the same labels"
            f" beside the text, or run the suite again: with other labels it is another cell"
        )
    try:
        cell = Cell(
            result["suite"],
            Entry(
                result["entry"],
                tuple(RemedySettings(**each) for each in settings["remedies"]),
                told=settings.get("told"),
            ),
            result["architecture"],
            result["seed"],
            wanted,
            Sizes(**settings["sizes"]),
            Training(**settings["training"]),
            Evaluation(**settings["evaluation"]),
        )
    except TypeError as error:
        raise UserError(
            f"{folder / record.RECORD}: settings of another version: {error}"
        ) from error
    if corpus.vocabulary:
        _check_vocabulary(folder / record.VOCABULARY, corpus.vocabulary)
    prepare(cell.training.threads or 1, cell.training.deterministic)
    name_of_device(device)  # whether it can be used at all
    corpus = seen_by(cell, corpus)
    model, _ = build(cell, corpus, remedy_files)
    record.read_model(folder, model, result.get("model_sha256"))
    model.to(device)
    return Restored(cell, model, corpus, device)


def _check_vocabulary(path: Path, vocabulary: Vocabulary) -> None:
    """Raise UserError unless a cell's file holds this vocabulary."""
    way_out = f"remove {path.parent} and run the suite again, which trains the cell anew"
    try:
        words = Vocabulary.load(path).tokenizer.get_vocab()
    except UserError as error:
        raise UserError(f"{error}; {way_out}") from error
    if words != vocabulary.tokenizer.get_vocab():
        raise UserError(f"{path}: not the vocabulary of this corpus; {way_out}")


def rescore(
    folder: Path,
    restored: Restored,
    result: Mapping[str, Any],
    from_arrays: Mapping[str, Any] | None,
) -> list[Line]:
    """Every metric of a record beside what it is now, from the arrays and from the model; and the
    words that are told of them.

    Args:
        folder: the cell's.
        restored: its model and corpus.
        result: its record.
        from_arrays: what the record has to say of its arrays, as `hold` finds it; None where they
            are missing.

    Raises:
        UserError: the model gives numbers that contradict each other.
    """
    told = restored.cell.entry.told is not None
    with _naming(folder):
        again = evaluate_cell(restored.cell, restored.model, restored.corpus)
        from_model = in_record(result["latent"], again, told=told)
    from_model |= bound_in_record(restored.cell, restored.model, restored.corpus)
    # What is no number agrees with nothing.
    recorded, errors = (
        {name: value for name, value in result[part].items() if type(value) in (int, float)}
        for part in ("metrics", "standard_errors")
    )
    there, found = from_arrays is not None, from_arrays or {"metrics": {}}
    of_arrays, of_model = found["metrics"], from_model["metrics"]
    numbers = [
        Line(
            name,
            recorded.get(name),
            of_arrays.get(name),
            of_model.get(name),
            errors.get(name, 0.0),
            there,
        )
        for name in dict.fromkeys([*result["metrics"], *of_arrays, *of_model])
    ]
    words = [
        Line(name, result.get(name), found.get(name), from_model.get(name), arrays=there)
        for name in ("family", "verdict", "bound")
    ]
    return numbers + words


def score_model(
    folder: Path, result: dict[str, Any], restored: Restored, remedies: Sequence[Remedy]
) -> dict[str, Any]:
    """Evaluate a cell's model anew and write arrays and record; training and its cost stay.

    Returns:
        The record that was written.
    """
    cell, model, corpus = restored.cell, restored.model, restored.corpus
    arrays = evaluate_cell(cell, model, corpus)
    with _naming(folder):
        result |= in_record(result["latent"], arrays, told=cell.entry.told is not None)
    result |= bound_in_record(cell, model, corpus)
    # What an older record does not tell yet; what it tells is kept, such as what was requested.
    result["corpus"] = corpus.record() | result["corpus"]
    result.setdefault("suite_budget", result["budget"])
    result["sentences_sha256"] = record.write_arrays(folder, arrays)
    result["model_sha256"] = record.digest_of_model(folder)
    scored = {
        "device": name_of_device(restored.device),
        "precision": resolve_precision(cell.evaluation.precision, restored.device),
    }
    return _write(folder, result, remedies, scored)


def score_arrays(
    folder: Path, result: dict[str, Any], remedies: Sequence[Remedy]
) -> dict[str, Any]:
    """Write the record anew from a cell's arrays; neither model nor corpus is needed.

    Returns:
        The record that was written.

    Raises:
        UserError: the arrays are missing, damaged or not those of the record.
    """
    result |= scores_of(result, folder)
    before = result.get("scored", {})
    known = {name: before[name] for name in ("device", "precision") if name in before}
    return _write(folder, result, remedies, known)


def _write(
    folder: Path, result: dict[str, Any], remedies: Sequence[Remedy], scored: Mapping[str, Any]
) -> dict[str, Any]:
    """Write the record; `scored` is what is known of device and precision of the arrays."""
    # What an older record does not tell yet, and what only a published one tells.
    result = {"model_sha256": None, "attempts": []} | result
    result.pop("held", None)
    result |= {
        "schema": record.SCHEMA,
        "status": "done",
        "error": None,
        "by_construction": by_construction(remedies),
        "scored": provenance(CODE) | dict(scored),
    }
    record.write_record(folder, result)
    return result


def diagnose_cell(
    folder: Path,
    remedy_files: Mapping[str, Path],
    data: Path | None,
    say: Callable[[str], None],
    device: str = "cpu",
) -> Diagnosis:
    """The diagnosis of a finished cell: its arrays, and its model on some of the test sentences.

    Raises:
        UserError: as for `restore`, or the cell has no latent or was told it.
    """
    result = read_finished(folder)
    if result["bound"] == "oracle":
        raise UserError(
            f"{folder}: told in advance what it knows, so there is nothing to find out; diagnose a"
            f" cell that had to find out"
        )
    restored = restore(folder, result, remedy_files, data, say, device)
    arrays = record.read_arrays(folder, _digest(result))
    return examine(restored.model, restored.corpus.test, arrays)


def draw_dial(folder: Path) -> Path | None:
    """Write `dial.png` into the folder of a finished cell: where the posterior means of the test
    sentences lie at each value of the dial by which cells beside it share one training.

    Returns:
        The file; None where no other finished cell shares its training, a mean is not known, or the
        dial moves none.
    """
    result, suite = read_finished(folder), folder.resolve().parent
    lender = result["trained_as"] or result["cell"]
    found = [
        (other, record.read_arrays(suite / other["cell"], _digest(other)))
        for other in record.read_records(suite)
        if other["status"] == "done" and lender in (other["cell"], other["trained_as"])
    ]
    if len(found) < 2 or not all("posterior_mean" in arrays for _, arrays in found):
        return None
    first = found[0][1]["posterior_mean"]
    if all(np.array_equal(first, arrays["posterior_mean"]) for _, arrays in found):
        return None
    found.sort(key=lambda pair: -float(pair[1]["posterior_mean"].var(axis=0).sum()))
    settings = [
        dial.Setting(
            f"{other['entry']}, R {other['metrics'][key_of('kl')]:.2f}",
            arrays["posterior_mean"].astype(np.float64),
        )
        for other, arrays in found
    ]
    # Coloured by the attribute that z tells most of where it tells most.
    other, arrays = found[0]
    told = {
        name: other["metrics"].get(key_of(f"information_about_{name}"), 0.0)
        for name in (key.removeprefix("label_") for key in arrays if key.startswith("label_"))
    }
    of = max(told, key=told.__getitem__, default="")
    labels = arrays[f"label_{of}"] if of else np.full(len(arrays["tokens"]), "")
    return dial.draw(folder / "dial.png", settings, labels, of)


def _digest(result: Mapping[str, Any]) -> str | None:
    return result.get("sentences_sha256")


@contextmanager
def _naming(folder: Path) -> Iterator[None]:
    """Arrays that contradict the contract or themselves are told with their file."""
    try:
        yield
    except (ArraysError, IdentityError) as error:
        raise UserError(f"{folder / record.SENTENCES}: {error}") from error
