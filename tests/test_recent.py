"""Recent posteriors: what is remembered of training, and what it tells of the aggregate one."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import make, same_arrays

from collapse_bench.metrics import mutual_information as metrics
from collapse_bench.model import diagonal_normal
from collapse_bench.model.recent import Densities, Recent

N, D = 30, 5


def posteriors(seed=1, count=N, latent=D, spread=1.5):
    """Means and standard deviations [N, D], float64."""
    generator = torch.Generator().manual_seed(seed)
    mean, log_scale = torch.randn(2, count, latent, dtype=torch.float64, generator=generator)
    mean[:, 0] = mean[:, 1] + 0.3 * mean[:, 0]  # dimensions that have something in common
    return spread * mean, (0.4 * log_scale - 0.5).exp()


def passes(mean, stddev, index):
    """What is asked of a pass: posterior and batch."""
    index = torch.as_tensor(index)
    batch = SimpleNamespace(index=index, lengths=torch.ones(len(index)))
    return SimpleNamespace(q=diagonal_normal(mean[index], stddev[index]), batch=batch)


def memory(mean, stddev, order=None, size=N, sentences=N):
    """A memory that has been through the sentences in batches of seven."""
    recent = Recent(size, sentences, mean[0].numel()).double()
    order = torch.arange(len(mean)) if order is None else torch.as_tensor(order)
    for index in order.split(7):
        recent.write(passes(mean, stddev, index))
    return recent


def draws(mean, stddev, seed=2):
    noise = torch.randn(mean.shape, dtype=mean.dtype, generator=torch.Generator().manual_seed(seed))
    return mean + stddev * noise


# What is remembered


@pytest.mark.parametrize("size", [3, 7, 10, 29])
def test_the_last_posteriors_are_kept_each_with_its_sentence(size):
    mean, stddev = posteriors()
    order = torch.randperm(N, generator=torch.Generator().manual_seed(3))
    recent = memory(mean, stddev, order, size)
    assert sorted(recent.sentence.tolist()) == sorted(order[-size:].tolist())
    assert torch.equal(recent.mean, mean[recent.sentence])
    assert torch.equal(recent.stddev, stddev[recent.sentence])


def test_there_are_never_more_than_sentences():
    assert len(Recent(1024, N, D).mean) == N


def test_a_batch_that_is_asked_for_again_is_written_once_as_it_was_last():
    mean, stddev = posteriors()
    once, often = (memory(mean, stddev, range(14), size=20) for _ in range(2))
    once.write(passes(mean, stddev, range(14, 21)))
    for shift in (3.0, 1.0, 0.0):
        often.write(passes(mean + shift, stddev, range(14, 21)))
    assert all(map(torch.equal, once.buffers(), often.buffers()))


def test_evaluation_writes_nothing():
    mean, stddev = posteriors()
    recent = memory(mean, stddev, range(14)).eval()
    before = [buffer.clone() for buffer in recent.buffers()]
    recent.write(passes(mean, stddev, range(14, 21)))
    assert all(map(torch.equal, before, recent.buffers()))


def batches_of(run, count, step):
    """The batches that steps update on, one after the other."""
    batches = []

    def note(forward):
        if not batches or batches[-1] is not forward.batch:
            batches.append(forward.batch)
        return forward

    for _ in range(count):
        step(run.draw(), then=note)
    return batches


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("captured", [True, False])
def test_every_update_is_remembered_wherever_a_loop_inside_a_step_stands(first, captured, corpus):
    chosen = {"elbo_terms": {"recent": 24}, "aggressive_inference": {"window": 2, "longest": 4}}
    built = make("lstm", dict(list(chosen.items())[:: 1 if first else -1]))
    run = built.run(corpus, captured=captured)
    batches = batches_of(run, 5, built.remedy.step(run.update, run))
    assert len(batches) > 10
    seen = torch.cat([batch.index for batch in batches])[-24:]
    recent = built.model.further["elbo_terms"]
    in_order = torch.roll(recent.sentence, -int(recent.place))
    assert in_order.tolist() == seen.tolist()


@pytest.mark.parametrize("name", ["elbo_terms", "dg_vae", "mu_forcing"])
def test_a_memory_is_no_part_of_what_is_evaluated(name, corpus):
    built, plain = make("lstm", {name: {"recent": 512}}), make("lstm")
    assert name in built.model.further
    built.steps(corpus, 3)
    weights = {k: v for k, v in built.model.state_dict().items() if not k.startswith("further")}
    plain.model.load_state_dict(weights)
    before = [buffer.clone() for buffer in built.model.buffers()]
    assert same_arrays(built.evaluate(corpus.valid), plain.evaluate(corpus.valid))
    assert all(map(torch.equal, before, built.model.buffers()))


def test_the_variance_is_that_of_the_means_within_and_between_batches_but_not_their_drift():
    generator = torch.Generator().manual_seed(1)
    variances = {}
    for drift in (0.0, 0.05):
        recent = Recent(2048, 10_000, 3)
        for t in range(260):  # twice around
            own, of_length = (
                torch.randn(16, 3, generator=generator),
                torch.randn(3, generator=generator),
            )
            mean = own + 2 * of_length + drift * t
            index = torch.arange(16 * t, 16 * (t + 1))
            batch = SimpleNamespace(index=index)
            recent.write(SimpleNamespace(q=diagonal_normal(mean, mean.abs()), batch=batch))
        variances[drift] = recent.variance(16).mean()
        assert (recent.mean.var(0).mean() > 7) == bool(drift)
    for variance in variances.values():
        assert variance == pytest.approx(1 + 4, rel=0.2)


def test_a_memory_of_nothing_has_no_variance():
    assert not Recent(8, N, D).variance(4).any()
    assert not Recent(8, N, D).variance(9).any()
    assert memory(*posteriors(), size=8).variance(7).all()


# What it tells of q(z)


def test_a_memory_of_all_sentences_gives_the_sums_over_all_of_them():
    mean, stddev = posteriors()
    recent, z = memory(mean, stddev), draws(mean, stddev)
    information, by_dimension = [], []
    for index in torch.arange(N).split(4):
        densities = Densities.of_recent(passes(mean, stddev, index), z[index], recent)
        information.append(densities.information())
        by_dimension.append(densities.information_by_dimension())
    arrays = [each.numpy() for each in (z, mean, stddev)]
    expected = metrics.mutual_information(*arrays, np.zeros(N)).lower
    np.testing.assert_allclose(torch.cat(information), expected, rtol=1e-9)
    expected = metrics.dimension_information(*arrays)
    np.testing.assert_allclose(torch.cat(by_dimension), expected, rtol=1e-9)
    assert expected.mean(0).min() > 0.1


def test_anchors_are_the_first_dimensions():
    mean, stddev = posteriors()
    z, forward = draws(mean, stddev), passes(mean, stddev, range(N))
    densities = Densities.of_recent(forward, z, memory(mean, stddev))
    arrays = [each[:, :2].numpy() for each in (z, mean, stddev)]
    expected = metrics.mutual_information(*arrays, np.zeros(N)).lower
    np.testing.assert_allclose(densities.information(2), expected, rtol=1e-9)


def test_one_batch_of_all_sentences_gives_the_same():
    mean, stddev = posteriors()
    z, forward = draws(mean, stddev), passes(mean, stddev, range(N))
    some = Densities.of_recent(forward, z, memory(mean, stddev))
    others = Densities.of_batch(forward, z, N)
    torch.testing.assert_close(some.information(), others.information())
    torch.testing.assert_close(some.log_marginals(), others.log_marginals())


def test_a_sequence_is_its_dimensions_one_after_the_other():
    mean, stddev = posteriors(latent=6)
    z = draws(mean, stddev)
    flat = Densities.of_recent(passes(mean, stddev, range(N)), z, memory(mean, stddev))
    long = [each.view(N, 3, 2) for each in (mean, stddev)]
    densities = Densities.of_recent(
        passes(*long, range(N)), torch.stack([z, z]).view(2, N, 3, 2), memory(*long)
    )
    assert torch.equal(densities.information(), flat.information().expand(2, N))
    assert torch.equal(densities.log_marginals()[1], flat.log_marginals())


@pytest.mark.parametrize("size", [1, 3])
def test_with_any_sample_of_the_others_the_density_is_unbiased(size):
    mean, stddev = posteriors(count=6)
    z, forward = draws(mean, stddev), passes(mean, stddev, [2])
    of_all = Densities.of_recent(forward, z[[2]], memory(mean, stddev, sentences=6))
    joint, marginals = [], []
    for others in itertools.combinations((0, 1, 3, 4, 5), size):
        # Its own stale posterior is there, too, and is not another one's.
        recent = memory(mean, stddev, [2, *others], size + 1, sentences=6)
        densities = Densities.of_recent(forward, z[[2]], recent)
        joint.append((-densities.information()).exp())
        marginals.append(densities.log_marginals().exp())
    for estimates, exact in (
        (joint, (-of_all.information()).exp()),
        (marginals, of_all.log_marginals().exp()),
    ):
        torch.testing.assert_close(torch.stack(estimates).mean(0), exact)


def test_a_memory_of_nobody_else_knows_no_more_than_how_many_there_are():
    mean, stddev = posteriors()
    z, forward = draws(mean, stddev), passes(mean, stddev, [4])
    for recent in (Recent(N, N, D).double(), memory(mean, stddev, [4])):
        told = Densities.of_recent(forward, z[[4]], recent).information()
        assert told.item() == pytest.approx(math.log(N))
    assert Densities.of_batch(forward, z[[4]], 1).information().item() == pytest.approx(0)


def test_the_gradient_is_finite_where_nobody_else_is_in_memory():
    mean, stddev = posteriors()
    forward, z = passes(mean, stddev, [4]), draws(mean, stddev)[[4]].requires_grad_()
    for densities in (
        Densities.of_recent(forward, z, Recent(N, N, D).double()),
        Densities.of_batch(forward, z, N),
        Densities.of_batch(forward, z, 1),
    ):
        total = densities.information().sum() + densities.log_marginals().sum()
        assert torch.autograd.grad(total, z)[0].isfinite().all()


def test_equal_posteriors_tell_nothing_and_nothing_pulls_at_them():
    mean, stddev = (each[:1].repeat(N, 1) for each in posteriors())
    z = draws(mean, stddev).requires_grad_()
    told = Densities.of_recent(passes(mean, stddev, range(N)), z, memory(mean, stddev))
    assert told.information().abs().max() < 1e-12
    told.information().sum().backward()
    assert z.grad.abs().max() < 1e-12


# Linear-Gaussian: x ~ N(0, I) in two dimensions, q(z|x) = N(A x, diag V)

COUNT = 2000
GAIN = torch.tensor([[1.2, 0.9], [0.6, 1.1]], dtype=torch.float64)
VARIANCE = torch.tensor([0.3, 0.2], dtype=torch.float64)


def linear():
    """Posterior means and scales of sentences, and a draw of each."""
    generator = torch.Generator().manual_seed(5)
    x, noise = torch.randn(2, COUNT, 2, dtype=torch.float64, generator=generator)
    mean, stddev = x @ GAIN.T, VARIANCE.sqrt().expand(COUNT, 2)
    return mean, stddev, mean + stddev * noise


def closed_forms():
    """I, total correlation, and dimension-wise KL to N(0, 1), nats."""
    q = GAIN @ GAIN.T + VARIANCE.diag()
    marginals = q.diagonal()
    entropy = 0.5 * q.logdet()
    return (
        entropy - 0.5 * VARIANCE.log().sum(),
        0.5 * marginals.log().sum() - entropy,
        0.5 * (marginals - marginals.log() - 1).sum(),
    )


def test_linear_gaussian_terms_are_those_in_closed_form():
    mean, stddev, z = linear()
    recent = memory(mean, stddev, size=COUNT, sentences=COUNT)
    densities = Densities.of_recent(passes(mean, stddev, range(0, COUNT, 2)), z[::2], recent)
    information = densities.information()
    total = densities.information_by_dimension().sum(-1) - information
    prior = -0.5 * (z[::2].square() + math.log(2 * math.pi))
    dimensions = (densities.log_marginals() - prior).sum(-1)
    for found, exact in zip((information, total, dimensions), closed_forms(), strict=True):
        error = found.std() / math.sqrt(len(found))
        assert abs(found.mean() - exact) < 4 * error + 0.01
        assert exact > 0.1
        assert 4 * error < 0.6 * exact


def test_the_gradient_through_the_draws_alone_is_the_whole_one():
    mean, stddev = posteriors(count=12, latent=3)
    noise = torch.randn(
        16000, 12, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(4)
    )
    factors = torch.ones(2, 3, dtype=torch.float64, requires_grad=True)
    q = mean * factors[0], stddev * factors[1]
    forward, z = passes(*q, range(12)), q[0] + q[1] * noise
    through_draws = Densities.of_recent(forward, z, memory(mean, stddev, sentences=12))
    whole = Densities.of_batch(forward, z, 12)
    for name in ("information", "information_by_dimension"):
        some, all_ = (
            torch.autograd.grad(
                getattr(each, name)().sum() / z[..., 0].numel(), factors, None, True
            )[0]
            for each in (through_draws, whole)
        )
        torch.testing.assert_close(some, all_, rtol=0, atol=0.03)
        assert all_.abs().max() > 0.2
