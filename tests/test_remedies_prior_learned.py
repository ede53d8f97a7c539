"""What the remedies promise whose prior is learned with the model, beyond the laws of all."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import make, noise_of
from torch import nn
from torch.distributions import Normal, kl_divergence

from collapse_bench.corpus.batches import collate
from collapse_bench.errors import UserError
from collapse_bench.metrics.pairs import aggregate_terms, normal_pairs
from collapse_bench.model import diagonal_normal
from collapse_bench.model.distributions import draw, rate
from collapse_bench.model.distributions.sphere import VonMisesFisher
from collapse_bench.remedies.prior.vamp_prior import MixtureOfPosteriors


def as_standard(prior):
    """Give a learned prior the weights with which it is N(0, I)."""
    with torch.no_grad():
        for parameter in prior.parameters():
            nn.init.zeros_(parameter)
        if hasattr(prior, "raw_variance"):
            prior.raw_variance.fill_(math.log(math.e - 1))  # whose softplus is 1


def as_normal_prior(prior):
    """Give a learned prior the weights of a normal; its mean and scale in every dimension."""
    as_standard(prior)
    with torch.no_grad():
        if hasattr(prior, "raw_variance"):
            prior.mean.fill_(0.5)
            prior.raw_variance.fill_(math.log(math.exp(1.7**2) - 1))
        else:
            flow = prior.flow
            last = flow.network.out if hasattr(flow, "network") else flow.networks[0].layers[-1]
            shift, log_scale = last.bias.chunk(2)
            shift.fill_(0.5)
            log_scale.fill_(3 * math.atanh(math.log(1.7) / 3))
    return 0.5, 1.7


SINGLE = {
    "mixture_prior": {"components": 1},
    "flow_prior": {"hidden": 24, "depth": 1},
    "sequence_prior": {"length": 4},
}


@pytest.mark.parametrize("name", SINGLE)
def test_a_learned_prior_that_is_standard_gives_the_numbers_of_the_plain_vae(name, corpus):
    built, plain = make("lstm", {name: SINGLE[name]}), make("lstm")
    as_standard(built.model.prior)
    arrays, expected = (each.evaluate(corpus.valid, samples=1) for each in (built, plain))
    for array in ("posterior_sample", "posterior_scale", "distortion"):
        assert np.array_equal(arrays[array], expected[array])
    for array in ("log_prior", "log_ratio", "log_weights"):
        np.testing.assert_allclose(arrays[array], expected[array], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SINGLE)
def test_rates_of_single_draws_have_the_closed_rate_as_their_mean(name, batch):
    model = make("lstm", {name: SINGLE[name]}).model.eval()
    mean, scale = as_normal_prior(model.prior)
    draws = 400
    with torch.no_grad():
        q = model.posterior(batch, noise_of(1))
        p = model.prior(q, batch)
        torch.manual_seed(2)
        rates = torch.stack(
            [rate(q, p, draw(q, torch.randn(q.mean.shape)))[:, 0] for _ in range(draws)]
        )
    normal = Normal(torch.full_like(q.mean, mean), torch.full_like(q.mean, scale))
    closed = kl_divergence(q.base_dist, normal).sum(1)
    assert ((rates.mean(0) - closed).abs() < 4.5 * rates.std(0) / math.sqrt(draws) + 1e-4).all()


def test_the_mixture_begins_as_xavier_has_it():
    prior = make("lstm", {"mixture_prior": {}}).model.prior
    for parameter in (prior.mean, prior.raw_variance):
        assert parameter.shape == (100, 8)
        assert parameter.std().item() == pytest.approx(math.sqrt(2 / 108), rel=0.1)


@pytest.mark.parametrize(
    ("name", "settings", "learning_rate"),
    [
        ("mixture_prior", {"components": 5}, 0.03),
        ("flow_prior", {"hidden": 24}, 0.03),
        ("sequence_prior", {"length": 4}, 0.003),
        ("sequence_prior", {"network": "self_attention"}, 0.003),
    ],
)
def test_a_learned_prior_comes_to_what_posteriors_have_in_common(
    name, settings, learning_rate, corpus
):
    """Where a head says the same of all sentences the best prior costs nothing."""
    built = make("lstm", {name: settings})
    head = built.model.head.mean_and_log_variance
    with torch.no_grad():
        nn.init.zeros_(head.weight)
        head.bias.copy_(torch.tensor([1.0, -1.0]).repeat_interleave(8))
    rates = [built.evaluate(corpus.valid, samples=0)["kl"].mean()]
    run = built.run(corpus, budget=10**9, learning_rate=learning_rate)
    batch = run.draw()
    for _ in range(60):
        run.update(batch, only=("prior",))
    rates.append(built.evaluate(corpus.valid, samples=0)["kl"].mean())
    assert abs(rates[1]) < 0.2 * rates[0]


@pytest.mark.parametrize("network", ["lstm", "self_attention"])
def test_a_sequence_prior_after_delta_vae_begins_near_its_prior_and_can_go_below_its_floor(
    network, corpus
):
    """The floor is that of a fixed prior."""
    delta = {"delta_vae": {"length": 4, "delta": 1.5}}
    built = make("lstm", {**delta, "sequence_prior": {"length": 4, "network": network}})
    arrays, alone = (each.evaluate(corpus.valid) for each in (built, make("lstm", delta)))
    assert np.array_equal(arrays["distortion"], alone["distortion"])
    np.testing.assert_allclose(arrays["log_prior"], alone["log_prior"], atol=0.3)
    assert not np.array_equal(arrays["log_prior"], alone["log_prior"])
    run = built.run(corpus, budget=10**9, learning_rate=0.003)
    for _ in range(80):
        run.update(run.draw(), then=lambda f: replace(f, distortion=0 * f.distortion))
    assert built.evaluate(corpus.valid, samples=64)["kl"].mean() < 1.2


def test_a_prior_over_codes_is_not_pushed(batch):
    built = make("lstm", ["binary_codes", "sequence_prior"])
    with pytest.raises(UserError, match="sequence_prior: needs a prior over vectors"):
        built.model(batch, noise_of(1))


def test_a_length_that_does_not_divide_the_latent_is_told_to_the_user():
    with pytest.raises(UserError, match="sequence_prior: length must divide the latent size"):
        make("lstm", {"sequence_prior": {"length": 3}})


# VampPrior


def test_pseudo_features_that_are_those_of_the_sentences_give_the_aggregate_posterior(corpus):
    split = corpus.valid
    built = make("lstm", {"vamp_prior": {"components": len(split)}})
    built.steps(corpus, 3)
    model, batch = built.model, collate(split, np.arange(len(split)))
    with torch.no_grad():
        model.prior.features.copy_(model.pool(model.encoder(batch), batch.mask))
    arrays = built.evaluate(split)
    mean, scale = arrays["posterior_mean"], arrays["posterior_scale"]
    aggregate = aggregate_terms(normal_pairs(arrays["posterior_sample"], mean, scale))
    np.testing.assert_allclose(arrays["log_prior"], aggregate["log_aggregate"], atol=1e-5)
    p = model.prior(model.posterior(batch, noise_of(1)), batch)
    np.testing.assert_allclose(p.mean[0].detach(), mean.mean(0), atol=1e-6)


def test_only_the_pseudo_features_are_the_priors_own():
    model = make("lstm", {"vamp_prior": {}}).model
    assert model.prior.head is model.head
    assert [p.shape for p in model.parameters_of(("prior",))] == [(500, 15)]


class Learning(nn.Module):
    """A head that counts what it has seen in training."""

    def __init__(self, head):
        super().__init__()
        self.head = head
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, features, energy):
        if self.training:
            self.seen += len(features)
        return self.head(features, energy)


def test_a_head_that_learns_from_what_it_sees_learns_nothing_from_pseudo_features(batch):
    model = make("lstm").model.train()
    head = Learning(model.head)
    parts = {"head": head, "prior": MixtureOfPosteriors(head, 7, 15)}
    model = model.with_parts(parts, "tested").train()
    model(batch, noise_of(1)).loss().backward()
    assert head.seen == len(batch.lengths)
    assert head.training
    assert head.head.training


class Refining(nn.Module):
    """A head that follows the energy."""

    def __init__(self, head):
        super().__init__()
        self.head = head

    def forward(self, features, energy):
        q = self.head(features, energy)
        with torch.enable_grad():
            mean = q.mean.detach().requires_grad_()
            scale = q.stddev.detach().requires_grad_()
            nats = energy(diagonal_normal(mean, scale)).sum()
            slopes = torch.autograd.grad(nats, [mean, scale], create_graph=True)
        return diagonal_normal(q.mean - slopes[0], q.stddev - 0.01 * slopes[1])


def test_a_head_that_refines_leaves_pseudo_features_as_they_are(batch):
    head = make("lstm").model.head
    q = diagonal_normal(torch.zeros(5, 8), torch.ones(5, 8))
    prior = MixtureOfPosteriors(Refining(head), 7, 15)
    refined = prior(q, batch)
    prior.head = head
    assert torch.equal(refined.mean, prior(q, batch).mean)
    assert torch.equal(refined.stddev, prior(q, batch).stddev)


class Spherical(nn.Module):
    """A head of another family."""

    def forward(self, features, energy):
        return VonMisesFisher(features, 5.0)


def test_posteriors_that_are_not_normal_are_told_to_the_user(batch):
    with pytest.raises(UserError, match="needs a diagonal normal, got a VonMisesFisher"):
        MixtureOfPosteriors(Spherical(), 7, 15)(None, batch)
