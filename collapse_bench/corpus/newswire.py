"""A generated corpus whose global information is known exactly, in levels of difficulty.

Data card
---------
Purpose. A text to compare remedies on where no licensed text can be had, and one where it is
known how much a latent could hold: global attributes, drawn before the first word of a sentence,
and certain only once the whole of it has been read. The words are invented; their look is English.

How a sentence is made.
1. Each attribute of the level is drawn from its prior, independently (`ATTRIBUTES`); the others
   have their first value in every sentence.
2. A Markov chain over word classes (`GRAMMAR`) gives the structure, whatever the attributes are.
   It is drawn again until it has as many words as the level says, and a noun and a verb in either
   half: these two express every attribute between them, so every attribute shapes both halves.
3. Every word expresses the attributes of its class (`EXPRESSED`), each truly with the level's
   probability and at random otherwise, drawn again until the sentence expresses the true value
   more often than any other. The level's first words always express at random and do not count.
4. Among the words that express the same, the left neighbour decides: with probability 1/2 the
   word is the one whose place in its list is next to the neighbour's, otherwise the places follow
   a law close to Zipf's.

Levels (`LEVELS`), from one at which attributes can be found to one at which nothing tried has found
more than a sixth of them. `oracle` is a decoder that is told the attributes as its latent, with
what it costs to tell them; D is without.

    level   attributes  nats  true  silent  words   types  language model  oracle  oracle's D
    easy    3           3.71  0.80  3       14-16     186           39.77   38.49       34.78
    medium  3           3.71  0.65  3       14-16     338           47.90   45.71       42.01
    hard    6           5.69  0.50  0        5-30   1,978           78.14   73.2        67.5

Easy is of `suites/quick.yaml` (three seeds), medium of the same training (one seed: plain VAE
collapsed, BN-VAE uses 2.30 nats at 0.24 of NLL), hard of an LSTM of 128 units and 3 million tokens.
A decoder that infers as well as can be has the oracle's NLL, for p(x) is the same whether the
attributes are told or summed out: what a language model is above it is what it has not learned, and
after four times as long, at level easy, that is 0.06 nats. What a latent can be used for is the
oracle's NLL less its D.

What was tried for the easy level, with the same attributes, silent words and lengths, for a minute
of training each: 6, 4 and 4 stems and the neighbour's rule (338 types) takes longer to learn, and
the oracle is 3.3 nats below a language model that still falls; without the rule (3, 2 and 2 stems)
skip connections use 1.0 nats, where they use 1.5 with it; six attributes and one stem of each kind
(202 types) hold 5.7 nats, of which they use 1.2; with the words of level medium and truth 0.5 the
language model is level with the oracle after 600,000 tokens, both far from what they can learn.

Information. The attributes are a function of the sentence, so they share their whole entropy with
it: `global_information(level)`, in nats topic 1.99, tense 1.03, polarity 0.69, number 0.69,
register 0.67, voice 0.61. A posterior that holds them and nothing else needs a rate of that size.

What can be read, at level easy (`tests/cards/probes.py`: nats of the test sentences, trained with
labels). The bench's encoder: topic 1.98, tense 1.02, polarity 0.68, all there is; a bag of words:
1.98, 0.94, 0.63; the first three words and the length: 0.00 of each. So what a latent does not find
is not the encoder's to blame.

What a prefix tells, at level hard. Each value is the winner of a vote that ends with the sentence.
The first half alone has the right winner in 75 % of the sentences for topic, 78 % tense, 79 %
voice, 81 % polarity, 82 % number, 85 % register: a decoder without a latent learns the attributes
late, and has to keep count.

Fields. A sentence, its words joined by one space, lower case, no punctuation; one label for each
attribute of the level.

Splits. 20,000 / 2,000 / 2,000 sentences (train, valid, test), independent draws, none in two
splits. A smaller corpus is a prefix of this one, split by split.

Seed. Fixed. Only `random.Random.random` is used, the one stream that Python keeps the same for
ever, with integer and correctly rounded arithmetic: the text is the same on every machine
(`DIGESTS`).

Limits. No meaning, no reference between clauses, no rare names, no noise; a structure far simpler
than that of real news. A remedy that wins here can hold global, discrete, redundantly expressed
information; no more is shown.
"""

