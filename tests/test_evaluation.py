"""Evaluation: what the arrays are, by hand and on a model whose evidence is known."""

import math
import sys

import numpy as np
import pytest
import torch
from conftest import make
from torch import nn

from collapse_bench.corpus import evaluation_batches
from collapse_bench.evaluation import (
    FIRST_ROUND,
    SentenceNoise,
    evaluate,
    negative_elbo,
    rounds_of_draws,
    rows_at,
)
from collapse_bench.evaluation.noise import LONG
from collapse_bench.metrics import score
from collapse_bench.metrics.likelihood import (
    importance_weighted_nll,
    monte_carlo_error,
    proposal_draws,
)
from collapse_bench.model import diagonal_normal
from collapse_bench.model.distributions import draw, widened

evaluate_module = sys.modules[evaluate.__module__]


class KnownEvidence(nn.Module):
    """z ~ N(0, 1) in two dimensions; both are seen once through N(z, 1), at the sentence's length.

    The posterior is exact where `spread` is 1 and `shift` is 0.
    """

    def __init__(self, spread=1.0, shift=0.0):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.spread, self.shift = spread, shift

    def observed(self, batch):
        return (batch.lengths.float() / 10 - 2)[:, None].expand(-1, 2)

    def posterior(self, batch, noise):
        mean = self.observed(batch) / 2 + self.shift
        return diagonal_normal(mean, torch.full_like(mean, self.spread * math.sqrt(0.5)))

    def prior(self, q, batch):
        return diagonal_normal(torch.zeros_like(q.mean), torch.ones_like(q.mean))

    def log_likelihood_by_position(self, batch, z):
        return None

    def log_likelihood(self, batch, z):
        return diagonal_normal(z, torch.ones_like(z)).log_prob(self.observed(batch))


def log_evidence(split):
    x = split.lengths / 10 - 2
    return 2 * (-0.25 * x**2 - 0.5 * math.log(4 * math.pi))


@pytest.mark.parametrize("samples", [1, 2, 16])
def test_an_exact_posterior_costs_what_its_mixture_does(samples, corpus):
    arrays = evaluate(KnownEvidence(), corpus.train, samples=samples, batch=16, seed=1)
    gap = importance_weighted_nll(arrays["log_weights"]) + log_evidence(corpus.train)
    price = math.log(samples / proposal_draws(samples, 3)[0])
    error = gap.std() / math.sqrt(len(gap))
    assert -4 * error - 1e-5 <= gap.mean() <= price + 4 * error + 1e-5
    # No weight can be larger than the mixture lets it.
    assert (arrays["log_weights"] <= log_evidence(corpus.train)[:, None] + price + 1e-5).all()
    if samples == 1:
        np.testing.assert_allclose(gap, 0, atol=1e-5)
    score(arrays)


@pytest.mark.parametrize(("spread", "shift"), [(1.0, 0.0), (0.7, 0.0), (1.4, 0.5), (0.5, 2.0)])
def test_the_nll_approaches_the_evidence_and_the_bound_is_its_closed_form(spread, shift, corpus):
    model = KnownEvidence(spread, shift)
    arrays = evaluate(model, corpus.train, samples=800, batch=16, seed=1)
    nll = importance_weighted_nll(arrays["log_weights"])
    assert nll.mean() == pytest.approx(-log_evidence(corpus.train).mean(), abs=0.02)
    # Two dimensions of KL(q || p(z|x)).
    gap = spread**2 - 1 - 2 * math.log(spread) + 2 * shift**2
    expected = gap - log_evidence(corpus.train).mean()
    assert negative_elbo(arrays) == pytest.approx(expected, abs=0.05)


def test_the_arrays_by_hand(architecture, corpus):
    """Of sixteen draws for each sentence eight are of its posterior, four of the widened one."""
    model = make(architecture, ["delta_vae"]).model.eval()
    arrays = evaluate(model, corpus.valid, samples=16, batch=6, seed=5)
    noise = SentenceNoise(len(corpus.valid), 5)
    batch = next(evaluation_batches(corpus.valid, 6))
    with torch.no_grad():
        q = model.posterior(batch, noise.of_refinement(batch))
        p = model.prior(q, batch)
        z = [q.mean + q.stddev * noise.of(batch, i)(q.mean.shape) for i in range(8)]
        wide = widened(q, p)
        for i in range(8, 16):
            z.append((wide if i < 12 else p).from_noise(noise.of(batch, i)(q.mean.shape)))
        likelihood = torch.stack([model.log_likelihood(batch, each) for each in z], 1)
        of_q, of_wide, of_p = (
            torch.stack([each.log_prob(x) for x in z], 1).double().exp() for each in (q, wide, p)
        )
    proposal = (8 * of_q + 4 * of_wide + 4 * of_p) / 16
    weights = likelihood + (of_p / proposal).log()
    order = batch.index.numpy()
    np.testing.assert_allclose(arrays["log_weights"][order], weights, rtol=1e-5, atol=2e-5)
    np.testing.assert_allclose(
        arrays["distortion"][order], -likelihood[:, :8].mean(1), rtol=1e-5
    )  # fmt: skip
    np.testing.assert_allclose(arrays["posterior_sample"][order], z[0].flatten(1), rtol=1e-5)


