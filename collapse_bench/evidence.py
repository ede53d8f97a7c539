"""A record held against itself and the arrays beside it, for which no model or corpus is needed."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from collapse_bench.errors import DamagedError, UserError
from collapse_bench.metrics import (
    VERDICTS,
    ArraysError,
    IdentityError,
    Scores,
    key_of,
    verdict,
)
from collapse_bench.provenance import CODE
from collapse_bench.record import (
    MODEL,
    OLDEST,
    OTHER,
    RECORD,
    SENTENCES,
    digest_of_model,
    read_arrays,
)
from collapse_bench.result import in_record
from collapse_bench.suite import id_of
from collapse_bench.writing import replacing

SAME_ARRAYS, SAME_MODEL = 1e-9, 0.01
"""Nats or units by which a number may differ from the record's, from the arrays relative to its
size: the arithmetic of another machine. From the model a tenth of its standard error will do, too:
products in bfloat16 or with other threads may make a sentence stop its draws a round later."""

AGGREGATE_OF_ALL = ("normal", "sphere", "codes")
"""Families of which mixtures are of all test sentences; of the others the arrays tell of how many,
and the verdict depends on it."""

NUMBERS = ("metrics", "standard_errors", "label_entropy")
WORDS = ("family", "verdict")
"""What a record says of its arrays."""

OF_ARRAYS = ("metrics", "standard errors", *WORDS, "label entropy")
"""That in words."""

NOTE = "held.json"
"""File of a cell: the digests of record and arrays of which one is known to be of the other."""


@dataclass(frozen=True)
class Difference:
    """A field of a record that is not what it has to be by all else that is known."""

    field: str
    recorded: object
    found: object

    def __str__(self) -> str:
        return f"{self.field} is {self.recorded!r} in the record, and has to be {self.found!r}"


@dataclass(frozen=True)
class Evidence:
    """What came of holding a record against what is at hand.

    Attributes:
        held: what could be held, in words.
        not_held: what could not, with the reason.
        differences: fields that are not what they have to be; none is found in what was not held.
        from_arrays: what the record has to say of its arrays; None where they are not there.
    """

    held: tuple[str, ...]
    not_held: tuple[str, ...]
    differences: tuple[Difference, ...]
    from_arrays: Mapping[str, Any] | None

    @property
    def of_arrays(self) -> bool:
        """Whether the record is known to be of its arrays."""
        return not self.differences and set(OF_ARRAYS) <= set(self.held)


def hold(record: Mapping[str, Any], folder: Path, *, noted: bool = False) -> Evidence:
    """Hold a record against its settings and, where its arrays are there, against these.

    Args:
        record: as `read_record` gives it, which has held its digest.
        folder: where its arrays are, if they are anywhere.
        noted: whether `is_noted` has said that it is of its arrays, so that nothing need be
            computed from them again, which takes seconds.

    Raises:
        DamagedError: arrays or model are not those of the record.
        UserError: the arrays contradict themselves, or the record lacks what every record has.
    """
    try:
        return _hold(record, folder, noted)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{record.get('cell')}: its record cannot be held against anything, since it lacks what"
            f" every record has ({type(error).__name__}: {error}); remove it, run the suite again"
        ) from error


def note(folder: Path) -> None:
    """Note that the record in a cell's folder was made of the arrays beside it, or held against
    them: until one of the two files or the code is another, nobody need do it again.

    A note can be made up as a record can. It saves whoever has run a suite the time; for a folder
    from elsewhere there is `score`.

    Raises:
        DiskError: the system refuses to write.
    """
    with replacing(folder / NOTE) as temporary:
        temporary.write_text(json.dumps(_digests(folder)), encoding="utf-8")


def is_noted(folder: Path, record: Mapping[str, Any]) -> bool:
    """Whether there is a note, by this code, of the record and the arrays that are there, and the
    record is of these arrays by what it says itself."""
    try:
        found = _digests(folder)
        told = json.loads((folder / NOTE).read_bytes())
    except (OSError, ValueError):
        return False
    return bool(told == found and record.get("sentences_sha256") == found[SENTENCES])


def _digests(folder: Path) -> dict[str, str]:
    names = RECORD, SENTENCES
    found = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    return found | {"code": CODE}


def scores_of(record: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What a record has to say of the arrays in its folder, computed again.

    Raises:
        DamagedError: the arrays are not those of the record.
        UserError: they are missing, or contradict themselves.
    """
    arrays = read_arrays(folder, record.get("sentences_sha256"))
    told = record["bound"] == "oracle"
    try:
        return in_record(record["latent"], arrays, told=told)
    except (ArraysError, IdentityError) as error:
        raise UserError(f"{folder / SENTENCES}: {error}") from error


