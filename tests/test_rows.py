"""Sentences of any kind as rows: all of them, batches, parts, and what is no sentence."""

import math

import numpy as np
import pytest
import torch

from collapse_bench.errors import UserError
from collapse_bench.latent_model import Rows

KINDS = {
    "tensor": lambda values: torch.tensor(values),
    "array": lambda values: np.array(values),
    "list": lambda values: list(values),
}


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


def listed(values):
    """The rows of any kind, as lists."""
    return [list(map(int, row)) for row in values]


SENTENCES = [[1, 2], [3, 4], [5, 6], [7, 8], [9, 10]]


def test_rows_are_all_there_and_count_as_one_token_each(kind):
    rows = Rows.of(kind(SENTENCES))
    assert len(rows) == 5
    assert listed(rows.values) == SENTENCES
    assert rows.lengths.tolist() == [1] * 5
    assert rows.index.tolist() == list(range(5))


@pytest.mark.parametrize("lengths", [list, np.array, torch.tensor, tuple])
def test_batches_are_from_short_to_long_and_have_every_sentence_once(kind, lengths):
    rows = Rows.of(kind(SENTENCES), lengths([7, 3, 5, 3, 1]))
    batches = list(rows.batches(2))
    assert [batch.index.tolist() for batch in batches] == [[4, 1], [3, 2], [0]]
    assert [batch.lengths.tolist() for batch in batches] == [[1, 3], [3, 5], [7]]
    for batch in batches:
        assert listed(batch.values) == [SENTENCES[i] for i in batch.index.tolist()]
        assert type(batch.values) is type(rows.values)
        assert batch.lengths.dtype == torch.int64


def test_rows_may_be_taken_again_and_from_a_part_of_a_part(kind):
    some = Rows.of(kind(SENTENCES), [7, 3, 5, 3, 1]).rows(torch.tensor([4, 0, 0, 2]))
    assert listed(some.values) == [SENTENCES[i] for i in (4, 0, 0, 2)]
    again = some.rows(torch.tensor([2, 0, 2]))
    # The place among all sentences, not among these.
    assert again.index.tolist() == [0, 4, 0]
    assert again.lengths.tolist() == [7, 1, 7]
    assert listed(again.values) == [SENTENCES[i] for i in (0, 4, 0)]
    assert type(again.values) is type(some.values)


def test_rows_of_different_lengths_are_a_list_and_texts_stay_texts():
    ragged = Rows.of(["a b", "c", "d e f"], [2, 1, 3])
    assert [batch.values for batch in ragged.batches(2)] == [["c", "a b"], ["d e f"]]


def test_a_move_keeps_the_rows(kind):
    rows = Rows.of(kind(SENTENCES), [7, 3, 5, 3, 1]).to("cpu")
    assert listed(rows.values) == SENTENCES
    moved = Rows.of(torch.ones(3, 2)).to("meta")
    assert (
        moved.values.device.type == moved.lengths.device.type == moved.index.device.type == "meta"
    )


@pytest.mark.parametrize(
    "lengths",
    [
        [1, 2],
        [1] * 6,
        [],
        [1.0] * 5,
        [1, 2, 3, 4, 0],
        [1, 2, 3, 4, -1],
        [[1], [2], [3], [4], [5]],
        [math.nan] * 5,
        ["1"] * 5,
        [[1], [2, 3], [4], [5], [6]],
        7,
    ],
)
def test_lengths_that_are_none_are_refused(kind, lengths):
    with pytest.raises(UserError, match=r"^lengths: "):
        Rows.of(kind(SENTENCES), lengths)


@pytest.mark.parametrize(
    "values",
    [[], torch.ones(0, 3), np.ones((0, 3)), None, 3, torch.tensor(3.0), np.array(3.0), iter([1])],
    ids=lambda values: type(values).__name__,
)
def test_no_sentences_are_refused(values):
    with pytest.raises(UserError, match=r"^sentences: at least one"):
        Rows.of(values)


def test_a_mapping_is_no_sentences():
    with pytest.raises(UserError, match=r"^sentences: "):
        Rows.of({"ids": torch.ones(3, 2), "mask": torch.ones(3, 2)})


@pytest.mark.parametrize(
    ("values", "real"),
    [
        (torch.ones(2, 3), True),
        (torch.ones(2, 3, dtype=torch.int64), False),
        (np.ones((2, 3)), True),
        (np.ones((2, 3), dtype=np.int32), False),
        ([[1.0, 2.0], [3.0]], True),
        ([[1, 2], [3]], False),
        ([torch.ones(3), torch.ones(2)], True),
        ([torch.ones(3, dtype=torch.int64)], False),
        (["a b", "c"], False),
        ([["a", "b"], ["c"]], False),
        ([{"ids": [1]}], False),
        ([[], [1]], False),
        (torch.ones(2, 0), True),
    ],
)
def test_rows_are_real_values_or_words(values, real):
    assert Rows.of(values).real is real
