"""Any model with three methods: its sentences, what it may return, and how it is evaluated."""

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import make, noise_of
from torch import Tensor, nn
from torch.distributions import Independent, MultivariateNormal, Normal

from collapse_bench.errors import UserError
from collapse_bench.evaluation import evaluate
from collapse_bench.latent_model import Rows, Scored
from collapse_bench.metrics import score
from collapse_bench.metrics.likelihood import importance_weighted_nll
from collapse_bench.model import diagonal_normal
from collapse_bench.model.distributions.autoregressive import AutoregressiveNormal
from collapse_bench.truth.linear import linear_vae

SENTENCES = [[1, 2], [3, 4], [5, 6], [7, 8], [9, 10]]


def listed(values):
    """The rows of any kind, as lists."""
    return [list(map(int, row)) for row in values]


# What a model may return


@dataclass(frozen=True)
class Model:
    """z ~ N(0, I) of D = 3 dimensions, or a sequence of n = 2; every method may be put wrong."""

    shape: tuple[int, ...] = (3,)
    posterior_is: object = None
    prior_is: object = None
    log_likelihood_is: object = None

    def posterior(self, sentences):
        mean = sentences.double().sum(1).reshape(-1, *[1] * len(self.shape)).expand(-1, *self.shape)
        q = Normal(0.1 * mean, torch.full_like(mean, 0.5))
        return q if self.posterior_is is None else self.posterior_is(q)

    def prior(self, sentences):
        zero = torch.zeros(len(sentences), *self.shape, dtype=torch.float64)
        p = Independent(Normal(zero, zero + 1), len(self.shape))
        return p if self.prior_is is None else self.prior_is(p)

    def log_likelihood(self, sentences, z):
        nats = -(0.5 * (z - 0.2) ** 2).flatten(1)
        return nats if self.log_likelihood_is is None else self.log_likelihood_is(nats)


ROWS = Rows.of(torch.tensor(SENTENCES))


def close(found, expected, tolerance):
    """Numbers agree as far as that, words to the letter."""
    if expected.dtype.kind == "U":
        np.testing.assert_array_equal(found, expected)
    else:
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def all_of(model, rows=ROWS):
    return evaluate(Scored(model), rows, samples=8, batch=3, seed=1)


@pytest.mark.parametrize("shape", [(3,), (1,), (2, 3)])
def test_a_normal_and_an_independent_normal_are_one_event_a_sentence(shape):
    plain = Model(shape)
    expected = all_of(plain)
    assert expected["posterior_mean"].shape == expected["kl"].shape == (5, math.prod(shape))
    for events in range(1, len(shape) + 1):
        if events == len(shape):
            wrapped = replace(plain, posterior_is=lambda q, n=events: Independent(q, n))
            for name, array in all_of(wrapped).items():
                np.testing.assert_array_equal(array, expected[name])
    q = Scored(plain).posterior(ROWS, torch.randn)
    assert (q.batch_shape, q.event_shape) == ((5,), shape)
    bare = replace(plain, prior_is=lambda p: p.base_dist)
    for name, array in all_of(bare).items():
        np.testing.assert_array_equal(array, expected[name])


def test_a_log_likelihood_is_by_sentence_or_by_position():
    by_position, summed = Model(), Model(log_likelihood_is=lambda nats: nats.sum(1))
    for name, array in all_of(by_position).items():
        close(all_of(summed)[name], array, 1e-12)
    z = torch.ones(5, 3, dtype=torch.float64)
    assert Scored(by_position).log_likelihood_by_position(ROWS, z).shape == (5, 3)
    assert Scored(summed).log_likelihood_by_position(ROWS, z) is None
    assert torch.equal(
        Scored(summed).log_likelihood(ROWS, z), Scored(by_position).log_likelihood(ROWS, z)
    )


