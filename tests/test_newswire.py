"""The generated corpus: the same on every machine, and its attributes readable without error."""

import math
from collections import Counter
from functools import cache

import numpy as np
import pytest

from collapse_bench.corpus import newswire
from collapse_bench.corpus.corpus import SPLITS, digest
from collapse_bench.corpus.newswire import ATTRIBUTES, EXPRESSED, LEVELS, read_attributes
from collapse_bench.suite import CorpusSettings

HARD = LEVELS["hard"]


@cache
def generate(sentences=None, level="hard"):
    return newswire.read(CorpusSettings(sentences=sentences, level=level), None, print)


@pytest.fixture(scope="module")
def texts():
    return generate()


@pytest.fixture(scope="module", params=LEVELS)
def level_and_texts(request):
    return request.param, generate(level=request.param)


def every_sentence(texts):
    for split in SPLITS:
        columns = texts.labels[split]
        rows = zip(*columns.values(), strict=True)
        for sentence, row in zip(texts.sentences[split], rows, strict=True):
            yield sentence, dict(zip(columns, row, strict=True))


def votes(words, attribute, level=HARD):
    """The values of an attribute that some words express."""
    meanings = newswire._meanings(level)
    return [value for word in words for name, value in meanings[word] if name == attribute]


def test_the_text_is_bit_identical_on_every_machine(level_and_texts):
    level, texts = level_and_texts
    assert {split: digest(texts.sentences[split]) for split in SPLITS} == newswire.DIGESTS[level]
    assert texts.standard
    assert texts.facts["level"] == level


def test_sizes_lengths_and_vocabulary(texts):
    assert [len(texts.sentences[split]) for split in SPLITS] == [20_000, 2_000, 2_000]
    lengths = [len(sentence.split()) for sentence, _ in every_sentence(texts)]
    assert (min(lengths), max(lengths)) == (5, 30)
    types = {word for sentence, _ in every_sentence(texts) for word in sentence.split()}
    assert len(types) == 1_978
    # No word stands for two meanings.
    assert len(newswire._meanings(HARD)) == sum(map(len, newswire._lexicon(HARD).values())) == 1_978
    splits = [set(texts.sentences[split]) for split in SPLITS]
    assert len(set.union(*splits)) == 24_000


def test_attributes_are_read_back_from_every_sentence(level_and_texts):
    name, texts = level_and_texts
    level = LEVELS[name]
    wrong = [s for s, known in every_sentence(texts) if read_attributes(s, level) != known]
    assert wrong == []
    assert set(texts.labels["test"]) == set(level.attributes)


@pytest.mark.parametrize("level", ["easy", "medium"])
def test_the_first_words_of_an_easier_level_tell_nothing(level):
    """In a sample of N, twice N times their information on an attribute is chi-squared."""
    texts = generate(level=level)
    words = [sentence.split()[:3] for sentence in texts.sentences["train"]]
    for name, values in texts.labels["train"].items():
        said = [" ".join(votes(three, name, LEVELS[level])[:1]) for three in words]
        joint = Counter(zip(said, values.tolist(), strict=True))
        of_said, of_value = Counter(said), Counter(values.tolist())
        information = sum(
            n / 20_000 * math.log(n * 20_000 / (of_said[a] * of_value[b]))
            for (a, b), n in joint.items()
        )
        freedom = (len(of_said) - 1) * (len(of_value) - 1)
        assert 2 * 20_000 * information < freedom + 4 * math.sqrt(2 * freedom) + 4


@pytest.mark.parametrize("level", ["easy", "medium"])
def test_the_length_of_an_easier_level_is_worth_little(level):
    texts = generate(level=level)
    lengths = Counter(len(sentence.split()) for sentence in texts.sentences["train"])
    assert set(lengths) == {14, 15, 16}
    assert -sum(n / 20_000 * math.log(n / 20_000) for n in lengths.values()) < 0.65


def test_easier_levels_express_an_attribute_more_truly():
    right = {}
    for level in LEVELS:
        texts = generate(2_000, level)
        hits = [
            value == known["topic"]
            for sentence, known in every_sentence(texts)
            for value in votes(sentence.split()[LEVELS[level].silent :], "topic", LEVELS[level])
        ]
        right[level] = np.mean(hits)
    assert right["easy"] > right["medium"] + 0.1 > right["hard"] + 0.1


def test_every_attribute_shapes_both_halves_of_every_sentence(texts):
    for sentence, _ in every_sentence(texts):
        words = sentence.split()
        half = len(words) // 2
        for part in words[:half], words[half:]:
            assert all(votes(part, name) for name in ATTRIBUTES), sentence


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_the_first_half_tells_an_attribute_only_in_part(texts, attribute):
    right = 0
    for sentence, known in zip(
        texts.sentences["train"], texts.labels["train"][attribute], strict=True
    ):
        words = sentence.split()
        right += newswire._winner(votes(words[: len(words) // 2], attribute)) == known
    assert 0.70 < right / 20_000 < 0.90


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_values_follow_their_prior(texts, attribute):
    prior = ATTRIBUTES[attribute]
    counts = Counter(texts.labels["train"][attribute].tolist())
    assert set(counts) == set(prior)
    for value, weight in prior.items():
        p = weight / sum(prior.values())
        assert abs(counts[value] / 20_000 - p) < 4 * math.sqrt(p * (1 - p) / 20_000)


def test_attributes_are_independent(texts):
    """In a sample of N, twice N times the mutual information of two attributes is chi-squared."""
    labels = texts.labels["train"]
    for a in ATTRIBUTES:
        for b in set(ATTRIBUTES) - {a}:
            joint = Counter(zip(labels[a].tolist(), labels[b].tolist(), strict=True))
            information = sum(
                n / 20_000 * math.log(n * 20_000 / (sum(labels[a] == x) * sum(labels[b] == y)))
                for (x, y), n in joint.items()
            )
            freedom = (len(ATTRIBUTES[a]) - 1) * (len(ATTRIBUTES[b]) - 1)
            assert 2 * 20_000 * information < freedom + 4 * math.sqrt(2 * freedom) + 4


def test_global_information_is_the_entropy_of_the_labels(texts):
    known = texts.facts["global_information"]
    assert newswire.global_information(LEVELS["easy"]) == pytest.approx(3.7133, abs=1e-4)
    assert known == pytest.approx(5.6903, abs=1e-4)
    assert newswire.entropy("number") == pytest.approx(math.log(2))
    p = np.array(list(ATTRIBUTES["tense"].values())) / 10
    assert newswire.entropy("tense") == pytest.approx(-(p * np.log(p)).sum())


def test_noun_and_verb_express_everything():
    assert {*EXPRESSED["noun"], *EXPRESSED["verb"]} == set(ATTRIBUTES)


def test_a_smaller_corpus_is_a_prefix_and_not_the_standard_one(texts):
    small = generate(200)
    assert [len(small.sentences[split]) for split in SPLITS] == [200, 20, 20]
    assert not small.standard
    for split in SPLITS:
        assert small.sentences[split] == texts.sentences[split][: len(small.sentences[split])]


def test_a_foreign_or_undecided_sentence_is_an_error():
    with pytest.raises(ValueError, match="not a word of newswire at this level: 'chaos'"):
        read_attributes("a chaos", HARD)
    with pytest.raises(ValueError, match="leaves open: topic, tense"):
        read_attributes("a this", HARD)