import math
from bisect import bisect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import accumulate, islice, product
from pathlib import Path
from random import Random
from typing import TypeVar

import numpy as np

from collapse_bench.corpus.corpus import SPLITS, Settings, Texts, digest

T = TypeVar("T")
Table = tuple[list[T], list[int]]

SEED = 20_000
SENTENCES = 20_000
SHORTEST, LONGEST = 5, 30
ANY_LENGTH = range(SHORTEST, LONGEST + 1)

ATTRIBUTES = {
    "topic": {
        "markets": 5, "politics": 4, "industry": 4, "law": 3,
        "science": 3, "sport": 2, "weather": 2, "travel": 1,
    },
    "tense": {"past": 5, "present": 3, "future": 2},
    "voice": {"active": 7, "passive": 3},
    "polarity": {"up": 1, "down": 1},
    "register": {"plain": 3, "formal": 2},
    "number": {"singular": 1, "plural": 1},
}  # fmt: skip
"""Each attribute's values and their prior, as weights."""

EXPRESSED = {
    "noun": ("topic", "register", "number"),
    "verb": ("topic", "polarity", "voice", "tense"),
    "adjective": ("topic", "polarity"),
    "determiner": ("register", "number"),
    "conjunction": ("register",),
    "preposition": ("voice",),
    "adverb": ("tense",),
}
"""The attributes that a word of each class expresses."""

GRAMMAR = {
    "start": {"determiner": 5, "adjective": 2, "noun": 3},
    "determiner": {"adjective": 2, "noun": 3},
    "adjective": {"noun": 1},
    "noun": {"verb": 3, "adverb": 1},
    "adverb": {"verb": 1},
    "verb": {"preposition": 6, "conjunction": 3, "end": 1},
    "preposition": {"object determiner": 4, "object adjective": 2, "object noun": 4},
    "object determiner": {"object adjective": 2, "object noun": 3},
    "object adjective": {"object noun": 1},
    "object noun": {"conjunction": 5, "preposition": 1, "end": 4},
    "conjunction": {"determiner": 5, "adjective": 2, "noun": 3},
}
"""The next state of the structure, as weights; a state's last word is its class."""


@dataclass(frozen=True)
class Level:
    """How hard it is to find out what a sentence is about.

    Attributes:
        attributes: those that vary.
        truth: probability that a word expresses a value that is the sentence's for certain; the
            others express any value.
        silent: words at the start that express any value.
        lengths: numbers of words that a sentence may have, and their weights; () leaves it to the
            structure, from `SHORTEST` to `LONGEST`.
        stems: nouns, verbs and adjectives of a topic.
    """

    attributes: tuple[str, ...] = tuple(ATTRIBUTES)
    truth: float = 0.5
    silent: int = 0
    lengths: tuple[tuple[int, int], ...] = ()
    stems: tuple[int, int, int] = (24, 10, 12)

    @property
    def priors(self) -> dict[str, Mapping[str, int]]:
        """The values of each attribute, of those that do not vary the first alone."""
        return {
            name: prior if name in self.attributes else {next(iter(prior)): 1}
            for name, prior in ATTRIBUTES.items()
        }


EASY = Level(
    attributes=("topic", "tense", "polarity"),
    truth=0.8,
    silent=3,
    lengths=((14, 1), (15, 8), (16, 1)),
    stems=(3, 2, 2),
)
LEVELS = {"easy": EASY, "medium": replace(EASY, truth=0.65, stems=(6, 4, 4)), "hard": Level()}

ONSETS = "b c d f g h l m p r s t w bl br cl cr dr fl fr gl gr pl pr sh sl sp st str th tr"
CODAS = "ld lk lm lt n nd rk sk sp st sh nch ft lf rv"

