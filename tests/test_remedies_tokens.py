"""What the remedies promise that give every token a latent, beyond the laws of all."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import make, noise_of
from torch.distributions import Normal

from collapse_bench.corpus import Split
from collapse_bench.corpus.batches import collate
from collapse_bench.errors import UserError
from collapse_bench.metrics import score
from collapse_bench.model.distributions import rate
from collapse_bench.model.innovations import Innovations
from collapse_bench.model.sequence import StridedStates, TokenDecoder, exists
from collapse_bench.remedies.codes.free_transformer import BitsHead, FreeTransformer, OneOfAll

BOTH = pytest.mark.parametrize("name", ["free_transformer", "token_latents"])


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def by_token(built, kl):
    """Rates [N, K] of each of the longest sentence's tokens, [N, n]."""
    return kl.reshape(len(kl), built.model.dimensions.longest, -1).sum(-1)


@BOTH
def test_there_is_a_rate_at_every_token_and_none_past_the_end(name, architecture, corpus):
    built = make(architecture, [name])
    built.steps(corpus, 3)
    arrays = built.evaluate(corpus.train)
    rates = by_token(built, arrays["kl"])
    there = np.arange(rates.shape[1]) < arrays["tokens"][:, None]
    assert (rates[there] > 0).all()
    assert (rates[~there] == 0).all()


@BOTH
def test_a_token_is_shown_its_latent_and_those_before_it(name, architecture, batch):
    model = make(architecture, [name]).model.eval()
    with torch.no_grad():
        z = model(batch, noise_of(1)).z
        changed = z.reshape(len(z), model.dimensions.longest, -1).clone()
        changed[:, 3] = -changed[:, 3]
        one, other = (
            model.log_likelihood_by_position(batch, each) for each in (z, changed.view_as(z))
        )
    differ = (one - other).abs().sum(0) > 0
    assert differ.tolist()[:4] == [False, False, False, True]


@BOTH
def test_nothing_but_what_a_batch_has_tokens_for_is_shown(name, batch):
    model = make("lstm", [name]).model.eval()
    sizes = model.dimensions
    with torch.no_grad():
        z = model(batch, noise_of(1)).z
        parts = z.reshape(len(z), sizes.longest, -1)
        past = torch.arange(sizes.longest)[:, None] >= batch.lengths[:, None, None]
        other = torch.where(past, -parts, parts).view_as(z)
        torch.testing.assert_close(
            model.log_likelihood(batch, z), model.log_likelihood(batch, other), rtol=0, atol=0
        )


def test_a_batch_with_more_padding_than_the_longest_sentence_is_decoded():
    class Echo(torch.nn.Module):
        def forward(self, batch, z):
            return z

    class Tokens:
        inputs = torch.zeros(2, 7)

    z = torch.ones(2, 5, 3)
    shown = TokenDecoder(Echo(), 3, torch.nn.Identity())(Tokens(), z)
    assert shown.shape == (2, 7, 3)
    assert torch.equal(shown[:, :5], z)


def test_which_tokens_exist_is_told_by_the_pool(batch):
    states = normal(*batch.mask.shape, 4)
    longest = batch.mask.shape[1] + 2
    there = exists(StridedStates(longest, 1)(states, batch.mask))[..., 0]
    assert torch.equal(there, torch.arange(longest) < batch.lengths[:, None])


# --- bits


def sum_over_all(bits, vectors):
    """The vector of bits -1 or 1 as a sum over all values, by the product of (1 +- bit) / 2."""
    values = torch.arange(len(vectors))
    total = 0
    for value in values.tolist():
        share = 1
        for place in range(bits.shape[-1]):
            sign = 1 if value >> place & 1 else -1
            share = share * (1 + sign * bits[..., place]) / 2
        total = total + share[..., None] * vectors[value]
    return total


def all_bits(count):
    return torch.cartesian_prod(*[torch.tensor([-1.0, 1.0]).double()] * count).reshape(-1, count)