def test_noise_belongs_to_the_sentence_the_draw_and_the_seed(batch):
    shape = torch.Size([5, 3])
    noise = SentenceNoise(60, 1)
    first = noise.of(batch, 0)(shape)
    assert torch.equal(first, noise.of(batch, 0)(shape))
    assert torch.equal(first, SentenceNoise(60, 1).of(batch, 0)(shape))
    for other in (noise.of(batch, 1), noise.of(batch, -1), SentenceNoise(60, 2).of(batch, 0)):
        assert not (first == other(shape)).any()
    assert len(set(first.flatten().tolist())) == 15


def test_noise_of_many_numbers_belongs_to_the_sentence_too(batch):
    shape = torch.Size([5, LONG, 2])
    noise = SentenceNoise(60, 1)
    first = noise.of(batch, 0)(shape)
    assert torch.equal(first, SentenceNoise(60, 1).of(batch, 0)(shape))
    assert noise.drawn == {}
    alone = noise.of(batch.rows(torch.tensor([2])), 0)(torch.Size([1, LONG, 2]))
    assert torch.equal(alone, first[2:3])
    for other in (noise.of(batch, 1), noise.of(batch, -1), SentenceNoise(60, 2).of(batch, 0)):
        assert (first == other(shape)).sum() < 3
    assert not (first[0] == first[1]).all()
    assert first.mean().abs() < 0.1
    assert first.var().item() == pytest.approx(1, abs=0.1)


def test_a_model_in_double_precision_is_scored_in_it_whatever_the_batch(architecture, corpus):
    built = make(architecture, ["delta_vae"])
    built.model.double()
    single, together = (built.evaluate(corpus.train, batch=size) for size in (1, 64))
    for each in ("kl", "posterior_mean", "posterior_scale", "distortion"):
        assert single[each].dtype == np.float64
        np.testing.assert_allclose(single[each], together[each], rtol=1e-12, atol=1e-13)


def test_the_mode_of_every_part_is_as_before(corpus):
    model = make("lstm").model.train()
    model.encoder.eval()
    evaluate(model, corpus.valid, samples=1, batch=6, seed=1)
    assert model.training
    assert not model.encoder.training


# As many draws as a sentence needs


@pytest.mark.parametrize(
    ("samples", "standard_error", "totals"),
    [
        (64, 0.0, [64]),
        (64, 0.1, [8, 16, 32, 64]),
        (65, 0.1, [8, 16, 32, 64, 65]),
        (100, 1e-9, [8, 16, 32, 64, 100]),
        (9, 0.1, [8, 9]),
        (8, 0.1, [8]),
        (3, 0.1, [3]),
        (1, 0.1, [1]),
    ],
)
def test_rounds_double_the_draws_up_to_the_most(samples, standard_error, totals):
    assert rounds_of_draws(samples, standard_error) == totals


def adaptive(model, split, standard_error, samples=64, batch=16, seed=1):
    return evaluate(
        model, split, samples=samples, batch=batch, seed=seed, standard_error=standard_error
    )


def errors_after(arrays, draws):
    """Monte-Carlo error of every sentence that has had so many draws; all have, or more."""
    weights = arrays["log_weights"]
    starts = np.cumsum([0, *proposal_draws(weights.shape[1], 3)])
    counts = proposal_draws(draws, 3)
    return monte_carlo_error([weights[:, s : s + n] for s, n in zip(starts, counts, strict=False)])


def is_drawn(draws, samples):
    """Where the weights of sentences with so many draws are: stratum after stratum."""
    most = proposal_draws(samples, 3)
    counts = np.array([proposal_draws(n, 3) for n in draws]).T
    parts = [np.arange(m) < n[:, None] for m, n in zip(most, counts, strict=True)]
    return np.concatenate(parts, axis=1)


@pytest.fixture(scope="module")
def learned(corpus):
    """A model whose sentences differ in how many draws they need."""
    built = make("lstm", ["delta_vae"], dropout=0.0)
    built.steps(corpus, 120, budget=10**6)
    return built.model


def test_no_error_asked_for_is_every_draw(learned, corpus):
    arrays = adaptive(learned, corpus.train, 0.0)
    assert (arrays["draws"] == 64).all()
    assert arrays["log_weights"].shape == (60, 64)
    assert np.isfinite(arrays["log_weights"]).all()
    assert np.issubdtype(arrays["draws"].dtype, np.integer)


