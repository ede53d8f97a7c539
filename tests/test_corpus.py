"""Text in, batches out: readers, vocabulary, batches, and what happens where a text is missing."""

import hashlib
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from collapse_bench.corpus import Split, evaluation_batches, load_corpus, text, training_batches
from collapse_bench.corpus.batches import MOST_PADDED, collate
from collapse_bench.corpus.vocabulary import BOS, EOS, PAD, SPECIALS, UNK, Vocabulary
from collapse_bench.errors import CorpusMissing, UserError
from collapse_bench.suite import CorpusSettings

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("COLLAPSE_BENCH_DATA", ROOT.parent / "shared/data"))
needs_ptb = pytest.mark.skipif(
    not (DATA / "ptb/train.txt").is_file(), reason=f"no Penn Treebank in {DATA / 'ptb'}"
)


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """No test may wait for the hub."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def said():
    return []


def write(folder, **splits):
    """A folder of `<split>.txt`; strings or bytes."""
    contents = {"train": "a b\nb c\n", "valid": "a\n", "test": "c d\nc\n"} | splits
    folder.mkdir(exist_ok=True)
    for split, content in contents.items():
        raw = content if isinstance(content, bytes) else content.encode()
        (folder / f"{split}.txt").write_bytes(raw)
    return folder


def load_text(folder, said, **more):
    return load_corpus(CorpusSettings(name="text", path=str(folder), **more), None, said.append)


def sentences_of(corpus, split):
    part = getattr(corpus, split)
    return [corpus.vocabulary.decode(part.sentence(i)) for i in range(len(part))]


# --- Penn Treebank ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ptb():
    said = []
    corpus = load_corpus(CorpusSettings(name="ptb"), DATA, said.append)
    return corpus, said


@needs_ptb
def test_ptb_counts(ptb):
    corpus, said = ptb
    record = corpus.record()
    assert record["sentences"] == {"train": 42_068, "valid": 3_370, "test": 3_761}
    assert record["tokens"] == {
        "train": 887_521 + 42_068,
        "valid": 70_390 + 3_370,
        "test": 78_669 + 3_761,
    }
    assert corpus.vocabulary.size == 10_002
    assert (corpus.name, corpus.requested, corpus.standard) == ("ptb", "ptb", True)
    assert said == []
    json.dumps(record)


@needs_ptb
def test_ptb_round_trips(ptb):
    corpus, _ = ptb
    lines = (DATA / "ptb/test.txt").read_text(encoding="utf-8").removesuffix("\n").split("\n")
    assert sentences_of(corpus, "test") == [" ".join(line.split()) for line in lines]


@needs_ptb
def test_ptb_ids_are_those_of_a_plain_dictionary(ptb, tmp_path):
    corpus, _ = ptb
    corpus.vocabulary.save(tmp_path / "tokenizer.json")
    saved = Vocabulary.load(tmp_path / "tokenizer.json")
    ids = saved.tokenizer.get_vocab()
    lines = (DATA / "ptb/train.txt").read_text(encoding="utf-8").removesuffix("\n").split("\n")
    plain = [ids.get(word, UNK) for line in lines for word in line.split()]
    assert np.array_equal(corpus.train.tokens, plain)
    again, offsets = saved.encode([" ".join(line.split()) for line in lines])
    assert np.array_equal(again, plain)
    assert np.array_equal(offsets, corpus.train.offsets)


@needs_ptb
def test_ptb_training_batches_have_little_padding(ptb):
    corpus, _ = ptb
    batches = list(training_batches(corpus.train, 32, seed=1, epoch=0))
    targets = sum(batch.tokens for batch in batches)
    assert targets == corpus.train.n_tokens
    assert sum(batch.mask.numel() for batch in batches) < 1.01 * targets


def test_a_deviating_ptb_is_used_and_says_so(tmp_path, said):
    write(tmp_path / "ptb")
    corpus = load_corpus(CorpusSettings(name="ptb"), tmp_path, said.append)
    assert (corpus.name, corpus.standard) == ("ptb", False)
    assert len(said) == 1
    assert "train and valid and test not the known text" in said[0]


def test_the_path_of_the_suite_comes_before_the_data_folder(tmp_path, said):
    write(tmp_path / "ptb", train="data\n")
    named = write(tmp_path / "named", train="path\n")
    for split in ("train", "valid", "test"):
        (named / f"{split}.txt").rename(named / f"ptb.{split}.txt")
    settings = CorpusSettings(name="ptb", path=str(named))
    assert sentences_of(load_corpus(settings, tmp_path, said.append), "train") == ["path"]


def test_a_missing_ptb_says_where_it_was_sought_and_how_to_get_it(tmp_path, said):
    with pytest.raises(CorpusMissing) as error:
        load_corpus(CorpusSettings(name="ptb", path="nowhere"), tmp_path, said.append)
    assert error.value.exit_code == 3
    for part in ("in nowhere", str(tmp_path / "ptb"), "hub ", "LDC", "COLLAPSE_BENCH_DATA=FOLDER"):
        assert part in str(error.value)


def test_the_fall_back_is_said_at_once_and_carries_its_own_name(tmp_path, said):
    settings = CorpusSettings(name="ptb", otherwise="newswire", sentences=20)
    record = load_corpus(settings, tmp_path, said.append).record()
    assert (record["name"], record["requested"]) == ("newswire", "ptb")
    assert record["global_information"] > 5
    assert len(said) == 1
    assert "ptb is not on this machine" in said[0]
    assert "going on with newswire" in said[0]


def test_without_network_the_search_ends_within_three_seconds(tmp_path):
    """Not even a look-up of the hub's name that never ends holds the search up."""
    program = """
import socket, time
socket.create_connection = lambda *args, **kwargs: time.sleep(60)
from collapse_bench.corpus import load_corpus
from collapse_bench.errors import CorpusMissing
from collapse_bench.suite import CorpusSettings
start = time.monotonic()
try:
    load_corpus(CorpusSettings(name="ptb"), None, print)
except CorpusMissing as error:
    assert "cannot be reached" in str(error)
    print(time.monotonic() - start)
"""
    environment = {k: v for k, v in os.environ.items() if k not in ("HF_HUB_OFFLINE",)}
    environment |= {"HF_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60
    )
    assert float(done.stdout) < 3, done.stderr


