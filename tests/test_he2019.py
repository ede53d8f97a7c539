"""The synthetic text of He et al. (2019): its draws, its likelihood, and what z can tell."""

import math
from collections import Counter
from random import Random

import numpy as np
import pytest

from collapse_bench.corpus import he2019
from collapse_bench.corpus.corpus import SPLITS, digest
from collapse_bench.suite import CorpusSettings


@pytest.fixture(scope="module")
def texts():
    return he2019.read(CorpusSettings(name="he2019"), None, print)


def test_the_text_is_the_known_one(texts):
    assert {split: digest(texts.sentences[split]) for split in SPLITS} == he2019.DIGESTS
    assert texts.standard
    assert {split: len(texts.sentences[split]) for split in SPLITS} == he2019.SIZES
    assert {len(s.split()) for split in SPLITS for s in texts.sentences[split]} == {10}


def test_first_words_and_components_are_uniform(texts):
    first = Counter(sentence.split()[0] for sentence in texts.sentences["train"])
    assert len(first) == 1_000
    chi_squared = sum((first[f"w{i}"] - 16) ** 2 / 16 for i in range(1_000))
    assert abs(chi_squared - 999) < 4 * math.sqrt(2 * 999)
    component = Counter(texts.labels["train"]["component"].tolist())
    assert all(abs(component[str(i)] - 4_000) < 4 * math.sqrt(3_000) for i in range(4))


def test_probabilities_of_a_next_word_sum_to_one():
    z = np.array([[1.0, -2.0]])
    row = np.array([[3, 14, 15, 92, 65, 35, 89, 79, 32, 0]])
    every = np.repeat(row, 1_000, axis=0)
    every[:, 9] = np.arange(1_000)
    nats = he2019.log_likelihood(every, np.repeat(z, 1_000, axis=0))
    shorter = nats.max() + np.log(np.exp(nats - nats.max()).sum())
    # What is left is the probability of the first nine words, which the last has no part in.
    other = row.copy()
    other[:, 9] = 777
    both = [he2019.log_likelihood(r, z)[0] for r in (row, other)]
    states = he2019._begin(z)
    for t in range(1, 10):
        states, logits = he2019._after(row[:, t - 1], z, states)
    share = logits[0] - logits.max() - np.log(np.exp(logits[0] - logits.max()).sum())
    assert both[0] - share[0] == pytest.approx(shorter, abs=1e-9)
    assert both[1] - share[777] == pytest.approx(shorter, abs=1e-9)


def test_the_marginal_is_that_of_many_draws_of_the_prior():
    rng = Random(5)
    _, words = he2019.draw(2, rng)
    marginal, divergence = he2019.log_marginal(words)
    generator = np.random.default_rng(1)
    n = 10_000
    z = he2019.MEANS[generator.integers(4, size=n)] + generator.normal(size=(n, 2))
    for row, nats, rate in zip(words, marginal, divergence, strict=True):
        given = he2019.log_likelihood(np.broadcast_to(row, (n, 10)), z)
        weight = np.exp(given - given.max())
        error = weight.std() / math.sqrt(n) / weight.mean()
        drawn = given.max() + math.log(weight.mean())
        assert nats == pytest.approx(drawn, abs=4 * error + 0.01)
        weight /= weight.sum()
        assert rate == pytest.approx(weight @ given - drawn, abs=0.2)


def test_a_finer_grid_says_the_same():
    _, words = he2019.draw(2, Random(6))
    usual = he2019.log_marginal(words)
    finer = he2019.log_marginal(words, coarse=0.3, finer=7)
    assert np.allclose(usual, finer, atol=2e-3)
