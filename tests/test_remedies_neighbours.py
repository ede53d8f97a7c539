"""What a prior by neighbours promises (`acn`), beyond the laws of all."""

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from conftest import make, noise_of
from torch import Tensor, nn
from torch.distributions import Distribution, Normal, kl_divergence

from collapse_bench.corpus.batches import collate
from collapse_bench.errors import UserError
from collapse_bench.evaluation import evaluate
from collapse_bench.latent_model import Rows, Scored
from collapse_bench.metrics import score
from collapse_bench.metrics.likelihood import importance_weighted_nll
from collapse_bench.model import stored_means
from collapse_bench.model.distributions import draw, mixture
from collapse_bench.model.distributions.mixture import MixtureOfNeighbours, NormalMixture
from collapse_bench.model.stored_means import StoredMeans
from collapse_bench.truth.strings import Steps, Strings, all_strings, matched


def generator(seed=1):
    return torch.Generator().manual_seed(seed)


def parts(count=300, *shape, scale=0.1, seed=1):
    mean = torch.randn(count, *(shape or (3,)), generator=generator(seed))
    return mean, scale * torch.rand(mean.shape, generator=generator(seed + 1)) + 0.01


def none_near(means):
    raise AssertionError("nobody asked for neighbours")


@pytest.mark.parametrize("shape", [(3,), (4, 2)])
def test_the_density_of_many_parts_is_that_of_the_mixture(shape, monkeypatch):
    """In parts of the draws, far away, and of draws against sentences."""
    monkeypatch.setattr(mixture, "AT_ONCE", 1000)
    mean, scale = parts(300, *shape)
    many, few = MixtureOfNeighbours(mean, scale, 5, none_near), NormalMixture(mean, scale, 5)
    z = torch.cat([draw(many, torch.randn(3, 5, *shape, generator=generator(3)))[0], 30 * mean[:5]])
    z = z.view(2, 5, *shape)
    expected = NormalMixture(mean.double(), scale.double(), 5).log_prob(z.double())
    torch.testing.assert_close(many.log_prob(z), expected.float())
    torch.testing.assert_close(few.log_prob(z), expected.float(), rtol=1e-4, atol=1e-4)
    pairs = z[0][:, None]  # [M, 1, ...] against [B]
    torch.testing.assert_close(many.log_prob(pairs), expected[0, :, None].expand(5, 5).float())


def test_digits_of_narrow_parts_are_kept():
    mean = torch.full((1, 2), 50.0) + torch.tensor([0.0, 1e-3])
    narrow = MixtureOfNeighbours(mean, torch.full((1, 2), 1e-3), 1, none_near)
    expected = Normal(mean.double(), 1e-3).log_prob(mean.double() + 2e-3).sum(1)
    found = narrow.log_prob((mean.double() + 2e-3)[None, 0])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


def trained(corpus, settings=None, steps=4):
    built = make("lstm", {"acn": settings or {}})
    built.steps(corpus, steps)
    return built


def test_the_prior_of_an_evaluation_is_the_same_for_all_and_one_of_each_stored_mean(corpus):
    built = trained(corpus)
    model, prior = built.model.eval(), built.model.prior
    batch = collate(corpus.train, np.arange(12))
    before = prior.stored.values.clone()
    with torch.no_grad():
        q = model.posterior(batch, noise_of(1))
        p = prior(q, batch)
        other = collate(corpus.valid, np.arange(3))
        of_others = prior(model.posterior(other, noise_of(1)), other)
    assert torch.equal(prior.stored.values, before)
    z = torch.randn(1, 8, generator=generator())
    assert torch.equal(p.log_prob(z.expand(12, 8))[:3], of_others.log_prob(z.expand(3, 8)))
    with torch.no_grad():
        mean, scale = prior.network(before)
    assert len(mean) == len(corpus.train)
    expected = Normal(mean, scale).log_prob(z).sum(1).logsumexp(0) - math.log(len(mean))
    torch.testing.assert_close(p.log_prob(z.expand(12, 8)), expected.expand(12))


def test_it_integrates_to_one():
    mean, scale = parts(200, 1, scale=0.5)
    p = MixtureOfNeighbours(mean, scale, 1, none_near)
    grid = torch.linspace(-8, 8, 200_001, dtype=torch.float64)
    mass = torch.trapezoid(p.log_prob(grid[:, None]).exp(), grid)
    assert float(mass) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("at_once", [70, 2**22])
def test_no_sentence_is_its_own_neighbour(at_once, monkeypatch):
    monkeypatch.setattr(stored_means, "AT_ONCE", at_once)
    torch.manual_seed(1)
    stored = StoredMeans(30, 4)
    index = torch.randperm(30, generator=generator())[:7]
    means = stored.values[index].clone()  # nothing is nearer to one than itself
    assert torch.equal(stored.nearest(means, 1)[:, 0], index)
    near = stored.nearest(means, 29, index)
    assert not (near == index[:, None]).any()
    assert all(len(set(row)) == 29 for row in near.tolist())
    apart = (stored.values[near] - means[:, None]).norm(dim=2)
    assert (apart.diff(dim=1) >= 0).all()