# --- text: folders and the hub ------------------------------------------------------------------


def test_a_folder_of_text(tmp_path, said):
    corpus = load_text(write(tmp_path / "x"), said)
    assert (corpus.name, corpus.standard, said) == ("text", False, [])
    assert sentences_of(corpus, "train") == ["a b", "b c"]
    assert sentences_of(corpus, "test") == ["c <unk>", "c"]
    assert corpus.test.n_tokens == 5


def test_only_line_ends_end_a_line(tmp_path, said):
    folder = write(tmp_path / "x", train="a\x85b\u2028c\x0bd\r\ne\rf\n", valid="\ufeffg\n")
    corpus = load_text(folder, said)
    assert sentences_of(corpus, "train") == ["a b c d", "e", "f"]


def test_the_digest_is_of_the_normalised_text(tmp_path, said):
    plain = load_text(write(tmp_path / "x"), said)
    spaced = load_text(write(tmp_path / "y", train=" a  b \r\n\tb c"), said)
    other = load_text(write(tmp_path / "z", train="a b\nb d\n"), said)
    assert plain.sha256 == spaced.sha256 != other.sha256


def test_blank_lines_are_left_out_with_a_word(tmp_path, said):
    folder = write(tmp_path / "x", train="a\n\n  \nb\n")
    (folder / "train.labels").write_text("one\ntwo\nthree\nfour\n")
    corpus = load_text(folder, said)
    assert sentences_of(corpus, "train") == ["a", "b"]
    assert corpus.train.labels["label"].tolist() == ["one", "four"]
    assert corpus.valid.labels == {}
    assert said == [f"{folder / 'train.txt'}: 2 blank of 4 lines left out"]


