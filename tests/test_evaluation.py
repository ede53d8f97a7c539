"""Evaluation: what the arrays are, by hand and on a model whose evidence is known."""

import math

import numpy as np
import pytest
import torch
from conftest import make
from torch import nn

from collapse_bench.corpus import evaluation_batches
from collapse_bench.evaluation import SentenceNoise, evaluate, negative_elbo
from collapse_bench.metrics import score
from collapse_bench.metrics.likelihood import importance_weighted_nll, proposal_draws
from collapse_bench.model import diagonal_normal


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

    def log_likelihood(self, batch, z):
        return diagonal_normal(z, torch.ones_like(z)).log_prob(self.observed(batch))


def log_evidence(split):
    x = split.lengths / 10 - 2
    return 2 * (-0.25 * x**2 - 0.5 * math.log(4 * math.pi))


@pytest.mark.parametrize("samples", [1, 2, 16])
def test_an_exact_posterior_costs_what_its_mixture_does(samples, corpus):
    arrays = evaluate(KnownEvidence(), corpus.train, samples=samples, batch=16, seed=1)
    gap = importance_weighted_nll(arrays["log_weights"]) + log_evidence(corpus.train)
    price = math.log(samples / proposal_draws(samples)[0])
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
    """Sixteen draws for each sentence: fourteen of its posterior, two of the prior."""
    model = make(architecture, ["delta_vae"]).model.eval()
    arrays = evaluate(model, corpus.valid, samples=16, batch=6, seed=5)
    noise = SentenceNoise(len(corpus.valid), 5)
    batch = next(evaluation_batches(corpus.valid, 6))
    with torch.no_grad():
        q = model.posterior(batch, noise.of(batch, -1))
        p = model.prior(q, batch)
        z = [q.mean + q.stddev * noise.of(batch, i)(q.mean) for i in range(14)]
        z += [p.from_noise(noise.of(batch, i)(q.mean)) for i in (14, 15)]
        likelihood = torch.stack([model.log_likelihood(batch, each) for each in z], 1)
        of_q, of_p = (
            torch.stack([each.log_prob(x) for x in z], 1).double().exp() for each in (q, p)
        )
    proposal = (14 * of_q + 2 * of_p) / 16
    weights = likelihood + (of_p / proposal).log()
    order = batch.index.numpy()
    np.testing.assert_allclose(arrays["log_weights"][order], weights, rtol=1e-5, atol=2e-5)
    np.testing.assert_allclose(
        arrays["distortion"][order], -likelihood[:, :14].mean(1), rtol=1e-5
    )  # fmt: skip
    np.testing.assert_allclose(arrays["posterior_sample"][order], z[0].flatten(1), rtol=1e-5)


def test_noise_belongs_to_the_sentence_the_draw_and_the_seed(batch):
    mean = torch.zeros(5, 3)
    noise = SentenceNoise(60, 1)
    first = noise.of(batch, 0)(mean)
    assert torch.equal(first, noise.of(batch, 0)(mean))
    assert torch.equal(first, SentenceNoise(60, 1).of(batch, 0)(mean))
    for other in (noise.of(batch, 1), noise.of(batch, -1), SentenceNoise(60, 2).of(batch, 0)):
        assert not (first == other(mean)).any()
    assert len(set(first.flatten().tolist())) == 15


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