AFFIXES = {
    "plain": "er", "formal": "ation", "singular": "", "plural": "s",
    "up": "re", "down": "un", "active": "", "passive": "en",
    "past": "ed", "present": "es", "future": "all",
}  # fmt: skip
SHAPES: dict[str, Callable[..., str]] = {
    "noun": lambda stem, register, number: stem + register + number,
    "verb": lambda stem, polarity, voice, tense: polarity + stem + voice + tense,
    "adjective": lambda stem, polarity: polarity + stem + "ish",
}
FUNCTION_WORDS = {
    ("determiner", "plain", "singular"): "a this that another",
    ("determiner", "plain", "plural"): "these those some many",
    ("determiner", "formal", "singular"): "each every either neither",
    ("determiner", "formal", "plural"): "several certain various numerous",
    ("conjunction", "plain"): "and but so because while then",
    ("conjunction", "formal"): "whereas moreover hence thus nonetheless notwithstanding",
    ("preposition", "active"): "to for into toward after with",
    ("preposition", "passive"): "by from under through of at",
    ("adverb", "past"): "once formerly already yesterday previously lately",
    ("adverb", "present"): "now currently today still presently nowadays",
    ("adverb", "future"): "soon later tomorrow eventually shortly someday",
}

DIGESTS = {
    "easy": {
        "train": "0da11cf18d3bcd62b75319a15fd0bd4821fe4c698eac00de3d9279959f95c726",
        "valid": "b7ee77b92a86163e9bfa50a40d61fbec680f755db624ceef946a49f22cb703d1",
        "test": "30f791f80caa9494f632104a220c26203583381c9aeda9e45a5e864128a6dc41",
    },
    "medium": {
        "train": "c4c1ccebb26b1277b9cf353d317134b8ae90b5ff5403538f9a4de6481bba37a5",
        "valid": "79dcb635d38352330a545ffbcfe73fef438c2a24ad047cc3967ad0ed19fab92a",
        "test": "5ae35429b7b2c9a8cf24adeba6a61e7cd8bb13e45a2e8af800238894c1d7f4ec",
    },
    "hard": {
        "train": "9f1a695eec3a17818bdb0d6e632c1747c5705e39dee9c6859b9ce9c24736b3ca",
        "valid": "3347e41525c42c700bdb058536efa73d01c31e1d73a5c325b3a766a1572a9179",
        "test": "1782fe94c836b45060f4465bffebeaebff262a88b80de36ac6fed1c925be845e",
    },
}
"""SHA-256 of each split of each level at full size."""