def test_a_long_sentence_is_never_cut(tmp_path, said):
    corpus = load_text(write(tmp_path / "x", test="b\n" + "a " * 5000), said)
    assert corpus.test.lengths.tolist() == [2, 5001]
    assert list(evaluation_batches(corpus.test, 1))[1].targets.shape == (1, 5001)


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"valid": ""}, "valid.txt: no sentence in it"),
        ({"valid": "\n \n"}, "valid.txt: no sentence in it"),
        ({"test": b"a\nb \xff c\n"}, "test.txt:2: not UTF-8 (byte 0xff); save it as UTF-8"),
        ({"train": "a b\n".encode("utf-16-le")}, "train.txt:1: NUL byte; save it as UTF-8"),
        ({"valid": "a\nb\x1b[0m\n"}, "valid.txt:2: control character U+001B; save it as UTF-8"),
        ({"valid": "a\nit\x92s\n"}, "valid.txt:2: control character U+0092; save it as UTF-8"),
        ({"valid": "a\n\ufeffb\n"}, "valid.txt:2: byte order mark within the text"),
        (
            {"train": "a b <eos>\nc <eos>\nd\n"},
            "train.txt:1: the word <eos> marks sentences (as in "
            "2 of 3 lines); remove it: the bench adds its own",
        ),
        ({"train": "a b\n<s> c </s>\n"}, "train.txt:2: the word <s> marks sentences"),
        ({"test": "a\n[SEP] b\n"}, "test.txt:2: the word [SEP] marks sentences"),
        ({"test": "a b\n"}, "test must have at least 2 sentences, not 1"),
    ],
)
def test_bad_files_are_named(tmp_path, said, splits, message):
    with pytest.raises(UserError) as error:
        load_text(write(tmp_path / "x", **splits), said)
    assert message in str(error.value)


def test_a_missing_split_is_named(tmp_path, said):
    folder = write(tmp_path / "x")
    (folder / "valid.txt").unlink()
    with pytest.raises(UserError, match=r"valid\.txt missing beside the other splits"):
        load_text(folder, said)


def test_labels_must_be_as_many_as_lines(tmp_path, said):
    folder = write(tmp_path / "x")
    (folder / "train.labels").write_text("one\n")
    with pytest.raises(UserError, match=r"train\.labels: 1 labels for the 2 lines of train\.txt"):
        load_text(folder, said)


def test_labels_are_stripped_and_an_empty_one_is_none(tmp_path, said):
    folder = write(tmp_path / "x", train="a b\nb c\nc\na\n")
    (folder / "train.labels").write_text("pos \n\n pos\nvery  bad\n")
    (folder / "valid.labels").write_text(" \n")
    corpus = load_text(folder, said)
    assert corpus.train.labels["label"].tolist() == ["pos", "", "pos", "very bad"]
    assert corpus.valid.labels == corpus.test.labels == {}
    assert corpus.record()["labelled"] == {"label": {"train": 3, "valid": 0, "test": 0}}
    (folder / "test.labels").write_text("a\x00\nb\n")
    with pytest.raises(UserError, match=r"test\.labels:1: NUL byte"):
        load_text(folder, said)


def test_the_labels_have_a_digest_of_their_own(tmp_path, said):
    folder = write(tmp_path / "x")
    digests = [load_text(folder, said).record()["labels_sha256"]]
    for labels in ("a\nb\n", "a\nb \n", "b\na\n", "\na\n", "\n\n"):
        (folder / "test.labels").write_text(labels)
        digests.append(load_text(folder, said).record()["labels_sha256"])
    assert digests[0] is digests[5] is None
    assert digests[1] == digests[2]
    assert len(set(digests)) == 4
    (folder / "train.labels").write_text("a\nb\n")
    assert load_text(folder, said).labels_sha256 not in digests
    assert len({load_text(folder, said).sha256 for _ in range(2)}) == 1


@pytest.mark.parametrize(("tokenizer", "types", "unknown"), [("word", 7, 1 / 3), ("bpe", 260, 0.0)])
def test_a_record_tells_the_vocabulary(tmp_path, said, tokenizer, types, unknown):
    corpus = load_text(write(tmp_path / "x"), said, tokenizer=tokenizer)
    told = corpus.record()["vocabulary"]
    assert told["tokenizer"] == tokenizer
    assert told["types"] == corpus.vocabulary.size >= types
    assert told["unknown_share_of_test"] == pytest.approx(unknown)