class Asked(nn.Module):
    """A network of fixed scale that keeps what it was asked."""

    def forward(self, c):
        self.of = c
        return c, torch.full_like(c, 0.5)


def test_training_replaces_the_means_of_its_sentences_and_asks_the_others(corpus):
    built = make("lstm", {"acn": {"neighbours": 3}})
    model, stored = built.model.train(), built.model.prior.stored
    batch = collate(corpus.train, np.array([5, 9, 2]))
    before, asked = stored.values.clone(), Asked()
    model.prior.network = asked
    forward = model(batch, noise_of(1))
    changed = (stored.values != before).any(1).nonzero()[:, 0]
    assert changed.tolist() == sorted([5, 9, 2])
    torch.testing.assert_close(stored.values[batch.index], forward.q.mean)
    near = StoredMeans.nearest(stored, forward.q.mean, 1)  # now each is nearest to itself
    assert torch.equal(near[:, 0], batch.index)
    for row, c in enumerate(asked.of):
        distance = (before - forward.q.mean[row]).norm(dim=1)
        distance[batch.index[row]] = math.inf
        assert (before[distance.topk(3, largest=False).indices] == c).all(1).any()
    closed = kl_divergence(forward.q.base_dist, Normal(asked.of, 0.5))
    torch.testing.assert_close(forward.kl, closed)


def test_another_split_leaves_the_means_alone(corpus):
    built = trained(corpus)
    before = built.model.prior.stored.values.clone()
    built.model.train()
    built.evaluate(corpus.valid)
    assert torch.equal(built.model.prior.stored.values, before)


def test_the_number_of_the_paper_is_over_the_nearest_and_needs_few_sentences(corpus):
    built = trained(corpus, {"neighbours": 3})
    arrays = built.evaluate(corpus.valid)
    values = built.model.prior.stored.values
    with torch.no_grad():
        mean, scale = built.model.prior.network(values)
    for row, own in enumerate(torch.from_numpy(arrays["posterior_mean"])):
        near = (values - own).norm(dim=1).topk(3, largest=False).indices
        q = Normal(own, torch.from_numpy(arrays["posterior_scale"][row]))
        rate = kl_divergence(q, Normal(mean[near], scale[near])).sum(1).mean()
        assert arrays["kl_given_neighbours"][row] == pytest.approx(float(rate), rel=1e-4)
    found = score(arrays).metrics["negative_elbo_given_neighbours"]
    of_each = arrays["distortion"] + arrays["kl_given_neighbours"]
    assert found == pytest.approx(of_each.mean(dtype=np.float64))
    assert "kl_given_neighbours" not in make("lstm").evaluate(corpus.valid)


@dataclass(frozen=True, eq=False)
class WithNeighbours:
    """The model of strings, its own posteriors' means being stored, with the prior of ACN."""

    strings: Strings

    def posterior(self, sentences: Tensor) -> Distribution:
        return self.strings.posterior(sentences)

    def prior(self, sentences: Tensor) -> Distribution:
        mean, scale = self.strings.mean[:, None], self.strings.scale[:, None]

        def nearest(means: Tensor) -> Tensor:
            return (means - mean.T).abs().topk(2, largest=False).indices

        return MixtureOfNeighbours(mean, scale, len(sentences), nearest)

    def log_likelihood(self, sentences: Tensor, z: Tensor) -> Tensor:
        return self.strings.log_likelihood(sentences, z)


def test_the_nll_is_not_below_the_entropy_and_the_number_of_the_paper_is():
    words = torch.full((4, 5, 4), 0.02, dtype=torch.float64)
    words += torch.eye(4, dtype=torch.float64)[:, None] * 0.92  # in table k nearly all words are k
    decoder = Steps(torch.full((4,), 0.25, dtype=torch.float64), words)
    strings = matched(decoder, 3)
    # As narrow as an encoder may be that tells the table.
    strings = replace(strings, scale=strings.scale.clamp(max=0.1))
    x = all_strings(4, 3)
    p = torch.exp(-strings.exact_nll(x)).numpy()
    arrays = evaluate(Scored(WithNeighbours(strings)), Rows.of(x), samples=2000, batch=64, seed=1)
    entropy = strings.exact()["nll"]
    nll = float(p @ importance_weighted_nll(arrays["log_weights"], arrays["draws"]))
    given = float(p @ (arrays["distortion"] + arrays["kl_given_neighbours"]))
    assert nll >= entropy - 0.01
    assert given < entropy - 1.0


def test_it_needs_a_neighbour():
    sizes = replace(make("lstm").model.dimensions, sentences=1)
    model = make("lstm").model
    model.dimensions = sizes
    [remedy] = make("lstm", {"acn": {}}).remedies
    with pytest.raises(UserError, match=r"acn: .*other training sentences.* has 1: train on two"):
        remedy.build(model)
    model.dimensions = replace(sizes, sentences=3)
    assert remedy.build(model)["prior"].neighbours == 2


def test_a_posterior_that_is_no_normal_is_told(corpus):
    built = make("lstm", {"acn": {}, "iaf": {"hidden": 24}})
    with pytest.raises(UserError, match="needs a diagonal normal"):
        built.model(collate(corpus.train, np.arange(3)), noise_of(1))