@pytest.mark.parametrize(
    ("method", "wrong"),
    [
        ("posterior", lambda q: (q.mean, q.stddev)),
        ("posterior", lambda q: q.mean),
        ("posterior", lambda q: q.mean.numpy()),
        ("posterior", lambda q: None),
        ("posterior", lambda q: Normal(q.mean[:-1], q.stddev[:-1])),
        ("posterior", lambda q: Normal(q.mean.sum(), q.stddev.sum())),
        ("posterior", lambda q: Normal(q.mean[:, 0], q.stddev[:, 0])),
        ("posterior", lambda q: Independent(q, 2)),
        ("posterior", lambda q: Independent(Normal(q.mean[:, None], q.stddev[:, None]), 1)),
        ("prior", lambda p: (p.mean, p.stddev)),
        ("prior", lambda p: p.mean),
        ("prior", lambda p: None),
        ("prior", lambda p: Normal(torch.zeros(5, 2), torch.ones(5, 2))),
        ("prior", lambda p: Normal(torch.zeros(3), torch.ones(3))),
        ("prior", lambda p: Normal(torch.tensor(0.0), torch.tensor(1.0))),
        ("prior", lambda p: Independent(Normal(p.mean[:2], p.stddev[:2]), 1)),
        ("log_likelihood", lambda nats: nats.sum(1).numpy()),
        ("log_likelihood", lambda nats: nats.sum()),
        ("log_likelihood", lambda nats: nats.sum(1).mean().item()),
        ("log_likelihood", lambda nats: nats[:-1].sum(1)),
        ("log_likelihood", lambda nats: nats[:, :, None]),
        ("log_likelihood", lambda nats: nats.T[:2]),
        ("log_likelihood", lambda nats: None),
    ],
)
def test_what_breaks_the_protocol_is_told_with_the_method(method, wrong):
    with pytest.raises(UserError, match=rf"^(the )?{method}\b"):
        all_of(Model(**{f"{method}_is": wrong}))


def test_a_prior_has_to_turn_noise_into_draws():
    def correlated(p):
        return MultivariateNormal(torch.zeros(len(p.mean), 3), torch.eye(3))

    with pytest.raises(UserError, match=r"^prior: .*MultivariateNormal.* from_noise"):
        all_of(Model(prior_is=correlated))

    sequence = Model((4, 2), prior_is=lambda p: AutoregressiveNormal(p.mean.shape, 0.5))
    score(all_of(sequence))


def test_a_model_without_a_method_is_told_so():
    class NoPrior:
        posterior = Model.posterior
        log_likelihood = Model.log_likelihood
        shape = (3,)
        posterior_is = log_likelihood_is = None

    with pytest.raises((UserError, AttributeError), match=r"\bprior\b"):
        all_of(NoPrior())


@pytest.mark.parametrize("kind", [torch.tensor, np.array, list])
def test_a_model_is_handed_rows_of_the_kind_that_came_in(kind):
    seen = set()

    class Watching(Model):
        def posterior(self, sentences):
            seen.add(type(sentences))
            return super().posterior(torch.as_tensor(np.asarray(sentences)))

        def log_likelihood(self, sentences, z):
            seen.add(type(sentences))
            assert len(sentences) == len(z)
            return super().log_likelihood(sentences, z)

    arrays = all_of(Watching(), Rows.of(kind(SENTENCES)))
    assert seen == {type(kind(SENTENCES))}
    for name, array in all_of(Model()).items():
        np.testing.assert_array_equal(arrays[name], array)


class Module(nn.Module):
    """A model with dropout and parameters."""

    def __init__(self):
        super().__init__()
        self.mean, self.dropout = nn.Linear(2, 3), nn.Dropout(0.5)

    def posterior(self, sentences):
        mean = self.dropout(self.mean(sentences.float()))
        return diagonal_normal(mean, torch.ones_like(mean))

    def prior(self, sentences):
        zero = torch.zeros(len(sentences), 3)
        return diagonal_normal(zero, zero + 1)

    def log_likelihood(self, sentences, z):
        return -(z**2)


def test_dropout_is_off_and_the_model_is_left_as_it_was():
    model = Module()
    model.mean.eval()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    one, other = all_of(model), all_of(model)
    assert np.array_equal(one["posterior_mean"], other["posterior_mean"])
    with torch.no_grad():
        expected = model.mean(torch.tensor(SENTENCES).float()).numpy()
    np.testing.assert_allclose(one["posterior_mean"], expected, rtol=1e-5)
    assert model.training
    assert model.dropout.training
    assert not model.mean.training
    assert all(map(torch.equal, before, model.parameters()))
    assert all(parameter.grad is None for parameter in model.parameters())


# Evaluation


EIGENVALUES = torch.tensor([6.0, 3.0, 2.0, 1.0, 1.0, 1.0], dtype=torch.float64)


def single(model):
    """The same linear VAE in float32."""

    class Single:
        def posterior(self, sentences):
            q = model.posterior(sentences.double())
            return diagonal_normal(q.mean.float(), q.stddev.float())

        def prior(self, sentences):
            zero = torch.zeros(len(sentences), 3)
            return diagonal_normal(zero, zero + 1)

        def log_likelihood(self, sentences, z):
            return model.log_likelihood(sentences, z.double()).float()

    return Single()


