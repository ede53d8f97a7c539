"""A model of one's own over words: the mistakes that people make, and what is none."""

import pytest
import torch
from torch import nn
from torch.distributions import Normal

from collapse_bench.diagnosis import diagnose
from collapse_bench.diagnosis.report import ADVICE, NO_VERDICT
from collapse_bench.errors import UserError
from collapse_bench.metrics import VERDICTS


def told(model, sentences, lengths=None, **changes):
    settings = {"samples": 32, "batch": 400, "refined": 16}
    return diagnose(model, sentences, lengths, **settings | changes)


WORDS, PAD, LATENT = 12, 0, 2
TABLES = [torch.randn(WORDS, LATENT, generator=torch.Generator().manual_seed(i)) for i in (1, 2)]
TEXT = torch.randint(1, WORDS, (60, 8), generator=torch.Generator().manual_seed(3))
LENGTHS = torch.arange(60) % 5 + 2
PADDED = TEXT.where(torch.arange(8) < LENGTHS[:, None], PAD)
RAGGED = [row[:n].tolist() for row, n in zip(TEXT, LENGTHS, strict=True)]


class Words:
    """A bag of words: q from the mean word vector, p(word) from z. A batch is padded with 0."""

    def padded(self, x):
        if isinstance(x, list):
            return nn.utils.rnn.pad_sequence([torch.tensor(row) for row in x], batch_first=True)
        return x

    def posterior(self, x):
        x = self.padded(x)
        seen = (x != PAD)[:, :, None]
        return self.posterior_of((TABLES[0][x] * seen).sum(1) / seen.sum(1))

    def posterior_of(self, mean):
        return Normal(mean, torch.full_like(mean, 0.7))

    def prior(self, x):
        return Normal(torch.zeros(len(x), LATENT), torch.ones(len(x), LATENT))

    def words(self, x, z):
        """log p of each word, padding among them, [B, T]."""
        x = self.padded(x)
        return (z @ TABLES[1].T).log_softmax(1).gather(1, x)

    def log_likelihood(self, x, z):
        return (self.words(x, z) * (self.padded(x) != PAD)).sum(1)


class ByPosition(Words):
    def log_likelihood(self, x, z):
        return self.words(x, z) * (self.padded(x) != PAD)


class Loss(Words):
    def log_likelihood(self, x, z):
        return -super().log_likelihood(x, z)


class Logits(Words):
    def words(self, x, z):
        return (z @ TABLES[1].T).gather(1, self.padded(x))


class BatchNormed(Words):
    def posterior_of(self, mean):
        return super().posterior_of((mean - mean.mean(0)) / (mean.std(0) + 1e-3))


class SeesOthers(Words):
    def words(self, x, z):
        return super().words(x, z - z.mean(0))


class SeesTheFirst(Words):
    def words(self, x, z):
        return super().words(x, z + 0.2 * z[:1])


class PriorThatLooks(Words):
    def prior(self, x):
        return self.posterior(x)


class SeesBothNeighbours(ByPosition):
    def words(self, x, z):
        return super().words(x, z) - 0.1 * (x.roll(-1, 1) + x.roll(1, 1))


class Dropped(Words):
    def posterior_of(self, mean):
        return super().posterior_of(nn.functional.dropout(mean, 0.5))


class CountsPadding(Words):
    def log_likelihood(self, x, z):
        return self.words(x, z).sum(1)


class ReadsPadding(Words):
    def posterior(self, x):
        return self.posterior_of(TABLES[0][self.padded(x)].mean(1))


KINDS = {"padded": PADDED, "array": PADDED.numpy(), "ragged": RAGGED}
"""What an honest wrapper may be given; the array is turned into a tensor by the model."""


class OfArrays:
    """A model of tensors that is given arrays."""

    def __init__(self, model):
        self.model = model

    def __getattr__(self, name):
        return lambda x, *z: getattr(self.model, name)(torch.as_tensor(x), *z)


@pytest.mark.parametrize("batch", [1, 7, 60])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", [Words, ByPosition])
def test_an_honest_model_of_words_is_accused_of_nothing(model, kind, batch):
    honest = OfArrays(model()) if kind == "array" else model()
    found = told(honest, KINDS[kind], LENGTHS, batch=batch, samples=4)
    assert found.verdict in VERDICTS
    assert not found.evidence.bound.reasons


@pytest.mark.parametrize("batch", [2, 7, 60])
@pytest.mark.parametrize(
    ("wrong", "kind", "said"),
    [
        (Loss, "padded", r"log_likelihood: gave \d.* never above 0.* opposite sign"),
        (Loss, "ragged", r"log_likelihood: gave \d.* never above 0"),
        (Logits, "padded", r"log_likelihood: gave \d.* log_softmax"),
        (BatchNormed, "padded", r"neighbours.*posterior.*batch normalisation"),
        (SeesOthers, "padded", r"neighbours.*log p\(x\|z\).*over the batch"),
        (SeesTheFirst, "padded", r"neighbours.*log p\(x\|z\).*over the batch"),
        (Dropped, "padded", r"same call twice.*posterior.*dropout.*nn\.Module"),
        (CountsPadding, "padded", r"padding counts.*log p\(x\|z\).*mask"),
        (CountsPadding, "ragged", r"neighbours.*log p\(x\|z\).*padding"),
        (ReadsPadding, "ragged", r"neighbours.*posterior.*padding"),
    ],
)
def test_a_mistake_is_an_error_before_any_verdict(wrong, kind, said, batch):
    with pytest.raises(UserError, match=said):
        told(wrong(), KINDS[kind], LENGTHS, batch=batch)


def test_a_start_and_an_end_that_lengths_do_not_count_are_no_padding():
    start, end = WORDS - 2, WORDS - 1
    framed = torch.full((60, 10), PAD)
    for row, words in zip(framed, RAGGED, strict=True):
        row[: len(words) + 2] = torch.tensor([start, *words, end])
    assert told(Words(), framed, LENGTHS).verdict in VERDICTS
    # An end of sentence may be the sign for padding, too: the first of them counts.
    same = framed.where(framed != PAD, end)

    class FirstEnd(Words):
        def log_likelihood(self, x, z):
            counted = torch.arange(x.shape[1]) < (x != end).sum(1, keepdim=True) + 1
            return (self.words(x, z) * counted).sum(1)

    assert told(FirstEnd(), same, LENGTHS).verdict in VERDICTS


@pytest.mark.parametrize(
    ("wrong", "kind", "said"),
    [(PriorThatLooks, "conditional", "prior"), (SeesBothNeighbours, "invalid", "predict")],
)
def test_what_is_no_bound_is_said_at_the_top_and_gets_no_verdict(wrong, kind, said):
    found = told(wrong(), TEXT, [8] * len(TEXT), batch=60)
    assert found.verdict == NO_VERDICT
    assert found.evidence.bound.kind == kind
    lines = str(found).splitlines()
    assert lines[0] == "verdict: NO VERDICT"
    assert "do not bound log p(x)" in lines[1]
    assert lines[2].startswith("  - ")
    assert said in lines[2]
    assert str(found).endswith(f"try next: {ADVICE[NO_VERDICT]}")
    assert "useful rate" in str(found), "the numbers are told all the same"