def read(settings: Settings, data: Path | None, say: Callable[[str], None]) -> Texts:
    """The corpus; valid and test have a tenth of the training sentences, whatever their number."""
    level = LEVELS[settings.level]
    train = SENTENCES if settings.sentences is None else settings.sentences
    sizes = {"train": train, "valid": max(1, train // 10), "test": max(1, train // 10)}
    drawn = {
        split: list(islice(_sentences(Random(SEED + i), level), sizes[split]))
        for i, split in enumerate(SPLITS, start=1)
    }
    sentences = {split: [text for _, text in drawn[split]] for split in SPLITS}
    labels = {
        split: {n: np.array([known[n] for known, _ in drawn[split]]) for n in level.attributes}
        for split in SPLITS
    }
    return Texts(
        name="newswire",
        sentences=sentences,
        labels=labels,
        standard={split: digest(sentences[split]) for split in SPLITS} == DIGESTS[settings.level],
        facts={"level": settings.level, "global_information": global_information(level)},
    )


def global_information(level: Level) -> float:
    """Entropy of a level's attributes, which is their information about the sentence, in nats."""
    return sum(map(entropy, level.attributes))


def entropy(attribute: str) -> float:
    """Entropy of one attribute's prior in nats."""
    weights = ATTRIBUTES[attribute].values()
    total = sum(weights)
    return sum(w / total * math.log(total / w) for w in weights)


def read_attributes(sentence: str, level: Level) -> dict[str, str]:
    """Of each attribute of a level, the value that the words of a sentence that count express most.

    Raises:
        ValueError: If a word is not of this corpus, or two values are expressed equally often.
    """
    expressed: dict[str, list[str]] = {attribute: [] for attribute in ATTRIBUTES}
    for place, word in enumerate(sentence.split()):
        if word not in _meanings(level):
            raise ValueError(f"not a word of newswire at this level: {word!r}")
        for attribute, value in _meanings(level)[word]:
            if place >= level.silent:
                expressed[attribute].append(value)
    winners = {attribute: _winner(expressed[attribute]) for attribute in level.attributes}
    undecided = [attribute for attribute, value in winners.items() if value is None]
    if undecided:
        raise ValueError(f"the sentence leaves open: {', '.join(undecided)}")
    return {attribute: value for attribute, value in winners.items() if value is not None}


def _winner(values: Sequence[str]) -> str | None:
    """The value that occurs more often than any other, if there is one."""
    ranked = sorted(set(values), key=values.count, reverse=True)
    if not ranked or (len(ranked) > 1 and values.count(ranked[0]) == values.count(ranked[1])):
        return None
    return ranked[0]


def _table(weights: Mapping[T, int]) -> Table[T]:
    """What `_pick` picks from: keys, and the sums of the weights up to each."""
    return list(weights), list(accumulate(weights.values()))


def _pick(rng: Random, table: Table[T]) -> T:
    """A key with probability proportional to its weight."""
    keys, bounds = table
    return keys[bisect(bounds, rng.random() * bounds[-1])]


def _sentences(rng: Random, level: Level) -> Iterator[tuple[dict[str, str], str]]:
    """Attributes and sentences without end."""
    priors = {name: _table(prior) for name, prior in level.priors.items()}
    following = {state: _table(weights) for state, weights in GRAMMAR.items()}
    lengths = _table(dict(level.lengths))
    lexicon = _lexicon(level)
    while True:
        attributes = {name: _pick(rng, prior) for name, prior in priors.items()}
        wanted = {_pick(rng, lengths)} if level.lengths else ANY_LENGTH
        classes = _structure(rng, following, wanted)
        votes = {
            name: iter(_votes(rng, level, classes, name, value, priors[name][0]))
            for name, value in attributes.items()
        }
        words, k = [], 0
        for c in classes:
            choices = lexicon[c, *(next(votes[name]) for name in EXPRESSED[c])]
            u = rng.random()
            k = (k + 1) % len(choices) if rng.random() < 0.5 else int(len(choices) * u * u * u)
            words.append(choices[k])
        yield attributes, " ".join(words)


def _structure(
    rng: Random, following: Mapping[str, Table[str]], lengths: Collection[int]
) -> list[str]:
    """The word classes of a sentence, with a noun and a verb in either half."""
    while True:
        classes, state = [], "start"
        while (state := _pick(rng, following[state])) != "end":
            classes.append(state.split()[-1])
        half = len(classes) // 2
        if len(classes) in lengths and all(
            {"noun", "verb"} <= set(part) for part in (classes[:half], classes[half:])
        ):
            return classes


def _votes(
    rng: Random,
    level: Level,
    classes: Sequence[str],
    attribute: str,
    value: str,
    values: Sequence[str],
) -> list[str]:
    """What the words of a sentence say of an attribute, so that its true value wins.

    Args:
        rng: of the split.
        level: of the corpus.
        classes: of all words.
        attribute: whose value this is.
        value: of the sentence.
        values: that there are.
    """
    at = [place for place, c in enumerate(classes) if attribute in EXPRESSED[c]]
    silent = sum(place < level.silent for place in at)
    while True:
        drawn = [
            value
            if i >= silent and rng.random() < level.truth
            else values[int(rng.random() * len(values))]
            for i in range(len(at))
        ]
        if _winner(drawn[silent:]) == value:
            return drawn


@cache
def _lexicon(level: Level) -> dict[tuple[str, ...], list[str]]:
    """For a class and the values that it expresses, the words to choose from."""
    rng = Random(SEED)
    syllables = map("".join, product(ONSETS.split(), "aeiou", CODAS.split()))
    stems = iter(sorted(syllables, key=lambda _: rng.random()))
    lexicon = {key: words.split() for key, words in FUNCTION_WORDS.items()}
    for topic, (c, count) in product(ATTRIBUTES["topic"], zip(SHAPES, level.stems, strict=True)):
        own = list(islice(stems, count))
        for values in product(*(level.priors[attribute] for attribute in EXPRESSED[c][1:])):
            affixes = [AFFIXES[value] for value in values]
            lexicon[c, topic, *values] = [SHAPES[c](stem, *affixes) for stem in own]
    return lexicon


@cache
def _meanings(level: Level) -> dict[str, list[tuple[str, str]]]:
    """For each word the attributes and values that it expresses."""
    return {
        word: list(zip(EXPRESSED[c], values, strict=True))
        for (c, *values), words in _lexicon(level).items()
        for word in words
    }