def test_text_needs_a_place(tmp_path, said):
    with pytest.raises(UserError, match="set path"):
        load_corpus(CorpusSettings(name="text"), None, said.append)
    with pytest.raises(CorpusMissing, match=r"no train\.txt"):
        load_text(tmp_path / "nowhere", said)
    with pytest.raises(CorpusMissing, match=r"hub acme/none \(main\): not in the local cache"):
        load_corpus(CorpusSettings(name="text", hub="acme/none"), None, said.append)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A snapshot of a hub data set, and the settings that name it."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    kind = datasets.ClassLabel(names=["bad", "good"])
    rows = {"text": ["a b", " ", "c"], "mood": [1, 0, -1], "stars": [1, 2, 3]}
    features = datasets.Features(
        {"text": datasets.Value("string"), "mood": kind, "stars": datasets.Value("int32")}
    )
    (tmp_path / "data").mkdir()
    for split in ("train", "validation", "test"):
        table = datasets.Dataset.from_dict(rows, features=features)
        table.to_parquet(tmp_path / f"data/{split}-00000-of-00001.parquet")
    monkeypatch.setattr(text, "_snapshot", lambda name, revision: tmp_path)
    return tmp_path, CorpusSettings(name="text", hub="acme/moods")


def test_a_hub_data_set_with_classes(hub, said):
    corpus = load_corpus(hub[1], None, said.append)
    assert sentences_of(corpus, "valid") == ["a b", "c"]
    assert {name: values.tolist() for name, values in corpus.valid.labels.items()} == {
        "mood": ["good", ""]
    }
    assert said[0] == "hub acme/moods, train: 1 blank of 3 lines left out"


@pytest.mark.parametrize(
    ("rows", "held"),
    [([["a", "b"], ["c"]], "lists"), ([1, 2], "int64"), ([{"a": "b"}, {"a": "c"}], "mappings")],
)
def test_a_hub_column_that_is_no_text(hub, said, rows, held):
    datasets = pytest.importorskip("datasets")
    for split in ("train", "validation", "test"):
        table = datasets.Dataset.from_dict({"text": rows})
        table.to_parquet(hub[0] / f"data/{split}-00000-of-00001.parquet")
    message = f"hub acme/moods: the column text holds {held}, not text"
    with pytest.raises(UserError, match=message):
        load_corpus(hub[1], None, said.append)


def test_a_hub_text_is_held_against_the_same_rules(hub, said):
    datasets = pytest.importorskip("datasets")
    kind = datasets.ClassLabel(names=["bad", "good"])
    for text_of_row, message in (
        ("b <eos>", "hub acme/moods, train, row 2: the word <eos> marks sentences"),
        ("b\x00", "hub acme/moods, train, row 2: NUL byte"),
        ("b", None),
    ):
        rows = {"text": ["a", text_of_row], "mood": [-1, -1]}
        features = datasets.Features({"text": datasets.Value("string"), "mood": kind})
        for split in ("train", "validation", "test"):
            table = datasets.Dataset.from_dict(rows, features=features)
            table.to_parquet(hub[0] / f"data/{split}-00000-of-00001.parquet")
        if message:
            with pytest.raises(UserError, match=message):
                load_corpus(hub[1], None, said.append)
        else:  # no class at all is no label
            assert load_corpus(hub[1], None, said.append).labels_sha256 is None


def test_a_hub_data_set_without_a_split(hub, said):
    (hub[0] / "data/test-00000-of-00001.parquet").unlink()
    with pytest.raises(UserError, match="no split test; it has train, validation"):
        load_corpus(hub[1], None, said.append)