def test_a_vector_and_its_gradients_are_those_of_the_sum_over_all_values():
    shown = OneOfAll(3, 5).double()
    found = []
    for of in (shown, lambda bits: sum_over_all(bits, shown.vectors)):
        bits = all_bits(3).requires_grad_()
        vectors = of(bits)
        weight = normal(8, 5, seed=2)
        found.append(
            (vectors, *torch.autograd.grad((weight * vectors).sum(), [bits, shown.vectors]))
        )
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    assert len(found[0][0].unique(dim=0)) == 8
    with torch.no_grad():
        torch.testing.assert_close(shown(all_bits(3)), found[0][0])


def test_the_gradient_is_on_average_that_of_the_paper():
    """Of a loss that is linear in the one-of-all vector: there it is that of the probabilities of
    all values (Fleuret 2025, section 3.4)."""
    weight = normal(8, seed=3)
    logit = normal(3, seed=4).requires_grad_()
    odds = torch.stack([-logit, logit], -1).sigmoid()
    shares = []
    for value in range(8):
        each = [odds[place, value >> place & 1] for place in range(3)]
        shares.append(torch.stack(each).prod())
    [expected] = torch.autograd.grad((torch.stack(shares) * weight).sum(), logit)
    shown = OneOfAll(3, 1).double()
    with torch.no_grad():
        shown.vectors.copy_(weight[:, None])
    total = torch.zeros(3).double()
    for drawn in all_bits(3):
        logit = logit.detach().requires_grad_()
        mean = torch.tanh(logit / 2)
        probability = ((1 + drawn * mean) / 2).prod().detach()
        [slope] = torch.autograd.grad(shown(drawn + mean - mean.detach()).sum(), logit)
        total = total + probability * slope
    torch.testing.assert_close(total, expected, rtol=1e-10, atol=1e-12)


def test_bits_are_drawn_with_their_odds_in_training_and_in_evaluation():
    torch.manual_seed(1)
    head = BitsHead(4, 3, 2)
    features = normal(1, 3, 4).float()
    features[:, 2] = 0
    many = features.expand(20_000, -1, -1)
    with torch.no_grad():
        q = head(many, None)
        trained = q.from_noise(torch.zeros(20_000, 6, 1))
        q = head.eval()(many, None)
        evaluated = q.from_noise(torch.randn(20_000, 6, 1))
    expected = q.log_shares.exp()[0, :, 1]
    assert torch.equal(expected[4:], torch.tensor([0.5, 0.5]))
    for drawn in (trained, evaluated):
        assert set(drawn.unique().tolist()) == {-1.0, 1.0}
        ones = (drawn[..., 0] > 0).float()
        error = (expected * (1 - expected) / len(many)).sqrt()
        assert ((ones.mean(0) - expected).abs() < 4.5 * error).all()


def test_the_nll_of_a_short_sentence_is_the_sum_over_all_its_bits(corpus):
    """Two bits at each of three tokens: 64 values."""
    built = make("lstm", {"free_transformer": {"bits": 2}})
    built.steps(corpus, 5)
    model = built.model.eval()
    words = corpus.train.sentence(0)[:2]
    split = Split(np.tile(words, 40), np.arange(0, 81, 2))
    longest = model.dimensions.longest
    z = torch.ones(64, longest * 2, 1)
    z[:, :6, 0] = all_bits(6).float()
    batch = collate(split, np.zeros(64, dtype=np.int64))
    assert batch.lengths[0] == 3
    with torch.no_grad():
        p = model.prior(model.posterior(batch, noise_of(1)), batch)
        torch.testing.assert_close(p.log_prob(z), torch.full((64,), -2 * longest * math.log(2)))
        nats = model.log_likelihood(batch, z).double()
    exact = math.log(64) - float(nats.logsumexp(0))
    arrays = built.evaluate(split, samples=400)
    bound = (arrays["distortion"] + arrays["kl"].sum(1)).mean()
    # The sentence comes forty times, each with draws of its own.
    log_weights = torch.from_numpy(arrays["log_weights"]).double()
    error = (math.log(400) - log_weights.logsumexp(1)).std() / math.sqrt(40)
    assert error < 0.01
    assert score(arrays).metrics["nll"] == pytest.approx(exact, abs=4.5 * float(error))
    assert bound > exact - 1e-3