def agrees(recorded: object, found: object) -> bool:
    """Whether a number of a record is the one from its arrays, and anything else the same."""
    if type(recorded) in (int, float) and type(found) in (int, float):
        assert isinstance(recorded, int | float)
        assert isinstance(found, int | float)
        return abs(found - recorded) <= SAME_ARRAYS * max(1.0, abs(recorded))
    return recorded == found


@dataclass(frozen=True)
class Line:
    """A metric of a record, or a word of it, and what it is when computed again; None where it is
    unknown.

    Attributes:
        error: the standard error of the metric.
        arrays: whether there are arrays that it could be computed from.
    """

    name: str
    recorded: float | str | None
    from_arrays: float | str | None
    from_model: float | str | None
    error: float = 0.0
    arrays: bool = True

    @property
    def agrees(self) -> bool:
        """Whether both numbers are what the record says; of words the one from the arrays if they
        tell it, since a verdict from the model may be of numbers at the edge of another."""
        recorded, one, other = self.recorded, self.from_arrays, self.from_model
        if not self.arrays and not isinstance(recorded, str):
            one = recorded
        if isinstance(one, str) or isinstance(other, str):
            return recorded == (other if one is None else one)
        if not isinstance(recorded, int | float) or one is None or other is None:
            return False
        near = abs(other - recorded) <= max(SAME_MODEL, 0.1 * self.error)
        return near and agrees(recorded, one)


def _hold(record: Mapping[str, Any], folder: Path, noted: bool) -> Evidence:
    held, not_held = ["cell id", "settings"], []
    differences = [*_of_settings(record), *_of_names(record)]
    if record["schema"] == OLDEST:
        not_held.append(f"digest, since a record of schema {OLDEST} has none")
    else:
        held.insert(0, "digest")
    if record["status"] != "done":
        return Evidence(tuple(held), tuple(not_held), tuple(differences), None)
    model = digest_of_model(folder)
    if model is not None and record.get("model_sha256") is None:
        not_held.append(f"{MODEL}, of which the record tells no digest")
    elif model is not None:
        if model != record["model_sha256"]:
            raise DamagedError(f"{folder / MODEL}: {OTHER}; run the suite again")
        held.append(MODEL)
    of_verdict, why_not = _of_own_verdict(record)
    if noted:
        differences += of_verdict
        return Evidence((*held, *OF_ARRAYS), tuple(not_held), tuple(differences), None)
    if (folder / SENTENCES).exists():
        found = scores_of(record, folder)
        differences += _of_arrays(record, found)
        held += OF_ARRAYS
        if others := _of_other_versions(record, found):
            not_held.append(
                f"{', '.join(others)}, which the record has not or this version has not"
            )
        return Evidence(tuple(held), tuple(not_held), tuple(differences), found)
    not_held.append(f"metrics and standard errors, since {SENTENCES} is not here")
    differences += of_verdict
    if why_not:
        not_held.append(f"verdict, since {why_not}")
    else:
        held.append("verdict")
    return Evidence(tuple(held), tuple(not_held), tuple(differences), None)


def _of_own_verdict(record: Mapping[str, Any]) -> tuple[list[Difference], str]:
    """What the verdict has to be by the record's own metrics; or why these do not tell it."""
    if record["latent"] and not _told(record) and record["family"] not in AGGREGATE_OF_ALL:
        return [], f"of a posterior like this {SENTENCES} is needed for it"
    try:
        return list(_of_verdict(record)), ""
    except KeyError as error:
        return [], f"the record has no {error} of this version"