@pytest.mark.parametrize(("precision", "tolerance"), [("float64", 1e-12), ("float32", 1e-6)])
@pytest.mark.parametrize("standard_error", [0.0, 0.05])
def test_the_batch_changes_nothing(precision, tolerance, standard_error):
    model = linear_vae(EIGENVALUES, 3)
    model = replace(model, gain=0.8 * model.gain, shift=model.shift + 0.3)
    rows = Rows.of(model.draw(70, torch.Generator().manual_seed(1)), list(range(1, 36)) * 2)
    scored = Scored(model if precision == "float64" else single(model))
    one, many = (
        evaluate(scored, rows, samples=16, batch=size, seed=1, standard_error=standard_error)
        for size in (1, 64)
    )
    assert one.keys() == many.keys()
    assert one["kl"].dtype == one["log_weights"].dtype == np.dtype(precision)
    for name in one:
        close(one[name], many[name], tolerance)


def test_more_draws_lower_the_nll_to_the_evidence():
    model = linear_vae(EIGENVALUES, 3)
    far = replace(model, gain=0.7 * model.gain, shift=model.shift + 0.3)
    sentences = model.draw(1500, torch.Generator().manual_seed(1))
    exact = far.exact_nll(sentences).numpy()
    gaps = []
    for samples in (2, 16, 128):
        arrays = evaluate(Scored(far), Rows.of(sentences), samples=samples, batch=1500, seed=1)
        gaps.append(importance_weighted_nll(arrays["log_weights"]) - exact)
        score(arrays)
    for wide, tight in pairwise(gaps):
        difference = wide - tight
        assert difference.mean() > 4 * difference.std() / math.sqrt(1500)
    assert abs(gaps[-1].mean()) < 0.05


@pytest.mark.parametrize("lengths", [[1, 2, 3, 3, 3], [3, 3, 3, 3, 2]])
def test_nats_past_the_end_of_a_sentence_are_refused(lengths):
    rows = Rows.of(torch.tensor(SENTENCES), lengths)
    with pytest.raises(UserError, match=r"^log_likelihood: must be zero past a sentence's end"):
        all_of(Model(), rows)
    of_positions = (torch.arange(3) < rows.lengths[:, None]).double()

    class Masked(Model):
        def log_likelihood(self, sentences, z):
            which = [SENTENCES.index(row) for row in listed(sentences)]
            return super().log_likelihood(sentences, z) * of_positions[which]

    all_of(Masked(), rows)
    # Of sentences without lengths no end is known.
    all_of(Model())


def test_lengths_say_which_sentences_may_be_compared():
    asked = []

    class Telling(Model):
        def log_likelihood(self, sentences, z):
            asked.append((SENTENCES.index(listed(sentences)[0]), tuple(z[0].tolist())))
            return super().log_likelihood(sentences, z).sum(1)

    rows = Rows.of(torch.tensor(SENTENCES), [2, 1, 2, 1, 2])
    arrays = evaluate(Scored(Telling()), rows, samples=1, batch=1, seed=1)
    whose = {tuple(z): i for i, z in enumerate(arrays["posterior_sample"].tolist())}
    # What comes last: every sentence with a z of its own length, then with one of any.
    last = [(sentence, whose[z]) for sentence, z in asked[-10:]]
    of_length, of_any = last[::2], last[1::2]
    for pairs in (of_length, of_any):
        assert sorted(sentence for sentence, _ in pairs) == list(range(5))
        assert sorted(other for _, other in pairs) == list(range(5))
        assert all(sentence != other for sentence, other in pairs)
    assert all(rows.lengths[sentence] == rows.lengths[other] for sentence, other in of_length)
    assert any(rows.lengths[sentence] != rows.lengths[other] for sentence, other in of_any)


def test_a_posterior_that_is_no_diagonal_normal_is_refused():
    def full(q):
        return MultivariateNormal(q.mean, torch.eye(3, dtype=torch.float64))

    with pytest.raises(UserError, match="MultivariateNormal"):
        all_of(Model(posterior_is=full))


# By position


def test_nats_by_position_add_up_and_are_zero_past_the_end(architecture, batch):
    for remedies in ((), ("delta_vae",), ("limited_receptive_field",)):
        model = make(architecture, remedies).model.eval()
        with torch.no_grad():
            z = model.posterior(batch, noise_of(1)).sample()
            by_position = model.log_likelihood_by_position(batch, z)
            whole: Tensor = model.log_likelihood(batch, z)
        assert by_position.shape == batch.mask.shape
        torch.testing.assert_close(by_position.sum(1), whole, rtol=1e-5, atol=1e-4)
        assert (by_position[~batch.mask] == 0).all()
        assert (by_position[batch.mask] < 0).all()
