"""What z tells beyond length and first words, and densities of pairs: closed forms and laws."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import logsumexp
from scipy.stats import norm

from collapse_bench.metrics.labels import information_about
from collapse_bench.metrics.mutual_information import (
    bounds,
    bounds_given_length,
    place_information,
    surprise,
)
from collapse_bench.metrics.pairs import Pairs, aggregate_terms, all_pairs, normal_pairs
from collapse_bench.metrics.probe import first_words_information, probe_information


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def channel(rng, mean, noise):
    """Both bounds without and with the length of a normal channel, under a prior N(0, 1)."""

    def measure(tokens):
        scale = np.full(mean.shape, noise)
        z = mean + scale * rng.normal(size=mean.shape)
        terms = aggregate_terms(normal_pairs(z, mean, scale), tokens)
        log_prior = norm.logpdf(z).sum(axis=1)
        return bounds(terms, log_prior, len(z)), bounds_given_length(terms, log_prior, tokens)

    return measure


def within(bounds, exact, bias=0.0):
    """Whether a number lies between two bounds, but for four standard errors and a bias."""
    (lower, upper) = ((terms.mean(), 4 * terms.std() / math.sqrt(len(terms))) for terms in bounds)
    return lower[0] - lower[1] <= exact <= upper[0] + upper[1] + bias


# Information given the length


def test_a_length_that_is_nothing_to_z_takes_nothing_from_it(rng):
    n, noise = 2000, 0.5
    whole, given = channel(rng, rng.normal(size=(n, 2)), noise)(rng.integers(3, 7, size=n))
    exact = math.log(1 + noise**-2)
    assert within(whole, exact)
    assert within(given, exact)
    # Groups are a quarter as large, and so both bounds are wider.
    assert given.lower.mean() == pytest.approx(exact, abs=0.1)
    assert given.upper.mean() == pytest.approx(exact, abs=0.1)


def test_of_a_length_that_is_all_of_z_nothing_is_left(rng):
    tokens = rng.integers(1, 9, size=1500)
    whole, given = channel(rng, 3.0 * tokens[:, None], 0.1)(tokens)
    np.testing.assert_allclose(given.lower, 0, atol=1e-9)
    assert abs(given.upper.mean()) < 0.1
    assert whole.lower.mean() == pytest.approx(surprise(tokens).mean(), abs=1e-6)


def test_length_and_the_rest_add_up(rng):
    n, noise = 2000, 0.5
    tokens = np.repeat([4, 9], n // 2)
    mean = np.stack([np.where(tokens == 4, -5.0, 5.0), rng.normal(size=n)], axis=1)
    whole, given = channel(rng, mean, noise)(tokens)
    rest = 0.5 * math.log(1 + noise**-2)
    assert within(given, rest)
    assert whole.lower.mean() - given.lower.mean() == pytest.approx(math.log(2), abs=1e-6)


def test_where_all_lengths_are_equal_nothing_changes(rng):
    tokens = np.full(300, 7)
    whole, given = channel(rng, rng.normal(size=(300, 3)), 0.4)(tokens)
    for one, other in zip(whole, given, strict=True):
        np.testing.assert_allclose(other, one, atol=1e-12)
    np.testing.assert_array_equal(surprise(tokens), np.zeros(300))


def test_where_all_lengths_differ_nothing_is_shown_and_nothing_excluded(rng):
    whole, given = channel(rng, rng.normal(size=(50, 2)), 0.3)(np.arange(50))
    np.testing.assert_allclose(given.lower, 0, atol=1e-12)
    np.testing.assert_allclose(given.upper, whole.upper, atol=1e-12)


@given(
    n=st.integers(2, 30), spread=st.floats(0, 50), most=st.integers(1, 9), seed=st.integers(0, 99)
)
def test_no_term_given_the_length_is_below_the_whole_less_what_the_length_can_tell(
    n, spread, most, seed
):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, most, size=n)
    whole, given = channel(rng, spread * rng.normal(size=(n, 2)), 1.0)(tokens)
    assert (given.lower >= whole.lower - surprise(tokens) - 1e-9).all()
    size = (tokens[:, None] == tokens).sum(axis=1)
    assert (given.lower <= np.log(size) + 1e-9).all()


@pytest.mark.parametrize("n", [0, 1])
def test_one_sentence_is_nothing_given_its_length(rng, n):
    _, given = channel(rng, rng.normal(size=(1, 2)), 1.0)(np.array([n]))
    for terms in given:
        np.testing.assert_array_equal(terms, [0.0])


# Pairs


def pairs_of(matrix, own, columns):
    return Pairs(lambda rows: matrix[rows].copy(), own, columns)


@pytest.mark.parametrize("rows", [1, 4, 256])
def test_terms_of_all_pairs_equal_the_brute_force(rng, monkeypatch, rows):
    monkeypatch.setattr("collapse_bench.metrics.pairs.ROWS", rows)
    n, tokens = 9, np.array([3, 4, 3, 5, 3, 4, 3, 8, 4])
    matrix = rng.normal(scale=400, size=(n, n))
    terms = aggregate_terms(all_pairs(lambda part: matrix[part].copy(), n), tokens)
    for i in range(n):
        same, others = tokens == tokens[i], np.arange(n) != i
        expected = {
            "log_density": matrix[i, i],
            "log_aggregate": logsumexp(matrix[i]) - math.log(n),
            "log_others": logsumexp(matrix[i, others]) - math.log(n - 1),
            "log_aggregate_given_length": logsumexp(matrix[i, same]) - math.log(same.sum()),
        }
        rest = same & others if same.sum() > 1 else others
        expected["log_others_given_length"] = logsumexp(matrix[i, rest]) - math.log(rest.sum())
        assert {name: array[i] for name, array in terms.items()} == pytest.approx(expected)
    assert aggregate_terms(all_pairs(lambda part: matrix[part].copy(), n)).keys() == {
        "log_density", "log_aggregate", "log_others",
    }  # fmt: skip


def test_of_fewer_posteriors_each_sentence_has_its_own_and_the_rest(rng):
    n, tokens = 8, np.array([3, 4, 3, 5, 3, 4, 3, 9])
    columns = np.array([1, 2, 4, 5])
    own = np.arange(n) % 4
    own[columns] = np.arange(4)
    matrix = rng.normal(size=(n, 4))
    terms = aggregate_terms(pairs_of(matrix, own, columns), tokens)
    for i in range(n):
        others = np.arange(4) != own[i]
        same = others & (tokens[columns] == tokens[i])
        own_and_same = same | ~others
        expected = {
            "log_density": matrix[i, own[i]],
            "log_aggregate": logsumexp(matrix[i]) - math.log(4),
            "log_others": logsumexp(matrix[i, others]) - math.log(3),
            "log_aggregate_given_length": logsumexp(matrix[i, own_and_same])
            - math.log(own_and_same.sum()),
        }
        rest = same if same.any() else others
        expected["log_others_given_length"] = logsumexp(matrix[i, rest]) - math.log(rest.sum())
        assert {name: array[i] for name, array in terms.items()} == pytest.approx(expected)
    labels = {"a": np.array(list("xyxyxyxy"))}
    told = information_about(labels, pairs_of(matrix, own, columns))["a"]
    assert told.shape == (n,)
    assert np.isfinite(told).all()


def test_what_no_other_posterior_meets_is_no_nan(rng):
    matrix = np.where(np.eye(6, dtype=bool), 0.0, -np.inf)
    terms = aggregate_terms(
        pairs_of(matrix, np.arange(6), np.arange(6)), np.array([2] * 4 + [3, 5])
    )
    assert (terms["log_others"] == -np.inf).all()
    np.testing.assert_allclose(terms["log_aggregate"], -math.log(6))
    np.testing.assert_allclose(terms["log_aggregate_given_length"][:4], -math.log(4))
    np.testing.assert_allclose(bounds(terms, np.full(6, -3.0), 6).upper, 3 + math.log(6))
    labels = {"a": np.array(list("ababab"))}
    told = information_about(labels, pairs_of(matrix, np.arange(6), np.arange(6)))["a"]
    assert np.isfinite(told).all()


def test_a_code_that_is_the_label_tells_it(rng):
    n = 400
    codes = rng.integers(3, size=n)
    matrix = np.where(codes[:, None] == codes, 0.0, -np.inf)
    pairs = pairs_of(matrix, np.arange(n), np.arange(n))
    noise = np.where(rng.random(n) < 0.9, codes, 9)
    told = information_about(
        {"code": codes, "mostly": noise, "not": rng.integers(2, size=n)}, pairs
    )
    assert told["code"].mean() == pytest.approx(math.log(3), abs=0.02)
    assert 0.5 < told["mostly"].mean() < math.log(3)
    assert abs(told["not"].mean()) < 0.02


def test_places_of_codes_tell_their_entropies(rng):
    codes = np.stack([np.repeat([0, 1], 32), np.tile([0, 1, 2, 3], 16)], axis=1)
    terms = place_information(codes, np.zeros(64))
    np.testing.assert_allclose(terms.mean(axis=0), [math.log(2), math.log(4)])
    # Of codes that are drawn, log q(c|x) is still open.
    drawn = place_information(codes, np.full(64, -0.5))
    np.testing.assert_allclose(drawn.sum(axis=1), terms.sum(axis=1) - 0.5)


# First words given the length


def sentences(rng, n, words=4):
    first = rng.integers(2, 2 + words, size=(n, 3))
    return rng.integers(3, 9, size=n), first


def test_words_that_a_linear_channel_tells_are_found_whole(rng):
    n = 4000
    tokens, words = sentences(rng, n)
    z = np.stack([0.5 * tokens, 1.0 * (words[:, 0] == 2)], axis=1) + 0.5 * rng.normal(size=(n, 2))
    # Of the word alone: the mixture's entropy less that of its parts, by quadrature.
    at = np.linspace(-4, 5, 4001)
    density = 0.75 * norm.pdf(at, 0, 0.5) + 0.25 * norm.pdf(at, 1, 0.5)
    exact = -(density * np.log(density)).sum() * (at[1] - at[0]) - norm.entropy(0, 0.5)
    terms = first_words_information(z, tokens, words)
    assert terms.mean() == pytest.approx(exact, abs=4 * terms.std() / math.sqrt(n) + 0.01)


def test_what_is_of_the_length_is_not_of_the_words(rng):
    n = 2000
    tokens, words = sentences(rng, n)
    # Long sentences begin with 2, and z tells their length in no linear way.
    words[:, 0] = np.where(tokens > 6, 2, 3)
    z = np.array([0.0, 4.0, -2.0, 7.0, 1.0, -5.0])[tokens - 3][:, None]
    z = z + 0.3 * rng.normal(size=(n, 1))
    assert probe_information(z, tokens, words).mean() > 0.1
    assert abs(first_words_information(z, tokens, words).mean()) < 0.01


def test_a_z_in_clusters_tells_no_more_of_a_word_than_there_is_to_know(rng):
    n = 2000
    tokens, words = sentences(rng, n, words=2)
    z = 20.0 * words[:, :1] + rng.normal(size=(n, 1))
    terms = first_words_information(z, tokens, words)
    assert terms.mean() == pytest.approx(math.log(2), abs=0.01)
    # Against one normal it would be nats too much.
    assert probe_information(z, tokens, words).mean() > 2


def test_where_words_are_nothing_to_z_little_is_found(rng):
    n = 1500
    assert abs(first_words_information(rng.normal(size=(n, 16)), *sentences(rng, n)).mean()) < 0.05


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7])
def test_words_of_few_sentences_are_finite(rng, n):
    terms = first_words_information(rng.normal(size=(n, 3)), *sentences(rng, n))
    assert terms.shape == (n,)
    assert np.isfinite(terms).all()
    if n < 4:
        np.testing.assert_array_equal(terms, np.zeros(n))
