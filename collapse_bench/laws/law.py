"""What a law is, and how one is tried on a remedy."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from collapse_bench.corpus import Batch, Corpus
from collapse_bench.errors import UserError
from collapse_bench.importing import place
from collapse_bench.laws.bench import Built, make, tiny_batch, tiny_corpus, tiny_values
from collapse_bench.plugins import not_for, remedy_files, why_not
from collapse_bench.remedy import Remedy, find_class, levers_of


class LawBroken(Exception):
    """A remedy breaks a law; the message is what was seen."""


class DoesNotApply(Exception):
    """A law has nothing to say of a remedy; the message is why."""


@dataclass(frozen=True)
class Subject:
    """What laws are tried on: a remedy in an architecture, or none, which is the plain VAE.

    Attributes:
        name: the remedy's, "" for none.
        architecture: one of `bench.ARCHITECTURES`.
        files: where remedies are.
    """

    name: str
    architecture: str
    files: Mapping[str, Path]

    @property
    def path(self) -> Path:
        """The remedy's file."""
        return self.files[self.name]

    @property
    def remedy(self) -> type[Any]:
        """The remedy's class."""
        return find_class(self.name, self.path) if self.name else Remedy

    @property
    def levers(self) -> list[str]:
        """Those that the remedy uses."""
        return levers_of([self.remedy(**self.remedy.small)])

    @property
    def corpus(self) -> Corpus:
        """Tiny, and of what the remedy is for."""
        return tiny_values() if self.remedy.values else tiny_corpus()

    @property
    def batch(self) -> Batch:
        """Five sentences of it, of different lengths."""
        return tiny_batch(self.remedy.values)

    def make(self, settings: Mapping[str, Any] | None = None, seed: int = 1) -> Built:
        """The tiny model with the remedy; its settings for tiny sizes if none are given."""
        if not self.name:
            return make(self.architecture, seed=seed)
        chosen = {self.name: self.remedy.small if settings is None else settings}
        return make(self.architecture, chosen, seed=seed, files=self.files)

    def plain(self, seed: int = 1) -> Built:
        """The tiny model without a remedy."""
        return make(self.architecture, seed=seed, corpus=self.corpus)


def subject(name: str, architecture: str, *given: Path) -> Subject:
    """A remedy in an architecture, by its name; `given` are files of remedies that are not known.

    Raises:
        UserError: there is no such remedy, or its file is missing or misnamed.
    """
    files = remedy_files(given)
    if name not in files:
        raise UserError(why_not(name, files))
    return Subject(name, architecture, files)


Try = Callable[[Subject], None]
"""Raises `LawBroken` or `DoesNotApply`; an error of the remedy itself breaks the law, too."""


@dataclass(frozen=True)
class Outcome:
    """What came of trying a law.

    Attributes:
        status: `ok`, `BROKEN`, or `not applicable`.
        seen: what was seen, or why it does not apply; "" where all is well.
    """

    status: str
    seen: str = ""


def tried(law: Try, subject: Subject) -> Outcome:
    """What comes of a law; whatever the remedy does is told, never raised."""
    try:
        _check_architecture(subject)
        law(subject)
    except DoesNotApply as why:
        return Outcome("not applicable", str(why))
    except LawBroken as seen:
        return Outcome("BROKEN", str(seen))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # sys.exit, too
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        where = place(error, {str(subject.path)}) if subject.name else None
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        return Outcome("BROKEN", f"{kind}{first}{f' ({where})' if where else ''}")
    return Outcome("ok")


def _check_architecture(subject: Subject) -> None:
    """No law has anything to say of a remedy in an architecture that it is not for."""
    if problem := not_for(subject.name, subject.remedy.architectures, subject.architecture):
        raise DoesNotApply(problem.partition(";")[0])


def sentence_of(law: Try) -> str:
    """The law's name in words."""
    return law.__name__.replace("_", " ")


def contract_of(law: Try) -> str:
    """What the contract says, as one line."""
    return " ".join((law.__doc__ or "").split())