@pytest.mark.parametrize("samples", [20, 64])
def test_an_error_out_of_reach_is_every_draw_with_the_same_weights(samples, learned, corpus):
    whole, rounds = (adaptive(learned, corpus.train, error, samples) for error in (0.0, 1e-9))
    assert (rounds["draws"] == samples).all()
    np.testing.assert_allclose(
        rounds["log_weights"], whole["log_weights"], rtol=1e-6, atol=1e-5
    )  # fmt: skip
    for each in whole.keys() - {"log_weights", "distortion", "log_ratio"}:
        np.testing.assert_array_equal(rounds[each], whole[each])
    # The distortion is that of the first round, whatever follows.
    first = adaptive(learned, corpus.train, 0.0, FIRST_ROUND)
    np.testing.assert_allclose(rounds["distortion"], first["distortion"], rtol=1e-6)


@pytest.mark.parametrize("samples", [8, 20, 64])
def test_an_error_within_reach_of_all_is_one_round(samples, learned, corpus):
    arrays = adaptive(learned, corpus.train, 1e9, samples)
    assert (arrays["draws"] == FIRST_ROUND).all()
    drawn = is_drawn(arrays["draws"], samples)
    assert np.array_equal(arrays["log_weights"] > -math.inf, drawn)
    assert not np.isnan(arrays["log_weights"]).any()
    # Four draws of the posterior; they are the first of as many as there may be.
    whole = adaptive(learned, corpus.train, 0.0, FIRST_ROUND)
    np.testing.assert_allclose(
        arrays["log_weights"][:, :4], whole["log_weights"][:, :4], rtol=1e-6, atol=1e-5
    )
    np.testing.assert_allclose(arrays["distortion"], whole["distortion"], rtol=1e-6)


def test_a_sentence_stops_at_the_first_round_with_the_error_asked_for(learned, corpus):
    asked = 0.25
    arrays = adaptive(learned, corpus.train, asked)
    draws = arrays["draws"]
    assert {8, 16, 32, 64} == set(draws.tolist())
    assert np.array_equal(np.isfinite(arrays["log_weights"]), is_drawn(draws, 64))
    assert np.array_equal(np.isfinite(arrays["log_weights"]).sum(1), draws)
    # The shares of 8, 16, 32 and 64 draws are the same: so is a weight in every round.
    for n in (8, 16, 32):
        with np.errstate(invalid="ignore"):
            error = errors_after(arrays, n)
        assert (error[draws == n] <= asked).all()
        assert (error[draws > n] > asked).all()


def test_scores_are_of_the_draws_that_were_made(learned, corpus):
    arrays = adaptive(learned, corpus.train, 0.25)
    metrics = score(arrays).metrics
    assert metrics["nll_samples"] == arrays["draws"].mean()
    by_hand = [
        -np.log(np.exp(weights[np.isfinite(weights)].astype(np.float64)).mean())
        for weights in arrays["log_weights"]
    ]
    assert metrics["nll"] == pytest.approx(np.mean(by_hand), rel=1e-9)
    assert 1 <= metrics["ess"] < metrics["nll_samples"]
    # Half of the nats asked for is a wide berth: they are the error of one sentence.
    whole = score(adaptive(learned, corpus.train, 0.0)).metrics
    assert metrics["nll"] == pytest.approx(whole["nll"], abs=0.125)
    for each in ("kl", "mutual_information", "active_units"):
        assert metrics[each] == whole[each]


def test_draws_do_not_depend_on_the_batch(learned, corpus):
    single, few, together = (
        adaptive(learned, corpus.train, 0.25, batch=size) for size in (1, 7, 64)
    )
    for other in (few, together):
        assert np.array_equal(single["draws"], other["draws"])
        for each in single:
            if single[each].dtype.kind == "U":
                assert np.array_equal(single[each], other[each])
            else:
                np.testing.assert_allclose(single[each], other[each], rtol=3e-6, atol=1e-5)


def test_nothing_is_decoded_that_is_not_drawn(learned, corpus, monkeypatch):
    decoded = []
    original = learned.log_likelihood

    def counted(batch, z):
        assert len(batch.index) == len(batch.lengths) == len(z) <= 16
        decoded.extend(batch.index.tolist())
        return original(batch, z)

    monkeypatch.setattr(learned, "log_likelihood", counted)
    arrays = adaptive(learned, corpus.train, 0.25)
    # Once more with the z of another sentence of its length, if there is one, and with that of any.
    _, group, sizes = np.unique(arrays["tokens"], return_inverse=True, return_counts=True)
    once_more = 1 + (sizes[group] > 1)
    assert np.array_equal(np.bincount(decoded, minlength=60), arrays["draws"] + once_more)