def _told(record: Mapping[str, Any]) -> str | None:
    """What a model was told in advance; None where it was told nothing."""
    told: str | None = record["settings"].get("told")
    return told


def _of_settings(record: Mapping[str, Any]) -> Iterator[Difference]:
    """What is told twice, and the id, which is a digest of the settings."""
    settings, corpus = record["settings"], record["corpus"]
    found = {
        "cell": (record["cell"], id_of(record["entry"], settings)),
        "architecture": (record["architecture"], settings["architecture"]),
        "seed": (record["seed"], settings["seed"]),
        "budget": (record["budget"], settings["training"]["budget"]),
        "remedies": (record["remedies"], settings["remedies"]),
        "corpus.name": (corpus["name"], settings["corpus"]["name"]),
        "corpus.sha256": (corpus["sha256"], settings["corpus"]["sha256"]),
    }
    # Older records do not tell, and values have no vocabulary.
    if (threads := settings["training"].get("threads")) is not None:
        found["environment.threads"] = record["environment"]["threads"], threads
    if (vocabulary := corpus.get("vocabulary")) and "tokenizer" in settings["corpus"]:
        tokenizer = vocabulary["tokenizer"], settings["corpus"]["tokenizer"]
        found["corpus.vocabulary.tokenizer"] = tokenizer
    if "labels_sha256" in corpus and "labels" in settings["corpus"]:  # older records do not tell
        labels = corpus["labels_sha256"], settings["corpus"]["labels"]
        found["corpus.labels_sha256"] = labels
    # A remedy may change the latent, and that of an oracle is its labels.
    if not record["remedies"] and _told(record) != "labels":
        found["latent"] = record["latent"], settings["sizes"]["latent"]
    if (record["bound"] == "oracle") != bool(_told(record)):
        found["bound"] = record["bound"], "oracle" if _told(record) else "of a model told nothing"
    for field, (recorded, one) in found.items():
        if recorded != one:
            yield Difference(field, recorded, one)


def _of_names(record: Mapping[str, Any]) -> Iterator[Difference]:
    """Metrics that nobody knows, and standard errors that are of none or below 0."""
    for key, value in record["metrics"].items():
        try:
            key_of(key.rpartition("@")[0])
        except KeyError:
            yield Difference(f"metrics.{key}", value, "a metric that there is")
    for key, value in record["standard_errors"].items():
        if key not in record["metrics"]:
            yield Difference(f"standard_errors.{key}", value, "of a metric of the record")
        elif value is not None and value < 0:
            yield Difference(f"standard_errors.{key}", value, "not below 0")


def _of_arrays(record: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[Difference]:
    """What a record says of its arrays, where both tell it or only the record."""
    others = set(_of_other_versions(record, found))
    for part in NUMBERS:
        for name, value in (record.get(part) or {}).items():
            again = found[part].get(name)
            if name not in others and not agrees(value, again):
                yield Difference(f"{part}.{name}", value, again)
    for word in WORDS:
        if record[word] != found[word]:
            yield Difference(word, record[word], found[word])


def _of_other_versions(record: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Metrics of another version of their arithmetic, and those that only this package has."""
    recorded, now = record["metrics"], found["metrics"]
    names = {key.rpartition("@")[0] for key in now}
    old = [key for key in recorded if key not in now and key.rpartition("@")[0] in names]
    return old + [key for key in now if key not in recorded]


def _of_verdict(record: Mapping[str, Any]) -> Iterator[Difference]:
    """The verdict by the record's own metrics.

    Raises:
        KeyError: a metric that it takes is not there, or of another version.
    """
    recorded = record["verdict"]
    if not record["latent"]:
        again = "no latent"
    elif told := _told(record):
        again = recorded if recorded not in VERDICTS else f"none, since {told} was told in advance"
    else:
        scores = Scores(
            *(
                {
                    name: value
                    for key, value in record[part].items()
                    if key_of(name := key.rpartition("@")[0]) == key
                }
                for part in ("metrics", "standard_errors")
            )
        )
        again = verdict(scores, record["corpus"]["sentences"]["test"])
    if recorded != again:
        yield Difference("verdict", recorded, again)
