"""What the remedies promise that change the prior, beyond the laws of all."""

import math
from dataclasses import replace

import pytest
import torch
from conftest import make, other_word
from torch.distributions import MultivariateNormal, kl_divergence

from collapse_bench.errors import UserError
from collapse_bench.model import INFERENCE, diagonal_normal
from collapse_bench.model.anticausal import AntiCausalEncoder
from collapse_bench.model.distributions import autoregressive, rate
from collapse_bench.model.distributions.autoregressive import AutoregressiveNormal, committed_rate
from collapse_bench.model.sequence import GradualDecoder, StridedStates

# delta-VAE


def test_the_density_of_the_prior_is_that_of_the_dense_normal():
    a, n, d = 0.7, 5, 3
    place = torch.arange(n)
    covariance = a ** (place[:, None] - place).abs().double()
    dense = MultivariateNormal(torch.zeros(n).double(), covariance)
    z = torch.randn(6, n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = dense.log_prob(z.transpose(1, 2)).sum(1)
    prior = AutoregressiveNormal(z.shape, a)
    torch.testing.assert_close(prior.log_prob(z), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(prior.log_prob(z[None]), expected[None])


def random_posterior(n=4, d=2, batch=5, spread=1.0, seed=1):
    generator = torch.Generator().manual_seed(seed)
    mean, log_scale = (
        spread * torch.randn(batch, n, d, dtype=torch.float64, generator=generator)
        for _ in range(2)
    )
    return diagonal_normal(mean, log_scale.exp())


def test_the_rate_is_the_expected_log_ratio():
    q = random_posterior(spread=0.5)
    p = AutoregressiveNormal(q.mean.shape, 0.6)
    torch.manual_seed(3)
    z = q.sample((40_000,))
    ratio = q.log_prob(z) - p.log_prob(z)  # [S, B]
    kl = rate(q, p, z[0])
    assert kl.shape == (5, 8)
    error = ratio.std(0) / math.sqrt(len(ratio))
    assert ((kl.sum(1) - ratio.mean(0)).abs() < 4.5 * error).all()


def test_the_rate_is_that_of_the_dense_normals():
    n, d, a = 5, 2, 0.8
    q = random_posterior(n, d)
    place = torch.arange(n)
    dense = MultivariateNormal(
        torch.zeros(n).double(), a ** (place[:, None] - place).abs().double()
    )
    posterior = MultivariateNormal(
        q.mean.transpose(1, 2), scale_tril=q.stddev.transpose(1, 2).diag_embed()
    )
    expected = kl_divergence(posterior, dense).sum(1)
    actual = rate(q, AutoregressiveNormal(q.mean.shape, a), q.mean).sum(1)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("a", [0.01, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("n", [2, 3, 8, 20])
def test_the_committed_rate_is_attained_where_theory_says_and_never_undercut(a, n):
    d = 3
    floor = d * committed_rate(a, n)
    assert floor == pytest.approx(
        0.5 * d * ((n - 2) * math.log(1 + a * a) - math.log(1 - a * a)), rel=1e-12
    )
    variance = torch.full((1, n, d), (1 - a * a) / (1 + a * a), dtype=torch.float64)
    variance[:, 0] = variance[:, -1] = 1 - a * a
    optimum = diagonal_normal(torch.zeros_like(variance), variance.sqrt())
    prior = AutoregressiveNormal(variance.shape, a)
    assert rate(optimum, prior, variance).sum().item() == pytest.approx(floor, rel=1e-10)
    for seed in range(20):
        q = random_posterior(n, d, spread=0.1 * seed, seed=seed)
        p = AutoregressiveNormal(q.mean.shape, a)
        assert (rate(q, p, q.mean).sum(1) > floor - 1e-12).all()
        nearby = diagonal_normal(
            0.03 * q.mean[:1], variance.sqrt() * (0.03 * q.mean[1:2]).exp()
        )  # fmt: skip
        assert rate(nearby, prior, variance).sum() >= floor - 1e-12


def test_the_committed_rate_at_published_points():
    for total, a in ((0.1, 0.100), (0.25, 0.159), (1.0, 0.323)):
        assert committed_rate(a, 21) == pytest.approx(total, rel=0.01)


@pytest.mark.parametrize("delta", [0.01, 1.5, 4.8, 7.0])
@pytest.mark.parametrize("length", [2, 4, 8])
def test_the_rate_never_falls_below_delta(delta, length, architecture, corpus):
    built = make(architecture, {"delta_vae": {"delta": delta, "length": length}})
    prior = built.model.prior
    assert 8 // length * committed_rate(prior.a, length) == pytest.approx(delta, rel=1e-6)
    for count in (0, 5):
        built.steps(corpus, count)
        kl = built.evaluate(corpus.train)["kl"].sum(1)
        assert (kl >= delta * (1 - 1e-6) - 1e-5).all()


def test_training_on_the_rate_alone_ends_at_delta(corpus):
    built = make("lstm", {"delta_vae": {"length": 4, "delta": 1.5}})
    run = built.run(corpus, budget=10**9, learning_rate=0.02)
    batch = run.draw()
    for _ in range(400):
        forward = run.update(
            batch, only=INFERENCE, then=lambda f: replace(f, distortion=0 * f.distortion)
        )
    rates = forward.kl.sum(1)
    assert rates.min() >= 1.5 - 1e-5
    assert rates.max() < 1.5 + 0.02


def test_a_rate_below_the_floor_is_an_error(monkeypatch):
    q = random_posterior()
    p = AutoregressiveNormal(q.mean.shape, 0.6)
    least = float(rate(q, p, q.mean).sum(1).min())
    # Arithmetic that is right cannot get there, so the floor is raised.
    monkeypatch.setattr(autoregressive, "committed_rate", lambda a, length: least / 2 + 0.001)
    with pytest.raises(ArithmeticError, match="below the committed"):
        rate(q, p, q.mean)
    monkeypatch.setattr(autoregressive, "committed_rate", lambda a, length: least / 2)
    rate(q, p, q.mean)


@pytest.mark.parametrize("length", [2, 8])
def test_a_delta_out_of_reach_is_told_to_the_user(length):
    built = {"delta_vae": {"delta": 1000.0, "length": length}}
    with pytest.raises(UserError, match="delta"):
        make("lstm", built)


def test_the_encoder_sees_only_what_comes_from_its_token_on(architecture, batch):
    encoder = AntiCausalEncoder(make(architecture).model.encoder)
    before = encoder(batch)
    assert before.shape == (5, int(batch.lengths.max()), 15)
    for row in range(5):
        length = int(batch.lengths[row])
        for token in {0, 1, length // 2, length - 2}:
            targets = batch.targets.clone()
            targets[row, token] = other_word(targets[row, token])
            after = encoder(replace(batch, targets=targets))
            assert torch.equal(after[row, token + 1 : length], before[row, token + 1 : length])
            changed = (after[row, : token + 1] != before[row, : token + 1]).any(1)
            assert changed.all()


def test_slot_states_are_every_stride_th_and_zero_after_the_end():
    states = torch.arange(1.0, 25).reshape(2, 12, 1).expand(2, 12, 3)
    mask = torch.arange(12) < torch.tensor([[12], [4]])
    features = StridedStates(5, 3)(states, mask)
    assert features.shape == (2, 5, 3)
    assert features[0, :, 0].tolist() == [1, 4, 7, 10, 0]
    assert features[1, :, 0].tolist() == [13, 16, 0, 0, 0]


def test_the_decoder_sees_a_slot_from_its_token_on(architecture, batch):
    model = make(architecture).model.eval()
    decoder = GradualDecoder(model.decoder, 3).eval()
    z = torch.randn(5, 4, 2, generator=torch.Generator().manual_seed(1))
    before = decoder(batch, z)
    for slot in range(4):
        changed = z.clone()
        changed[:, slot] += 1
        after = decoder(batch, changed)
        assert torch.equal(after[:, : 3 * slot], before[:, : 3 * slot])
        assert (after[:, 3 * slot] != before[:, 3 * slot]).any(1).all()
    # With all shown it is the wrapped decoder.
    everything = GradualDecoder(model.decoder, 1)(batch, torch.cat([z[:, :1], 0 * z[:, 1:]], 1))
    flat = torch.cat([z[:, 0], torch.zeros(5, 6)], 1)
    torch.testing.assert_close(everything, model.decoder(batch, flat))
