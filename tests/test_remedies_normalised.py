"""What the remedies promise that change the posterior, beyond the laws of all."""

import math

import numpy as np
import pytest
import torch
from conftest import make, noise_of
from torch import nn

from collapse_bench.model import diagonal_normal
from collapse_bench.model.distributions import rate
from collapse_bench.model.normalised import NormalisedHead, RecentNorm
from collapse_bench.remedies.posterior.du_vae import LEAST_VARIANCE

W = 3


def stream(count, size=32, between=1.0, drift=0.0, seed=1):
    """Batches [size, W] whose means scatter by `between`, as lengths do, and move by `drift`."""
    generator = torch.Generator().manual_seed(seed)
    for t in range(count):
        own = torch.randn(size, W, generator=generator)
        yield own + between * torch.randn(W, generator=generator) + drift * t


# Statistics of recent batches


def test_evaluation_normalises_as_training_does():
    norm = RecentNorm(W, 10)
    for x in stream(30):
        trained = norm.train()(x)
        torch.testing.assert_close(norm.eval()(x), trained, rtol=1e-5, atol=1e-6)


def test_the_first_batch_is_normalised_by_itself():
    x = next(stream(1))
    expected = nn.BatchNorm1d(W, eps=1e-12, affine=False)(x)
    torch.testing.assert_close(RecentNorm(W, 10)(x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("between", [0.0, 1.0, 3.0])
def test_the_variance_is_that_within_and_between_batches(between):
    norm, variances = RecentNorm(W, 50), []
    for x in stream(2000, between=between):
        norm(x)
        variances.append(norm.variance.clone())
    variance = torch.stack(variances[200:]).mean(0)
    torch.testing.assert_close(variance, torch.full((W,), 1 + between**2), rtol=0.1, atol=0.03)


def test_a_drift_is_no_variance():
    still, drifting = RecentNorm(W, 50), RecentNorm(W, 50)
    for x, moving in zip(stream(500), stream(500, drift=0.1), strict=True):
        still(x)
        drifting(moving)
    torch.testing.assert_close(drifting.variance, still.variance, rtol=0.15, atol=0)
    # Over fifty batches it moves by five standard deviations of a batch.
    assert (drifting.mean - still.mean).min() > 40


@pytest.mark.parametrize("batch_form", [True, False])
def test_scale_and_shift_of_what_comes_in_have_no_gradient(batch_form):
    norm = nn.BatchNorm1d(W, eps=1e-12, affine=False) if batch_form else RecentNorm(W, 10)
    for x in stream(20):
        x.requires_grad_()
        (norm(x) * torch.arange(32 * W).view(32, W).sin()).sum().backward()
        size = x.grad.abs().sum(0)
        assert (x.grad.sum(0).abs() < 1e-4 * size).all()
        assert ((x.grad * (x - x.mean(0))).sum(0).abs() < 1e-4 * size).all()


def test_means_that_hardly_differ_are_told_apart():
    """The variance was 4e-8 where batch normalisation with torch's 1e-5 left all means equal."""
    norm, published = RecentNorm(W, 10), nn.BatchNorm1d(W, affine=False)
    for x in stream(200, between=0.0):
        close = 0.05 + 2e-4 * x
        normalised, same = norm(close), published(close)
    assert normalised.std(0).min() > 0.8
    assert same.std(0).max() < 0.1


# BN-VAE


class Given(nn.Module):
    """A head whose features are the means; standard deviations are all one half."""

    def forward(self, features, energy):
        return diagonal_normal(features, torch.full_like(features, 0.5))


def rates(q):
    """Of each sentence against N(0, I), nats."""
    return rate(q, diagonal_normal(torch.zeros_like(q.mean), torch.ones_like(q.mean)), q.mean)


@pytest.mark.parametrize(("learnt", "gamma"), [(False, 0.6), (True, 0.5)])
def test_the_mean_rate_of_a_batch_has_its_floor(learnt, gamma):
    head = NormalisedHead(Given(), W, gamma, batches=0, learnt=learnt)
    with torch.no_grad():
        head.shift.copy_(torch.tensor([0.3, 0.0, -1.0]))
        head.weight.mul_(torch.tensor([3.0, 1.0, 0.5]) if learnt else 1)
    for scale in (1e-3, 1.0, 50.0):
        with torch.no_grad():
            q = head(scale * next(stream(1)), None)
        floor = (W * gamma**2 + 0.3**2 + 1) / 2
        assert rates(q).sum(1).mean() >= floor - 1e-4
        assert q.mean.square().sum(1).mean() / 2 == pytest.approx(floor, rel=1e-4)


@torch.no_grad()
def test_the_mean_rate_of_recent_sentences_has_its_floor():
    head = NormalisedHead(Given(), W, 0.6, batches=100)
    batches = list(stream(1500, between=0.7))
    for x in batches:
        head(x, None)
    q = head.eval()(torch.cat(batches[-1000:]), None)
    assert q.mean.square().sum(1).mean() / 2 == pytest.approx(W * 0.36 / 2, rel=0.1)
    assert rates(q).sum(1).mean() >= 0.9 * W * 0.36 / 2


@torch.no_grad()
def shares_of_length(batches):
    """Of the variance of training's means, and of evaluation's, the share between batches."""
    head = NormalisedHead(Given(), W, 0.6, batches)
    training = []
    for x in stream(400):
        training.append(head(x, None).mean)
    head.eval()
    evaluation = [head(x, None).mean for x in stream(400)]
    return [
        (torch.stack([x.mean(0) for x in each[100:]]).var(0) / torch.cat(each[100:]).var(0)).mean()
        for each in (training, evaluation)
    ]


def test_only_the_published_form_loses_the_length_in_training():
    """Half of the variance is between lengths, and a batch has one length."""
    training, evaluation = shares_of_length(batches=10)
    assert training == pytest.approx(0.5, abs=0.1)
    assert evaluation == pytest.approx(0.5, abs=0.1)
    training, evaluation = shares_of_length(batches=0)
    assert training < 1e-6
    assert evaluation == pytest.approx(0.5, abs=0.1)


def test_variances_are_those_of_the_wrapped_head(batch):
    plain, built = make("lstm"), make("lstm", ["bn_vae"])
    q = [each.model(batch, noise_of(1)).q for each in (plain, built)]
    assert torch.equal(q[0].stddev, q[1].stddev)
    assert not torch.equal(q[0].mean, q[1].mean)


@pytest.mark.parametrize("recent", [0, 10])
def test_gamma_stays_and_only_the_shift_is_learnt(recent, corpus):
    built = make("lstm", {"bn_vae": {"recent": recent}})
    built.steps(corpus, 5)
    head = built.model.head
    assert not head.weight.requires_grad
    assert torch.equal(head.weight, torch.ones(8))
    assert head.shift.abs().min() > 0


@pytest.mark.parametrize("name", ["bn_vae", "du_vae"])
def test_a_latent_sequence_is_normalised_place_by_place(name, corpus, batch):
    built = make(
        "lstm", {"delta_vae": {"length": 4, "stride": 3, "delta": 1.5}, name: {"recent": 0}}
    )
    q = built.model(batch, noise_of(1)).q
    assert q.event_shape == (4, 2)
    means = q.mean.flatten(1)
    torch.testing.assert_close(means.mean(0), torch.zeros(8), rtol=0, atol=1e-5)
    gamma = built.remedies[1].gamma
    torch.testing.assert_close(means.std(0, correction=0), torch.full((8,), gamma))
    assert (built.evaluate(corpus.valid)["kl"].sum(1) >= 1.5 - 1e-5).all()


def test_a_reset_forgets_the_statistics(corpus):
    built = make("lstm", ["bn_vae"])
    run = built.steps(corpus, 3)
    run.reset("head")
    head = built.model.head
    assert head.norm.count == 0
    assert torch.equal(head.norm.variance, torch.ones(8))
    assert not head.shift.any()


# DU-VAE


def test_a_variance_is_dropped_to_its_floor_or_scaled_up(batch):
    drop = 0.25
    plain, built = make("lstm"), make("lstm", {"du_vae": {"drop": drop}})
    before = plain.model(batch, noise_of(1)).q.variance
    torch.manual_seed(1)
    drawn = [built.model(batch, noise_of(1)).q.variance - LEAST_VARIANCE for _ in range(200)]
    dropped = torch.stack(drawn) < 1e-6
    assert dropped.float().mean() == pytest.approx(drop, abs=0.02)
    kept = (before / (1 - drop)).expand_as(dropped)[~dropped]
    torch.testing.assert_close(torch.stack(drawn)[~dropped], kept, rtol=1e-4, atol=1e-6)
    after = built.model.eval()(batch, noise_of(1)).q.variance
    torch.testing.assert_close(after, before + LEAST_VARIANCE)


def test_no_dimension_has_a_negative_entropy():
    entropy = 0.5 * math.log(2 * math.pi * math.e * LEAST_VARIANCE)
    assert entropy == pytest.approx(0, abs=1e-12)
    assert 0.5 * (LEAST_VARIANCE - math.log(LEAST_VARIANCE) - 1) == pytest.approx(0.95, abs=0.01)


def test_dimensions_share_out_what_gamma_gives_them_all(corpus):
    built = make("lstm", {"du_vae": {"gamma": 0.5, "drop": 0.0, "recent": 0}})
    built.steps(corpus, 8)
    inner = built.model.head.head
    scale = inner.gamma * inner.weight / inner.weight.square().mean().sqrt()
    assert scale.square().mean().item() == pytest.approx(0.25)
    assert scale.std() > 1e-3
    assert np.isfinite(built.evaluate(corpus.valid)["kl"]).all()
