"""Refined posteriors and annealed bounds against closed forms and quadrature."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal, Normal

from collapse_bench.corpus import evaluation_batches
from collapse_bench.diagnosis.annealing import annealed_importance_sampling, inverse_temperatures
from collapse_bench.diagnosis.refinement import Refined, gaps, refine
from collapse_bench.errors import UserError
from collapse_bench.evaluation import SentenceNoise, evaluating
from collapse_bench.latent_model import Rows
from collapse_bench.model import Dimensions, build_model, diagonal_normal
from collapse_bench.model.distributions.autoregressive import AutoregressiveNormal, committed_rate


class Linear:
    """x = W z + noise, z ~ N(0, I): everything is known. True z are shifted away from the prior."""

    def __init__(self, sentences=40, latent=3, size=8, noise=0.7, shift=0.0):
        generator = torch.Generator().manual_seed(3)

        def normal(*shape):
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        self.weight, self.noise = normal(size, latent), noise
        self.z = normal(sentences, latent) + shift
        x = self.z @ self.weight.T + noise * normal(sentences, size)
        self.rows = Rows.of(x)
        precision = torch.eye(latent, dtype=torch.float64) + self.weight.T @ self.weight / noise**2
        self.mean = x @ self.weight @ precision.inverse() / noise**2
        self.scale = precision.diagonal().rsqrt().expand_as(self.mean)
        covariance = self.weight @ self.weight.T + noise**2 * torch.eye(size, dtype=torch.float64)
        self.exact = MultivariateNormal(torch.zeros_like(x[0]), covariance).log_prob(x).numpy()
        # KL of the best diagonal normal from the true posterior.
        diagonal = precision.diagonal().log().sum()
        self.approximation = float(0.5 * (diagonal - torch.logdet(precision)))

    def log_likelihood(self, batch, z):
        return Normal(z @ self.weight.T, self.noise).log_prob(batch.values).sum(-1)


def standard(like):
    return diagonal_normal(torch.zeros_like(like), torch.ones_like(like))


def part(rows, q, index):
    index = torch.tensor(index)
    mean, scale = q.mean[index], q.stddev[index]
    return rows.rows(index), diagonal_normal(mean, scale), standard(mean)


# Refinement


def test_the_best_diagonal_normal_is_found_from_a_collapsed_encoder():
    toy = Linear()
    q = p = standard(toy.mean)
    refined = refine(toy.log_likelihood, toy.rows, q, p, steps=150)
    np.testing.assert_allclose(refined.mean, toy.mean, atol=0.25 * float(toy.scale.max()))
    np.testing.assert_allclose(refined.scale, toy.scale, rtol=0.3)
    found = gaps(-toy.exact, refined)
    assert abs(found.approximation - toy.approximation) < 0.03 + 4 * found.approximation_error
    assert found.approximation < toy.approximation + 0.3
    # Encoder = prior, so that its own gap is all of E_p[-log p(x|z)] + log p(x) but that.
    spread = (toy.weight.square().sum() / toy.noise**2 / 2).item()
    at_zero = toy.log_likelihood(toy.rows, torch.zeros_like(toy.mean)).numpy()
    expected = np.mean(toy.exact - at_zero) + spread - toy.approximation
    assert abs(found.amortisation - expected) < 4 * found.amortisation_error
    assert found.amortisation > 10
    np.testing.assert_array_equal(refined.rate, 0)


def test_an_encoder_that_is_best_has_no_amortisation_gap():
    toy = Linear()
    q = diagonal_normal(toy.mean, toy.scale)
    found = gaps(-toy.exact, refine(toy.log_likelihood, toy.rows, q, standard(toy.mean), steps=60))
    assert abs(found.amortisation) < 0.05
    assert abs(found.approximation - toy.approximation) < 4 * found.approximation_error
    assert abs(found.refined_rate - (toy.mean.square() + toy.scale.square() - 1)
               .sub(2 * toy.scale.log()).sum(1).mean().item() / 2) < 0.3  # fmt: skip


def test_a_start_at_the_prior_escapes_from_an_encoder_that_is_lost():
    # Two modes, and the encoder's is the one that explains nothing.
    def log_likelihood(batch, z):
        return torch.logaddexp(-0.5 * ((z - 1) / 0.2) ** 2, -0.5 * ((z + 6) / 0.2) ** 2 - 9).sum(1)

    rows = Rows.of(torch.zeros(10, 1))
    lost = torch.full((10, 1), -6.0)
    refined = refine(log_likelihood, rows, diagonal_normal(lost, 0 * lost + 0.2), standard(lost))
    assert set(refined.start) == {"from prior"}
    np.testing.assert_allclose(refined.mean, 1, atol=0.15)
    near = refine(log_likelihood, rows, diagonal_normal(lost + 7, 0 * lost + 0.196), standard(lost))
    assert np.mean(near.start != "from prior") > 0.5


@pytest.mark.parametrize("index", [[4], [0, 7, 2], [9, 8, 7, 6, 5]])
def test_a_sentence_is_refined_the_same_in_any_batch(index):
    toy = Linear(sentences=10)
    q = diagonal_normal(0.5 * toy.mean, toy.scale)
    whole = refine(toy.log_likelihood, toy.rows, q, standard(toy.mean), steps=10, seed=2)
    some = refine(toy.log_likelihood, *part(toy.rows, q, index), steps=10, seed=2)
    for name in ("rate", "distortion", "refined_rate", "refined_distortion", "mean", "scale"):
        np.testing.assert_allclose(getattr(some, name), getattr(whole, name)[index], rtol=1e-9)
    other = refine(toy.log_likelihood, *part(toy.rows, q, index), steps=10, seed=3)
    assert not np.allclose(other.mean, some.mean)


def test_a_decoder_that_ignores_z_leads_back_to_the_prior():
    rows = Rows.of(torch.zeros(20, 1))
    q = diagonal_normal(torch.full((20, 2), 2.0), torch.full((20, 2), 0.5))
    refined = refine(lambda batch, z: -5 * torch.ones(len(z)), rows, q, standard(q.mean), steps=100)
    assert refined.refined_rate.max() < 0.002
    np.testing.assert_allclose(refined.refined_distortion, 5)
    found = gaps(np.full(20, 5.0), refined)
    np.testing.assert_allclose(found.amortisation, 4 + 0.25 - 1 - math.log(0.25), atol=0.05)


def detached(z):
    return z.detach()


def by_numpy(z):
    return torch.from_numpy(z.detach().numpy())


@pytest.mark.parametrize("hide", [detached, by_numpy])
def test_a_log_likelihood_without_gradient_is_refused(hide):
    toy = Linear(sentences=2)

    def log_likelihood(batch, z):
        return toy.log_likelihood(batch, hide(z))

    p = standard(toy.mean)
    with pytest.raises(UserError, match="its gradient with respect to z is needed"):
        refine(log_likelihood, toy.rows, p, p)
    with pytest.raises(UserError, match="its gradient with respect to z is needed"):
        annealed_importance_sampling(log_likelihood, p, toy.rows)


def test_the_prior_may_be_autoregressive_and_the_floor_is_kept():
    target = torch.full((6, 4, 2), 1.5)

    def log_likelihood(batch, z):
        return -0.5 * ((z - target[batch.index]) / 0.5).square().flatten(1).sum(1)

    q = diagonal_normal(torch.zeros(6, 4, 2), torch.full((6, 4, 2), 0.5))
    p = AutoregressiveNormal(q.mean.shape, 0.8)
    refined = refine(log_likelihood, Rows.of(torch.zeros(6, 1)), q, p, steps=60)
    assert refined.mean.shape == (6, 8)
    assert (refined.refined_negative_elbo < refined.negative_elbo - 5).all()
    assert (refined.refined_rate >= 2 * committed_rate(0.8, 4) - 1e-4).all()


def test_a_model_is_left_as_it_was(tiny):
    model, split = tiny
    batch = next(evaluation_batches(split, 6))
    with evaluating(model), torch.no_grad():
        q = model.posterior(batch, SentenceNoise(len(split), 1).of_refinement(batch))
        p = model.prior(q, batch)
        before = model.log_likelihood(batch, q.mean)
        refined = refine(model.log_likelihood, batch, q, p, steps=3)
        bounds = annealed_importance_sampling(
            model.log_likelihood, p, batch, chains=2, temperatures=3, leapfrog=1
        )
        assert torch.equal(model.log_likelihood(batch, q.mean), before)
    assert all(w.grad is None and w.requires_grad for w in model.parameters())
    assert refined.rate.dtype == np.float64
    assert np.isfinite(bounds.lower).all()


@pytest.fixture
def tiny(corpus):
    torch.manual_seed(1)
    sizes = Dimensions(corpus.vocabulary.size, 6, 7, 3, 1, 1, 0.5, 60, 30)
    return build_model("lstm", sizes).train(), corpus.test


def test_gaps_are_what_their_names_say():
    ones = np.ones(2)
    refined = Refined(
        rate=4 * ones, distortion=np.array([10.0, 12.0]), refined_rate=np.array([1.0, 2.0]),
        refined_distortion=9 * ones, mean=ones[:, None], scale=ones[:, None],
        start=np.array(["from prior"] * 2),
    )  # fmt: skip
    found = gaps(np.array([[9.5, 10.0], [9.0, 11.0]]), refined)
    assert found.refined_rate == 1.5
    assert found.amortisation == pytest.approx(((14 - 10) + (16 - 11)) / 2)
    assert found.approximation == pytest.approx(((10 - 9) + (11 - 10)) / 2)
    assert found.amortisation_error == pytest.approx(0.5)
    assert found.refined_use == pytest.approx(((9 - 9) + (10 - 9)) / 2)
    assert gaps(np.array([9.0, 10.0]), refined) == found
    # An NLL above D + R of q* is of no use.
    assert gaps(np.array([20.0, 20.0]), refined).refined_use == found.refined_rate


# Annealing


def test_temperatures_rise_from_zero_to_one_and_are_dense_at_both_ends():
    b = inverse_temperatures(50)
    step = np.diff(b)
    assert b[0] == 0
    assert b[-1] == 1
    np.testing.assert_allclose(b + b[::-1], 1, atol=1e-12)
    assert (step > 0).all()
    assert (np.diff(step[:25]) > 0).all()
    assert step[0] < step[25] / 10


def test_a_lower_bound_closes_with_temperatures_where_the_posterior_is_far_from_the_prior():
    toy = Linear(sentences=24, latent=2, size=6, noise=0.5, shift=2.5)
    p = standard(toy.mean)

    def bounds(temperatures):
        return annealed_importance_sampling(
            toy.log_likelihood, p, toy.rows, chains=8, temperatures=temperatures, leapfrog=4,
            seed=1,
        )  # fmt: skip

    few, many = bounds(12), bounds(120)
    for found in (few, many):
        error = (found.lower - toy.exact).std() / 24**0.5
        assert np.mean(found.lower - toy.exact) < 3 * error
    assert np.mean(toy.exact - many.lower) < 0.25
    assert np.mean(toy.exact - few.lower) > 4 * np.mean(toy.exact - many.lower)
    assert np.abs(many.acceptance - 0.65).max() < 0.2


def test_backwards_from_a_true_latent_is_an_upper_bound():
    toy = Linear(sentences=40, latent=2, size=6, noise=0.5)
    p = standard(toy.mean)
    gap = []
    for temperatures in (8, 80):
        found = annealed_importance_sampling(
            toy.log_likelihood, p, toy.rows, chains=8, temperatures=temperatures, leapfrog=4,
            truth=toy.z, seed=1,
        )  # fmt: skip
        above, below = found.upper - toy.exact, toy.exact - found.lower
        assert above.mean() > -3 * above.std() / 40**0.5
        assert below.mean() > -3 * below.std() / 40**0.5
        gap.append(np.mean(found.upper - found.lower))
    # Twice as much where the way back is made with the step sizes in the order of the way there.
    assert 0 < gap[1] < min(0.25, gap[0] / 4)


def test_weights_are_unbiased_both_ways_with_few_temperatures():
    toy = Linear(sentences=1, latent=1, size=2, noise=0.8)
    posterior = Normal(toy.mean, toy.scale)  # of one dimension, so it is exact
    torch.manual_seed(0)
    copies = toy.rows.rows(torch.zeros(300, dtype=torch.int64))
    copies = Rows(copies.values, copies.lengths, torch.arange(300))
    found = annealed_importance_sampling(
        toy.log_likelihood, standard(toy.mean.expand(300, 1)), copies, chains=5, temperatures=4,
        leapfrog=2, truth=posterior.sample((300,))[:, 0],
    )  # fmt: skip
    for ratio in (np.exp(found.lower - toy.exact), np.exp(toy.exact - found.upper)):
        assert abs(ratio.mean() - 1) < 4 * ratio.std() / 300**0.5
        assert ratio.std() / 300**0.5 < 0.05
    # And the error that a run states is the one that it has.
    assert found.lower_error.mean() == pytest.approx(found.lower.std(), rel=0.5)


def test_two_modes_are_integrated_as_by_quadrature():
    x = torch.linspace(-1, 3, 16, dtype=torch.float64)[:, None]

    def log_likelihood(batch, z):
        return Normal(z.square(), 0.3).log_prob(batch.values).sum(1)

    grid = torch.linspace(-8, 8, 20001, dtype=torch.float64)
    joint = Normal(grid.square(), 0.3).log_prob(x) + Normal(0.0, 1.0).log_prob(grid)
    exact = (joint.logsumexp(1) + math.log(16 / 20000)).numpy()
    found = annealed_importance_sampling(
        log_likelihood, standard(x), Rows.of(x), chains=32, temperatures=100, seed=4
    )
    assert np.abs(found.lower - exact).max() < 5 * found.lower_error.max()
    assert abs(np.mean(found.lower - exact)) < 0.05


def test_one_temperature_is_importance_sampling_from_the_prior():
    x = torch.zeros(3, 1, dtype=torch.float64)
    found = annealed_importance_sampling(
        lambda batch, z: z.sum(1), standard(x), Rows.of(x), chains=4000, temperatures=1
    )
    np.testing.assert_allclose(found.lower, 0.5, atol=5 * found.lower_error.max())
    assert found.upper is None


def test_neither_the_batch_nor_the_shape_of_z_changes_a_bound():
    toy = Linear(sentences=6, latent=4)
    p = standard(toy.mean)
    options = {"chains": 3, "temperatures": 6, "leapfrog": 2, "seed": 5}
    whole = annealed_importance_sampling(toy.log_likelihood, p, toy.rows, truth=toy.z, **options)
    batch, _, of_some = part(toy.rows, p, [4, 1])
    some = annealed_importance_sampling(
        toy.log_likelihood, of_some, batch, truth=toy.z[[4, 1]], at_once=5, **options
    )
    for name in ("lower", "upper", "lower_error", "acceptance"):
        np.testing.assert_allclose(getattr(some, name), getattr(whole, name)[[4, 1]], rtol=1e-9)
    sequence = annealed_importance_sampling(
        lambda batch, z: toy.log_likelihood(batch, z.flatten(1)),
        AutoregressiveNormal(torch.Size((6, 2, 2)), 0.0),
        toy.rows,
        truth=toy.z.view(6, 2, 2),
        **options,
    )
    np.testing.assert_allclose(sequence.lower, whole.lower, rtol=1e-9)
    np.testing.assert_allclose(sequence.upper, whole.upper, rtol=1e-9)