def test_a_snapshot_comes_from_the_local_cache(tmp_path, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    commit = "a" * 40
    folder = tmp_path / "datasets--acme--moods/snapshots" / commit
    folder.mkdir(parents=True)
    (folder / "x.txt").write_text("a\n")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert text._snapshot("acme/moods", commit) == folder


# --- vocabulary ---------------------------------------------------------------------------------


def test_a_word_vocabulary_is_ranked_and_contiguous():
    vocabulary = Vocabulary.of_words(["b a <unk> b", "c <eos> a b"])
    ids = vocabulary.tokenizer.get_vocab()
    assert sorted(ids, key=ids.__getitem__) == [*SPECIALS, "b", "a", "c"]
    assert Vocabulary.of_words(["b a b c"], largest=5).size == 5


words = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
texts = st.lists(st.lists(words | st.sampled_from(SPECIALS)).map(" ".join), min_size=1)


@settings(max_examples=100, deadline=None)
@given(texts)
def test_words_are_those_of_a_plain_dictionary_and_never_special(raw):
    sentences = [" ".join(row.split()) for row in raw]
    vocabulary = Vocabulary.of_words(sentences)
    ids = vocabulary.tokenizer.get_vocab()
    tokens, offsets = vocabulary.encode(sentences)
    plain = [UNK if w in SPECIALS else ids[w] for s in sentences for w in s.split()]
    assert tokens.tolist() == plain
    assert np.diff(offsets).tolist() == [len(s.split()) for s in sentences]


@settings(max_examples=50, deadline=None)
@given(texts)
def test_pieces_round_trip_and_are_never_special(raw):
    sentences = [" ".join(row.split()) for row in raw]
    vocabulary = Vocabulary.of_pieces(sentences, largest=300)
    tokens, offsets = vocabulary.encode(sentences)
    assert not set(tokens.tolist()) & {PAD, UNK, BOS, EOS}
    parts = np.split(tokens, offsets[1:-1])
    assert [vocabulary.decode(part.tolist()) for part in parts] == sentences


def test_special_ids_are_shown_when_decoded(tmp_path):
    for vocabulary in Vocabulary.of_words(["a b"]), Vocabulary.of_pieces(["a b"]):
        vocabulary.save(tmp_path / "tokenizer.json")
        again = Vocabulary.load(tmp_path / "tokenizer.json")
        assert again.size == vocabulary.size
        assert "<eos>" in again.decode([*again.encode(["a b"])[0], EOS])


def test_a_vocabulary_too_small_for_bytes():
    with pytest.raises(UserError, match="at least 260, got 259"):
        Vocabulary.of_pieces(["a"], largest=259)


def test_a_bpe_corpus(tmp_path, said):
    corpus = load_text(write(tmp_path / "x"), said, tokenizer="bpe")
    assert sentences_of(corpus, "test") == ["c d", "c"]


# --- batches ------------------------------------------------------------------------------------


def split_of(lengths):
    """A split with sentences of the given numbers of words, all ids different."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Split(np.arange(4, 4 + offsets[-1], dtype=np.int32), offsets)


def test_a_batch_by_hand():
    split = split_of([2, 1])
    (batch,) = evaluation_batches(split, 8)
    assert batch.index.tolist() == [1, 0]
    assert batch.targets.tolist() == [[6, EOS, PAD], [4, 5, EOS]]
    assert batch.inputs.tolist() == [[BOS, 6, PAD], [BOS, 4, 5]]
    assert batch.mask.tolist() == [[True, True, False], [True, True, True]]
    assert batch.lengths.tolist() == [2, 3]
    assert batch.tokens == 5
    moved = batch.to("meta")
    assert (moved.targets.device.type, moved.tokens) == ("meta", 5)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=60),
    st.integers(1, 20),
    st.integers(0, 2**31),
    st.integers(0, 99),
)
def test_every_sentence_comes_exactly_once(lengths, size, seed, epoch):
    split = split_of(lengths)
    training = list(training_batches(split, size, seed, epoch))
    evaluation = list(evaluation_batches(split, size))
    assert len(evaluation) == -(-len(split) // size)
    joined = size > 1 and len(split) > size and len(split) % size == 1
    assert len(training) == len(evaluation) - joined
    for batches in (training, evaluation):
        assert sorted(torch.cat([b.index for b in batches]).tolist()) == list(range(len(split)))
        assert sum(batch.tokens for batch in batches) == split.n_tokens
        for batch in batches:
            for row, i in zip(batch.targets, batch.index.tolist(), strict=True):
                assert row[row != PAD].tolist() == [*split.sentence(i).tolist(), EOS]


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 60), st.integers(2, 20), st.integers(0, 99))
def test_no_training_batch_has_a_single_sentence(count, size, seed):
    split = split_of([3] * count)
    sizes = [len(batch.index) for batch in training_batches(split, size, seed, 0)]
    expected = [size] * (count // size) + [count % size] * (count % size > 0)
    if count % size == 1:
        expected = [size] * (count // size - 1) + [size + 1]
    assert sorted(sizes) == sorted(expected)


def test_a_rest_of_one_within_the_bounds_takes_one_from_the_batch_before():
    """Of 2,000 tokens each eight fit: nine are seven and two."""
    split = split_of([1999] * 9)
    sizes = [len(batch.index) for batch in training_batches(split, 9, 0, 0)]
    assert sizes == [7, 2]
    assert [len(batch.index) for batch in evaluation_batches(split, 9)] == [8, 1]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=30), st.integers(1, 9), st.data())
def test_the_rows_of_a_batch_are_the_batch_of_those_sentences(lengths, size, data):
    split = split_of(lengths)
    for batch in training_batches(split, size, seed=1, epoch=0):
        row = st.integers(0, len(batch.index) - 1)
        index = torch.tensor(data.draw(st.lists(row, min_size=1, max_size=12)))
        rows = batch.rows(index)
        expected = collate(split, batch.index[index].numpy())
        columns = expected.mask.shape[1]
        for name, padding in (("targets", PAD), ("inputs", PAD), ("mask", False)):
            wide, narrow = getattr(rows, name), getattr(expected, name)
            assert wide.dtype == narrow.dtype
            assert torch.equal(wide[:, :columns], narrow)
            assert (wide[:, columns:] == padding).all()
        assert torch.equal(rows.lengths, expected.lengths)
        assert torch.equal(rows.index, expected.index)
        assert rows.tokens == expected.tokens
        for each in (batch, rows, expected):
            assert each.tokens == int(each.mask.sum())


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(1, 20) | st.integers(1, 9000), min_size=1, max_size=60),
    st.integers(1, 40),
    st.integers(0, 99),
)
def test_a_long_sentence_pads_few_others(lengths, size, seed):
    split = split_of(lengths)
    training = list(training_batches(split, size, seed, 0))
    for batches in (training, list(evaluation_batches(split, size))):
        assert sorted(torch.cat([b.index for b in batches]).tolist()) == list(range(len(split)))
        for batch in batches:
            assert len(batch.index) <= size + (batches is training)
            assert batch.mask.numel() <= MOST_PADDED or len(batch.index) == 1
    # As few as there can be: the next sentence would have been too much.
    batches = list(evaluation_batches(split, size))
    for batch, after in itertools.pairwise(batches):
        rows, longest = len(batch.index) + 1, int(after.lengths[0])
        assert rows > size or rows * longest > MOST_PADDED


def test_batches_of_ordinary_sentences_are_as_before():
    """The order and the batches that records of before were trained on, by their digest."""
    split = split_of(np.random.default_rng(0).integers(1, 83, 4000))
    for batches, digest in (
        (training_batches(split, 32, 3, 2), "fe5213d8bc20adae"),
        (evaluation_batches(split, 64), "3b9ebeab89d3840a"),
    ):
        listed = [batch.index.tolist() for batch in batches]
        assert hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:16] == digest


def test_the_order_is_a_function_of_seed_and_epoch():
    split = split_of(np.random.default_rng(0).integers(1, 30, 500))

    def order(seed, epoch):
        return [b.index.tolist() for b in training_batches(split, 32, seed, epoch)]

    torch.manual_seed(7)
    first = order(1, 0)
    np.random.default_rng(3).random()
    torch.manual_seed(8)
    assert order(1, 0) == first
    assert order(1, 1) != first
    assert order(2, 0) != first


def test_the_small_batch_is_not_always_the_longest():
    split = split_of(list(range(1, 35)))
    small = {b.index.tolist()[0] for e in range(20) for b in training_batches(split, 8, 1, e)
             if len(b.index) == 2}  # fmt: skip
    assert len(small) > 2