def test_a_sentence_alone_in_its_length_has_no_partner(learned, corpus):
    arrays = adaptive(learned, corpus.train, 0.25)
    _, group, sizes = np.unique(arrays["tokens"], return_inverse=True, return_counts=True)
    alone = sizes[group] == 1
    assert 0 < alone.sum() < 60
    assert np.array_equal(np.isnan(arrays["shuffled_log_likelihood"]), alone)
    gap = -arrays["distortion"] - arrays["shuffled_log_likelihood"]
    assert score(arrays).metrics["shuffle_gap"] == pytest.approx(np.nanmean(gap), rel=1e-5)


def test_tokens_after_the_first_words_by_hand(learned, corpus):
    arrays = adaptive(learned, corpus.train, 0.25)
    known = np.isfinite(arrays["later_log_likelihood"])
    assert np.array_equal(known, np.isfinite(arrays["shuffled_log_likelihood"]))
    i = int(np.flatnonzero(known)[0])
    batch = rows_at(corpus.train, np.array([i]))
    z = torch.from_numpy(arrays["posterior_sample"][[i]])
    with torch.no_grad():
        z = z.reshape(learned.posterior(batch, torch.zeros).mean.shape)
        nats = learned.eval().log_likelihood_by_position(batch, z)[0, 3:].sum()
    assert arrays["later_log_likelihood"][i] == pytest.approx(float(nats), rel=1e-5)


def test_a_partner_of_any_length_is_looked_at_for_some_sentences_only(learned, corpus, monkeypatch):
    whole = adaptive(learned, corpus.train, 0.25)
    monkeypatch.setattr(evaluate_module, "LOOKED_AT", 20)
    some = adaptive(learned, corpus.train, 0.25)
    known = np.isfinite(some["shuffled_any_log_likelihood"])
    assert known.sum() == 20
    assert np.isfinite(whole["shuffled_any_log_likelihood"]).all()
    np.testing.assert_allclose(
        some["shuffled_any_log_likelihood"][known],
        whole["shuffled_any_log_likelihood"][known],
        rtol=3e-6,
    )
    scores = score(some)
    gap = (some["shuffled_any_log_likelihood"] + some["distortion"])[known]
    assert scores.metrics["shuffle_gap_any"] == pytest.approx(-gap.mean(), rel=1e-5)
    assert scores.standard_errors["shuffle_gap_any"] == pytest.approx(
        gap.std(ddof=1) / math.sqrt(20), rel=1e-5
    )


@pytest.mark.parametrize("samples", [20, 64])
def test_the_weights_of_every_round_by_hand(samples, corpus):
    model, split = KnownEvidence(1.4, 0.5), corpus.train
    arrays = adaptive(model, split, 0.15, samples)
    assert len(set(arrays["draws"].tolist())) > 1
    starts = np.cumsum([0, *proposal_draws(samples, 3)])
    noise = SentenceNoise(len(split), 1)
    for batch in evaluation_batches(split, 16):
        q = model.posterior(batch, None)
        p, x = model.prior(q, batch), model.observed(batch)
        strata = [q, widened(q, p), p]
        for row, i in enumerate(batch.index.tolist()):
            counts = proposal_draws(int(arrays["draws"][i]), 3)
            for h, number in [(i, starts[i] + k) for i in range(3) for k in range(counts[i])]:
                z = draw(strata[h], noise.of(batch, int(number))(q.mean.shape))
                *of_strata, of_x = (
                    each.log_prob(z).double().exp()[row]
                    for each in (*strata, diagonal_normal(x, torch.ones_like(x)))
                )
                proposal = np.average(of_strata, weights=counts)
                assert arrays["log_weights"][i, number] == pytest.approx(
                    math.log(float(of_x * of_strata[2]) / proposal), abs=1e-4
                )


@pytest.mark.parametrize(("spread", "shift"), [(1.0, 0.0), (1.4, 0.5), (0.7, 0.5)])
def test_the_nll_of_as_many_draws_as_needed_is_the_evidence(spread, shift, corpus):
    asked, seeds = 0.1, range(1, 9)
    gaps, draws = [], []
    for seed in seeds:
        arrays = adaptive(KnownEvidence(spread, shift), corpus.train, asked, 512, 64, seed)
        nll = importance_weighted_nll(arrays["log_weights"], arrays["draws"])
        gaps.append(nll + log_evidence(corpus.train))
        draws.append(arrays["draws"])
    assert 8 < np.mean(draws) < 300
    gaps = np.array(gaps)
    # What is asked for is the error of a sentence; a mean has less, and the bias of a logarithm.
    assert gaps.std() < 1.5 * asked
    assert abs(gaps.mean()) < 4 * asked / math.sqrt(gaps.size) + asked**2
