"""What the remedies promise that need statistics of the aggregate posterior."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import make, noise_of
from torch.distributions import Normal

from collapse_bench.corpus.batches import collate
from collapse_bench.errors import UserError
from collapse_bench.metrics import mutual_information as metrics
from collapse_bench.model import diagonal_normal
from collapse_bench.model.discrepancy import discrepancy
from collapse_bench.model.distributions import rate
from collapse_bench.model.recent import Densities
from collapse_bench.remedies.objective.beta_vae import BetaVae
from collapse_bench.remedies.objective.dg_vae import DgVae
from collapse_bench.remedies.objective.elbo_terms import ElboTerms
from collapse_bench.remedies.objective.mu_forcing import MuForcing


def whole(corpus, name, settings, seed=1):
    """A pass over the whole training split in one batch, float64, with posteriors that differ; and
    the remedy, its memory full of them."""
    built = make("lstm", {name: settings})
    batch = collate(corpus.train, np.arange(len(corpus.train)))
    forward = built.model.double()(batch, noise_of(seed))
    generator = torch.Generator().manual_seed(seed)
    mean, log_scale, noise = torch.randn(3, *forward.z.shape, generator=generator).double()
    mean[:, 0] += mean[:, 1]
    q = diagonal_normal(mean.requires_grad_(), (0.3 * log_scale - 0.7).exp())
    z = q.mean + q.stddev * noise
    forward = replace(
        forward, q=q, z=z, kl=rate(q, forward.p, z), distortion=0 * forward.distortion
    )
    return built.remedies[0], forward


def sums(forward):
    """I, total correlation and dimension-wise KL of the split, from the full sums of the metrics;
    and a function that gives the information of the first dimensions."""
    arrays = [each.detach().numpy() for each in (forward.z, forward.q.mean, forward.q.stddev)]
    nothing = np.zeros(len(forward.z))
    by_dimension = metrics.dimension_information(*arrays).mean(0)
    information = metrics.mutual_information(*arrays, nothing).lower.mean()
    of_rate = forward.kl.sum(1).mean().item()
    parts = metrics.decomposition(of_rate, information, by_dimension)

    def of_first(count):
        first = [array[:, :count] for array in arrays]
        return metrics.mutual_information(*first, nothing).lower.mean()

    return (information, parts.total_correlation, parts.dimension_kl), of_first


# The terms of the ELBO

PAPERS = {
    "InfoVAE": ({}, (0, 1, 1)),
    "DIP-VAE": ({"information": 1.0, "total_correlation": 5.0, "dimension_kl": 5.0}, (1, 5, 5)),
    "beta-TCVAE": ({"information": 1.0, "total_correlation": 4.0}, (1, 4, 1)),
    "HFVAE": ({"information": 2.0, "total_correlation": 3.0}, (2, 3, 1)),
    "Achille": ({"information": 0.3, "total_correlation": 0.7, "dimension_kl": 0.0}, (0.3, 0.7, 0)),
    "DG-VAE": ({"total_correlation": 0.0}, (0, 0, 1)),
}  # fmt: skip


@pytest.mark.parametrize("recent", [512, 0])
@pytest.mark.parametrize("paper", PAPERS)
def test_the_terms_are_weighed_as_the_paper_has_it(paper, recent, corpus):
    settings, weights = PAPERS[paper]
    remedy, forward = whole(corpus, "elbo_terms", settings | {"recent": recent})
    parts, _ = sums(forward)
    expected = np.dot(weights, parts)
    assert remedy.objective(forward).loss().item() == pytest.approx(expected, rel=1e-9)
    assert min(parts) > 0.3


def test_information_of_anchors_is_asked_for(corpus):
    settings = {"information": 1.0, "anchored": 0.5, "anchors": 3}
    remedy, forward = whole(corpus, "elbo_terms", settings)
    parts, of_first = sums(forward)
    loss = remedy.objective(forward).loss().item()
    assert loss == pytest.approx(sum(parts) - 0.5 * of_first(3), rel=1e-9)
    assert parts[0] - of_first(3) > 0.1


def test_weights_of_one_leave_the_pass_untouched(corpus):
    remedy, forward = whole(corpus, "elbo_terms", {"information": 1.0})
    assert remedy.objective(forward) is forward


@pytest.mark.parametrize("divergence", ["kl", "imq"])
def test_equal_weights_are_beta_vae_to_the_bit(divergence, corpus):
    weights = dict.fromkeys(("information", "total_correlation", "dimension_kl"), 0.4)
    remedy, forward = whole(corpus, "elbo_terms", weights | {"divergence": divergence})
    some, other = remedy.objective(forward), BetaVae(0.4).objective(forward)
    assert torch.equal(some.per_sentence(), other.per_sentence())


def test_a_kernel_has_one_weight_for_the_marginal_term():
    with pytest.raises(UserError, match=r"elbo_terms: imq .* got 2.0 and 1.0"):
        ElboTerms(total_correlation=2.0, divergence="imq")


def test_anchors_are_dimensions_of_z():
    with pytest.raises(UserError, match="anchors = 9 and latent = 8"):
        make("lstm", {"elbo_terms": {"anchored": 1.0, "anchors": 9}})


@pytest.mark.parametrize("form", ["imq", "rbf"])
def test_the_discrepancy_by_hand(form):
    """In one dimension, so that C = 2; the other two posteriors are points, at 1 and at 3."""
    points = Normal(torch.tensor([[1.0], [3.0]]), torch.zeros(2, 1), validate_args=False)
    there = torch.tensor([[True, True], [False, True]])
    q = Densities(torch.tensor([[0.0], [2.0]]), points, points, there, 2)
    prior = torch.tensor([[0.0], [1.0]])

    def k(square):
        return 2 / (2 + square) if form == "imq" else math.exp(-square / 2)

    expected = [
        (k(1) + k(9)) / 2 - (k(0) + k(1)) + k(1),
        k(1) - (k(4) + k(1)) + k(1),
    ]
    torch.testing.assert_close(discrepancy(q, prior, form), torch.tensor(expected))


def normal_kernel(shift, variance, latent):
    """E exp(-|d|^2 / C) of d ~ N(shift, variance) in each dimension, C = 2 latent."""
    width = 2 * latent + 2 * variance
    return (2 * latent / width) ** (latent / 2) * torch.exp(-latent * shift**2 / width)


@pytest.mark.parametrize("recent", [512, 0])
def test_the_discrepancy_and_its_gradient_are_those_of_two_normals(recent, corpus):
    weights = {"total_correlation": 2.0, "dimension_kl": 2.0}
    remedy, forward = whole(
        corpus, "elbo_terms", {"divergence": "rbf", "recent": recent, **weights}
    )
    latent = forward.z.shape[1]
    shift, scale = given = torch.tensor([0.6, 0.4]).double().requires_grad_().unbind()
    exact = (
        normal_kernel(0 * shift, 2 * scale**2, latent)
        - 2 * normal_kernel(shift, 1 + scale**2, latent)
        + normal_kernel(0 * shift, 2 + 0 * scale, latent)
    )
    exact = [exact, *torch.autograd.grad(exact, given, retain_graph=True)]
    torch.manual_seed(2)
    found = []
    for _ in range(100):
        zero = torch.zeros_like(forward.z)
        q = diagonal_normal(zero + shift, zero + scale)
        told = remedy.objective(replace(forward, q=q, z=q.rsample(), kl=0 * forward.kl)).loss() / 2
        gradients = torch.autograd.grad(told, given, retain_graph=True)
        found.append([told.detach(), *gradients])
    found = torch.tensor(found)
    error = 4.5 * found.std(0) / math.sqrt(len(found))
    for i in range(3):
        assert abs(found.mean(0)[i] - exact[i]) < error[i]
        assert error[i] < 0.25 * abs(exact[i])


# The density gap


def test_the_density_gap_is_the_dimension_wise_kl(corpus):
    remedy, forward = whole(corpus, "dg_vae", {"draws": 200, "recent": 2048})
    gaps = remedy.gap(forward).detach()
    z = forward.q.sample((200,))
    exact = 0.0
    for j in range(z.shape[-1]):  # the mixture's density by the book
        each = torch.distributions.Normal(forward.q.mean[:, j], forward.q.stddev[:, j])
        mixture = each.log_prob(z[..., j, None]).logsumexp(-1) - math.log(z.shape[1])
        exact += (mixture + 0.5 * z[..., j].square() + 0.5 * math.log(2 * math.pi)).mean().item()
    assert gaps.mean().item() == pytest.approx(exact, abs=0.05)
    assert exact > 0.5


def test_the_published_density_gap_is_that_of_the_mixture_of_the_batch(batch):
    built = make("lstm", {"dg_vae": {"recent": 0, "draws": 4}})
    assert not built.model.further
    forward = built.model(batch, noise_of(1))
    q, sentences = forward.q, len(batch.lengths)
    torch.manual_seed(3)
    noise = torch.randn(4, *q.mean.shape)
    expected = 0.0
    for m, i in np.ndindex(4, sentences):
        z = q.mean[i] + q.stddev[i] * noise[m, i]
        density = torch.distributions.Normal(q.mean, q.stddev).log_prob(z).exp().mean(0)
        log_prior = -0.5 * (z.square() + math.log(2 * math.pi))
        expected = expected + (density.log() - log_prior).sum() / (4 * sentences)
    torch.manual_seed(3)
    told = built.remedy.objective(forward)
    torch.testing.assert_close(told.loss(), forward.distortion.mean() + expected)
    weight = built.model.head.mean_and_log_variance.weight
    some, other = (
        torch.autograd.grad(each, weight, retain_graph=True)[0]
        for each in (told.kl.sum(1).mean(), expected)
    )
    torch.testing.assert_close(some, other, rtol=1e-3, atol=1e-5)


def test_a_share_of_the_rate_is_replaced(corpus):
    _, forward = whole(corpus, "dg_vae", {})
    assert DgVae(share=0.0).objective(forward) is forward
    torch.manual_seed(1)
    gap = DgVae().objective(forward).loss().item()
    torch.manual_seed(1)
    half = DgVae(share=0.5).objective(forward).loss().item()
    assert half == pytest.approx((gap + forward.kl.sum(1).mean().item()) / 2)


def test_what_stands_in_the_place_of_the_rate_is_annealed_as_it_is(corpus):
    for name in ("dg_vae", "elbo_terms"):
        built = make("lstm", [name, "kl_annealing"])
        run = built.run(corpus, budget=1000)
        forward = run.update(run.draw())  # a weight of 0 at the first update
        torch.testing.assert_close(forward.per_sentence(), forward.distortion)


# mu-forcing


def test_mu_forcing_with_a_memory_below_two_batches_is_the_published_form(corpus):
    short, forward = whole(corpus, "mu_forcing", {"margin": 20.0, "recent": 9})
    short = short.objective(forward)
    published = MuForcing(margin=20.0, recent=0).objective(forward)
    assert torch.equal(published.per_sentence(), short.per_sentence())


@pytest.mark.parametrize("margin", [0.5, 20.0])
def test_published_mu_forcing_is_the_hinge_with_its_gradient(margin, corpus):
    remedy, forward = whole(corpus, "mu_forcing", {"margin": margin, "weight": 1.25, "recent": 0})
    mean = forward.q.mean
    scatter = (mean - mean.mean(0)).square().sum(1).mean() / 2
    expected = 1.25 * (margin - scatter).clamp(min=0)
    told = remedy.objective(forward).extra["mu_forcing"].mean()
    torch.testing.assert_close(told, expected)
    some, other = (torch.autograd.grad(each, mean)[0] for each in (told, expected))
    torch.testing.assert_close(some, other)
    assert 0.5 < scatter < 20
    assert bool(other.any()) == (margin > scatter)


def test_mu_forcing_holds_recent_scatter_against_its_margin(corpus):
    """Batches of one length scatter by 1 each, and their means by 2."""
    built = make("lstm", {"mu_forcing": {"margin": 30.0, "weight": 1.0, "recent": 48}})
    run, recent = built.run(corpus, budget=10**6), built.model.further["mu_forcing"]
    generator = torch.Generator().manual_seed(1)
    terms = []
    for _ in range(80):
        forward = built.model(run.draw(), noise_of(1))
        own, of_length = (
            torch.randn(len(forward.z), 8, generator=generator),
            torch.randn(8, generator=generator),
        )
        mean = (own + 2 * of_length).requires_grad_()
        told = built.remedy.objective(replace(forward, q=diagonal_normal(mean, 1 + 0 * mean)))
        term = told.extra["mu_forcing"].mean()
        known = recent.variance(len(mean)).sum() / 2
        torch.testing.assert_close(term, (30 - known).clamp(min=0))
        gradient = torch.autograd.grad(term, mean)[0]
        expected = -(mean - mean.mean(0)) / len(mean) * (known < 30)
        torch.testing.assert_close(gradient, expected)
        terms.append(term.item())
    assert np.mean(terms[20:]) == pytest.approx(30 - 4 * (1 + 4), abs=2.5)


def test_one_shift_of_all_posteriors_does_not_satisfy_mu_forcing(corpus):
    remedy, forward = whole(corpus, "mu_forcing", {"recent": 0})
    before = remedy.objective(forward).loss()
    moved = replace(forward, q=diagonal_normal(forward.q.mean + 9, forward.q.stddev))
    torch.testing.assert_close(remedy.objective(moved).loss(), before)


def test_no_margin_is_no_mu_forcing(corpus):
    remedy, forward = whole(corpus, "mu_forcing", {"margin": 0.0})
    assert remedy.objective(forward) is forward