def test_only_what_a_token_has_beyond_kappa_counts(batch):
    model = make("lstm", {"free_transformer": {"bits": 2}}).model.eval()
    forward = model(batch, noise_of(1))
    rates = [[sum(row[i : i + 2]) for i in range(0, len(row), 2)] for row in forward.kl.tolist()]
    kappa = float(np.median([rate for row in rates for rate in row if rate]))
    expected = [[max(0.0, rate - kappa) for rate in row] for row in rates]
    assert 10 < np.count_nonzero(expected) < np.count_nonzero(rates) - 10
    kl = FreeTransformer(bits=2, kappa=kappa).objective(forward).kl
    torch.testing.assert_close(kl, torch.tensor(expected), rtol=1e-4, atol=1e-7)


def test_a_rate_that_has_been_summed_is_told_to_the_user(batch):
    model = make("lstm", ["free_transformer"]).model.eval()
    forward = model(batch, noise_of(1))
    whole = replace(forward, kl=forward.kl.sum(1, keepdim=True))
    with pytest.raises(UserError, match="free_transformer: needs the rate of every bit"):
        FreeTransformer(bits=4).objective(whole)


# --- an autoregressive normal by its innovations


def rough_innovations(width=2, seed=0):
    network = Innovations(width).double()
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.7, generator=generator)
    return network


def test_a_vector_depends_on_the_innovations_up_to_its_own():
    network = rough_innovations()
    jacobian = torch.autograd.functional.jacobian(lambda e: network(e[None])[0], normal(4, 2))
    by_step = jacobian.abs().sum((1, 3))
    assert torch.equal(by_step > 0, torch.ones(4, 4).tril() > 0)


def test_the_innovations_are_an_autoregressive_normal():
    """The density of z by the change of variables is the product of N(z_t; m_t, s_t^2) with m_t and
    s_t told by z_<t alone."""
    network, e = rough_innovations(), normal(1, 4, 2, seed=5)
    z = network(e)
    jacobian = torch.autograd.functional.jacobian(lambda e: network(e).flatten(), e)
    expected = Normal(0.0, 1.0).log_prob(e).sum() - jacobian.view(8, 8).det().abs().log()
    nats = 0.0
    for t in range(4):
        # As e_t = 0 and e_t = 1 give m_t and m_t + s_t, whatever led to z_<t.
        steps = [network(torch.cat([e[:, :t], torch.full((1, 1, 2), x).double()], 1))[:, t]
                 for x in (0.0, 1.0)]  # fmt: skip
        nats += Normal(steps[0], steps[1] - steps[0]).log_prob(z[:, t]).sum()
    torch.testing.assert_close(nats, expected, rtol=1e-10, atol=1e-10)


def test_without_weights_the_innovations_are_the_latents_themselves():
    network = Innovations(3)
    for parameter in network.parameters():
        torch.nn.init.zeros_(parameter)
    e = torch.randn(2, 4, 3)
    assert torch.equal(network(e), e)


@pytest.mark.parametrize("prior", ["lstm", "standard"])
def test_the_rate_is_the_closed_one_to_the_standard_normal(prior, batch):
    model = make("lstm", {"token_latents": {"prior": prior, "channels": 3}}).model.eval()
    forward = model(batch, noise_of(1))
    mean, scale = forward.q.mean, forward.q.stddev
    expected = 0.5 * (mean.square() + scale.square() - 1) - scale.log()
    torch.testing.assert_close(forward.kl, expected.flatten(1), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(rate(forward.q, forward.p, forward.z), forward.kl)
    assert expected.shape[1:] == (model.dimensions.longest, 3)


def test_remedies_that_come_after_are_told_how_large_the_latent_is():
    plain, built = make("lstm").model, make("lstm", ["token_latents", "bn_vae", "skip_vae"]).model
    longest = plain.dimensions.longest
    assert built.dimensions == replace(plain.dimensions, latent=2 * longest)  # `small` has 2
    assert make("lstm", ["free_transformer"]).model.dimensions.latent == 4 * longest  # and 4
    assert make("lstm", ["delta_vae", "bn_vae"]).model.dimensions == plain.dimensions
