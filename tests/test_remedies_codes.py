"""What the remedies promise whose latents are codes, beyond the laws of all."""

import math

import numpy as np
import pytest
import torch
from conftest import make, noise_of
from scipy import stats

from collapse_bench.errors import UserError
from collapse_bench.evaluation import wider
from collapse_bench.metrics import score
from collapse_bench.model.code_priors import NetworkPrior, code_prior
from collapse_bench.model.codes import AveragedCodebook, straight_through
from collapse_bench.model.distributions import base, draw, rate
from collapse_bench.model.distributions.codes import (
    Codebook,
    CodePrior,
    Codes,
    DrawnCodes,
    independent,
)
from collapse_bench.remedies.codes.binary_codes import BinaryCodes, Signs
from collapse_bench.remedies.codes.fsq import Grid
from collapse_bench.remedies.codes.gumbel_softmax import GumbelHead, GumbelSoftmax
from collapse_bench.remedies.codes.residual_vq import ResidualCodebooks

PLACES, CODES = 3, 4
KINDS = ("uniform", "independent", "autoregressive", "self_attention")


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator)


def all_codes():
    return torch.cartesian_prod(*[torch.arange(CODES)] * PLACES)


def prior_of(kind):
    torch.manual_seed(1)
    prior = code_prior(kind, PLACES, CODES)
    for parameter in prior.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    return prior


def over(prior, batch):
    """The distribution of a prior for the sentences of the tiny batch."""
    q = Codes(torch.zeros(len(batch.lengths), PLACES, dtype=torch.int64), normal(3, 4, 2))
    return prior(q, batch)


# --- posteriors and priors


def test_bits_of_all_draws_under_all_posteriors_are_what_each_is_under_each():
    vectors = torch.tensor([[-1.0], [1.0]]).expand(7, -1, -1)
    q = DrawnCodes(3 * normal(5, 7, 2), vectors)
    z = Codebook(vectors).vectors_of((normal(6, 7, seed=1) > 0).long())
    expected = [[Codebook(vectors).codes_of(each) for _ in range(5)] for each in z]
    shares = q.log_shares
    nats = [[sum(shares[b, t, code] for t, code in enumerate(codes)) for b, codes in enumerate(row)]
            for row in expected]  # fmt: skip
    torch.testing.assert_close(q.log_prob(z[:, None]), torch.tensor(nats))
    torch.testing.assert_close(q.log_prob(z[:5]), q.log_prob(z[:, None]).diagonal())


def test_draws_of_independent_places_do_not_hang_on_their_order():
    logits, vectors = normal(PLACES, CODES), normal(PLACES, CODES, 2, seed=1)
    place_by_place = independent(logits)
    noise = normal(50, PLACES, 2, seed=2)
    one = CodePrior(place_by_place, vectors, 50).from_noise(noise)
    other = CodePrior(lambda codes: place_by_place(codes), vectors, 50).from_noise(noise)
    assert torch.equal(one, other)
    assert len(one.unique(dim=0)) > 20


@pytest.mark.parametrize("kind", KINDS)
def test_a_prior_sums_to_one_over_all_codes(kind, batch):
    p = over(prior_of(kind), batch)
    nats = p.by_place(all_codes()).sum(1)
    assert nats.exp().sum().item() == pytest.approx(1, abs=1e-5)
    assert (nats.std() > 0.1).item() == (kind != "uniform")
    z = p.codebook.vectors_of(all_codes())
    torch.testing.assert_close(p.log_prob(z[:, None])[:, 0], nats)


@pytest.mark.parametrize("kind", ["autoregressive", "self_attention"])
def test_a_place_sees_the_codes_before_it_and_no_others(kind):
    prior = prior_of(kind)
    assert isinstance(prior, NetworkPrior)
    codes = torch.tensor([[0, 1, 2]])
    before = prior.conditional(codes)
    for place in range(PLACES):
        changed = codes.clone()
        changed[0, place] = 3
        after = prior.conditional(changed)
        torch.testing.assert_close(after[0, : place + 1], before[0, : place + 1])
        moved = (after != before)[0, place + 1 :].any(1)
        assert moved.all()


@pytest.mark.parametrize("kind", KINDS)
def test_draws_of_a_prior_are_as_frequent_as_it_says(kind, batch):
    own = over(prior_of(kind), batch)
    n = 20_000
    p = CodePrior(own.conditional, own.codebook.given, n)
    with torch.no_grad():
        drawn = p.codebook.codes_of(draw(p, normal(n, 3, 2, seed=2)))
        expected = n * p.by_place(all_codes()).sum(1).exp().double()
    counts = torch.bincount(drawn @ torch.tensor([16, 4, 1]), minlength=64)
    seen, meant = counts.double().numpy(), expected.numpy()
    order = np.argsort(meant)
    groups = np.array_split(order[np.cumsum(meant[order]) > 20], 8)  # each of some hundred draws
    seen, meant = (np.array([each[group].sum() for group in groups]) for each in (seen, meant))
    assert stats.chisquare(seen, meant * seen.sum() / meant.sum()).pvalue > 1e-3


def test_of_one_code_a_learned_prior_is_the_independent_one():
    for kind in KINDS[1:]:
        assert [p.requires_grad for p in code_prior(kind, 1, CODES).parameters()] == [True]


def test_a_prior_over_codes_says_that_it_needs_codes(batch):
    built = make("lstm")
    q = built.model.posterior(batch, noise_of(1))
    with pytest.raises(UserError, match="needs codes, got a Normal"):
        code_prior("uniform", PLACES, CODES)(q, batch)


# --- what is measured


def test_the_nll_is_that_of_an_enumeration(corpus, batch):
    chosen = {"vq_vae": {"codes": CODES, "length": PLACES, "stride": 2}}
    built = make("lstm", chosen, latent=6)
    built.steps(corpus, 5)
    model = wider(built.model).eval()
    with torch.no_grad():
        p = model.prior(model.posterior(batch, noise_of(1)), batch)
        points = p.codebook.vectors_of(all_codes())
        nats = torch.stack([model.log_likelihood(batch, z.expand(5, 3, 2)) for z in points])
        exact = -(nats + p.by_place(all_codes()).sum(1)[:, None]).logsumexp(0)
    arrays = built.evaluate(corpus.train, samples=512)
    scored = score(arrays)
    at = batch.index.numpy()
    weights = arrays["log_weights"][at].astype(np.float64)
    found = math.log(512) - np.logaddexp.reduce(weights, axis=1)
    np.testing.assert_allclose(found, exact, atol=0.1)
    assert scored.metrics["nll"] <= scored.metrics["negative_elbo"] + math.log(8 / 7)
    bound = arrays["distortion"] + arrays["kl"].sum(1)
    assert (bound[at] > exact.numpy() - 1e-3).all()


@pytest.mark.parametrize("name", ["vq_vae", "product_quantisation", "residual_vq", "fsq"])
def test_under_a_uniform_prior_the_rate_is_the_length_of_the_codes(name, corpus):
    settings = {
        "vq_vae": {"codes": 4, "length": 2},
        "product_quantisation": {"codes": 4, "places": 2},
        "residual_vq": {"codes": 4, "levels": 2},
        "fsq": {"levels": (2, 2, 1 + 1, 2)},
    }[name]
    built = make("lstm", {name: {**settings, "prior": "uniform"}})
    metrics = score(built.evaluate(corpus.valid)).metrics
    nats = 2 * math.log(16) if name == "fsq" else 2 * math.log(4)
    assert metrics["kl"] == pytest.approx(nats, rel=1e-5)


def test_information_is_the_entropy_of_whole_codes(corpus):
    built = make("lstm", {"binary_codes": {}}, latent=24)
    with torch.no_grad():
        built.model.head.encode.bias.zero_()
    wider(wider(built.model))
    arrays = built.evaluate(corpus.train)
    _, counts = np.unique(arrays["codes"], axis=0, return_counts=True)
    shares = counts / counts.sum()
    assert len(counts) > 10
    found = score(arrays).metrics["mutual_information"]
    assert found == pytest.approx(-(shares * np.log(shares)).sum(), abs=1e-4)


def test_the_rate_pulls_at_the_prior_and_not_at_the_encoder(batch):
    model = make("lstm", ["vq_vae"]).model
    model(batch, noise_of(1)).kl.sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in model.encoder.parameters())
    assert all(p.grad.any() for p in model.prior.parameters())


# --- the averaged codebook


def codebook_of(vectors, decay=0.9, restart=0.0):
    book = AveragedCodebook(1, len(vectors), vectors.shape[1], decay, restart)
    book.vectors.copy_(vectors[None])
    book.sums.copy_(vectors[None])
    return book


def test_vectors_become_the_means_of_what_is_given_their_code():
    book = codebook_of(torch.tensor([[0.0, 0.0], [10.0, 0.0]]))
    given = torch.tensor([[0.2, 1.0], [0.4, -0.5], [9.0, 0.5]])[:, None]
    for _ in range(300):
        q = book(given)
    assert q.codes.flatten().tolist() == [0, 0, 1]
    expected = torch.stack([given[:2, 0].mean(0), given[2, 0]])[None]
    torch.testing.assert_close(book.vectors, expected, rtol=1e-4, atol=1e-4)


def test_an_update_is_that_of_the_paper():
    before = torch.tensor([[0.0, 0.0], [10.0, 0.0]])
    book = codebook_of(before)
    given = torch.tensor([[1.0, 1.0], [3.0, 1.0]])[:, None]
    q = book(given)
    # N <- 0.9 + 0.1 n, m <- 0.9 e + 0.1 sum, from N = 1 and m = e.
    expected = torch.stack([0.1 * given[:, 0].sum(0) / 1.1, before[1]])
    torch.testing.assert_close(book.vectors[0], expected, rtol=1e-4, atol=1e-4)
    # The draw is of the vectors as they were.
    torch.testing.assert_close(q.codebook.vectors[0], before)
    assert q.log_prob(q.z).tolist() == [0, 0]


def test_unused_codes_begin_anew_at_vectors_of_the_batch():
    given = normal(6, 1, 2)
    book = AveragedCodebook(1, 4, 2, 0.5, 0.1)
    book(given)
    first = book.vectors[0]
    apart = torch.cdist(first, given[:, 0]).min(1)
    torch.testing.assert_close(apart.values, torch.zeros(4), atol=1e-4, rtol=0)
    assert len(set(apart.indices.tolist())) == 4
    with torch.no_grad():  # a code far from everything, which nothing is given
        book.vectors[0, 2] = 100.0
        book.uses[0, 2] = 0.0
    used = book.uses.clone()
    book(given)
    assert torch.cdist(book.vectors[0, 2:3], given[:, 0]).min() < 1e-3
    assert book.uses[0, 2] > 0.1 * used.mean()


def test_codes_are_not_put_anew_where_there_are_no_vectors_for_them():
    book = AveragedCodebook(1, 10, 2, 0.99, 0.1)
    before = book.vectors.clone()
    given = 5 + normal(3, 1, 2)
    book(given)
    moved = ((book.vectors - before).abs() > 1).any(-1)
    assert moved.sum() == 3


def test_a_codebook_for_each_place_learns_from_its_own():
    given = torch.stack([normal(40, 2), 100 + normal(40, 2)], 1)
    book = AveragedCodebook(2, 4, 2, 0.9, 0.1)
    for _ in range(100):
        q = book(given)
    assert (book.vectors[0].abs() < 10).all()
    assert (book.vectors[1] > 90).all()
    assert q.codes.shape == (40, 2)


# --- quantisers


QUANTISERS = {
    "averaged": (lambda: AveragedCodebook(1, 5, 2, 0.99, 0.1), (3, 2), 1),
    "signs": (Signs, (3, 1), 1),
    "residual": (lambda: ResidualCodebooks(3, 5, 2, 0.99, 0.1), (1, 2), 3),
}


@pytest.mark.parametrize("name", QUANTISERS)
def test_gradients_pass_straight_through(name):
    quantiser, (n, d), levels = QUANTISERS[name]
    torch.manual_seed(1)
    encoded = normal(6, n, d).requires_grad_()
    z = draw(quantiser()(encoded), normal(6, n * levels, d))
    slope = normal(6, n, d, seed=1)
    shown = z if levels == 1 else z.sum(1, keepdim=True)
    (slope * shown).sum().backward()
    torch.testing.assert_close(encoded.grad, slope)


@pytest.mark.parametrize("name", QUANTISERS)
def test_a_draw_is_a_vector_of_the_codebook_and_certain(name):
    quantiser, (n, d), _ = QUANTISERS[name]
    for training in (True, False):
        q = quantiser().train(training)(normal(6, n, d))
        vectors = q.codebook.vectors_of(q.codes)
        torch.testing.assert_close(q.z, vectors)
        assert training or torch.equal(q.z, vectors)
        assert q.log_prob(q.z).tolist() == [0] * 6


def test_a_grid_has_the_nearest_of_its_levels_in_every_dimension():
    levels = (3, 4)
    encoded = 3 * normal(500, 2, 2)
    q = Grid(levels)(encoded)
    for dimension, count in enumerate(levels):
        line = torch.linspace(-1, 1, count)
        bounded = encoded[..., dimension].tanh()
        nearest = line[(bounded[..., None] - line).abs().argmin(-1)]
        torch.testing.assert_close(q.z[..., dimension], nearest)
    assert q.codes.unique().tolist() == list(range(12))
    assert torch.equal(Codebook(q.codebook.given).codes_of(q.z.detach()), q.codes)


def test_each_level_quantises_what_those_before_have_left():
    book = ResidualCodebooks(3, 5, 2, 0.99, 0.1).eval()
    for level in book.levels:
        torch.nn.init.normal_(level.vectors)
    encoded = normal(6, 1, 2)
    q = book(encoded)
    left = encoded[:, 0]
    for level, codes in zip(book.levels, q.codes.T, strict=True):
        nearest = torch.cdist(left, level.vectors[0]).argmin(1)
        assert torch.equal(nearest, codes)
        left = left - level.vectors[0, codes]
    torch.testing.assert_close(q.z.sum(1), encoded[:, 0] - left)


def test_a_top_code_is_shown_from_the_beginning_and_the_others_along(batch):
    model = make("lstm", ["vq_vae_2"]).model.eval()
    z = normal(5, 4, 2)
    before = model.decoder(batch, z)
    for place, token in enumerate([0, 0, 3, 6]):
        changed = z.clone()
        changed[:, place] += 1
        after = model.decoder(batch, changed)
        assert torch.equal(after[:, :token], before[:, :token])
        assert (after[:, token] != before[:, token]).any(1).all()


def test_bottom_codes_are_told_the_top_one():
    torch.manual_seed(1)
    head = make("lstm", ["vq_vae_2"]).model.head.eval()
    features = normal(6, 3, 15)
    q = head(features, None)
    assert q.codes.shape == (6, 4)
    with torch.no_grad():
        head.top.quantiser.vectors.add_(50)
    told = head(features, None)
    assert torch.equal(told.encoded[:, 0], q.encoded[:, 0])
    assert (told.encoded[:, 1:] != q.encoded[:, 1:]).any(-1).all()


def test_the_commitment_is_the_paper_s(batch):
    built = make("lstm", {"vq_vae": {"codes": 4, "length": 2, "commitment": 0.5}})
    forward = built.model(batch, noise_of(1), objective=built.remedy.objective)
    q = base(forward.q)
    off = (q.encoded - q.codebook.vectors_of(q.codes)).square().sum(2).mean(1)
    torch.testing.assert_close(forward.extra["commitment"], 0.5 * off)
    # Its gradient is the encoder's: 2 (encoded - vector) / n.
    [gradient] = torch.autograd.grad(forward.extra["commitment"].sum(), q.encoded)
    torch.testing.assert_close(gradient, 0.5 * 2 * (q.encoded - q.z) / 2)


def test_entropies_of_bits(batch):
    built = make("lstm", {"binary_codes": {"commitment": 0.0, "entropy": 1.0}})
    forward = built.model(batch, noise_of(1))

    def term(encoded):
        vectors = Signs().vectors.expand(8, -1, -1)
        q = straight_through((encoded > 0)[..., 0].long(), vectors, encoded, True)
        object.__setattr__(forward, "q", q)
        return BinaryCodes(commitment=0.0, entropy=1.0).objective(forward).extra["entropy"]

    half = torch.tensor([1.0, -1.0]).repeat(4)[:, None, None].expand(8, 8, 1)
    # Sure and as often the one as the other; sure and always the same; never sure.
    assert term(30 * half) == pytest.approx([-8 * math.log(2)] * 8, rel=1e-5)
    assert term(30 * torch.ones(8, 8, 1)) == pytest.approx([0.0] * 8, abs=1e-5)
    assert term(torch.zeros(8, 8, 1)) == pytest.approx([0.0] * 8, abs=1e-5)


# --- codes that are drawn


def drawn_codes(sentences=5, seed=0):
    return DrawnCodes(2 * normal(sentences, 3, 4, seed=seed), normal(3, 4, 2, seed=9))


def test_the_rate_of_drawn_codes_is_that_of_an_enumeration():
    q = drawn_codes()
    p = CodePrior(independent(normal(3, 4, seed=5)), q.codebook.given, 5)
    z = q.codebook.vectors_of(all_codes())
    log_q, log_p = q.log_prob(z[:, None]), p.log_prob(z[:, None])
    assert log_q.exp().sum(0) == pytest.approx(np.ones(5), abs=1e-5)
    expected = (log_q.exp() * (log_q - log_p)).sum(0)
    closed = rate(q, p, draw(q, normal(5, 3, 2)))
    assert closed.shape == (5, 3)
    torch.testing.assert_close(closed.sum(1), expected)
    torch.testing.assert_close(
        q.mean, torch.einsum("mb,mnd->bnd", log_q.exp(), z), rtol=1e-4, atol=1e-5
    )


def test_the_rate_of_drawn_codes_under_a_prior_of_dependent_places_is_of_the_draw(batch):
    q, p = drawn_codes(), over(prior_of("autoregressive"), batch)
    p = CodePrior(p.conditional, q.codebook.given, 5)
    z = draw(q, normal(5, 3, 2))
    found = rate(q, p, z)
    assert found.shape == (5, 1)
    torch.testing.assert_close(found[:, 0], q.log_prob(z) - p.log_prob(z))


def test_codes_are_drawn_as_often_as_their_posterior_says():
    q = drawn_codes(1)
    n = 20_000
    many = DrawnCodes(q.log_shares.expand(n, -1, -1), q.codebook.given)
    codes = q.codebook.codes_of(draw(many, normal(n, 3, 2, seed=3)))
    for place in range(3):
        counts = torch.bincount(codes[:, place], minlength=4)
        expected = n * q.log_shares[0, place].exp().double()
        assert stats.chisquare(counts, expected * n / expected.sum()).pvalue > 1e-3


def test_a_code_of_no_probability_costs_nothing():
    logits = torch.tensor([[[0.0, -torch.inf]]]).requires_grad_()
    q = DrawnCodes(logits, normal(1, 2, 2))
    p = CodePrior(independent(torch.zeros(1, 2)), q.codebook.given, 1)
    closed = rate(q, p, q.mean)
    assert closed.item() == pytest.approx(math.log(2))


def test_relaxed_draws_become_those_of_the_posterior_as_the_temperature_falls():
    torch.manual_seed(1)
    head = GumbelHead(4, (1, 3, 2), hard=False)
    head.temperature.fill_(0.01)
    logits = torch.tensor([0.2, 0.5, 0.3]).log()
    z = head.relaxed(logits.expand(20_000, 1, 3))
    vectors = head.vectors.detach()
    codes = Codebook(vectors).codes_of(z.detach())
    close = (z - Codebook(vectors).vectors_of(codes)).abs().amax((1, 2)) < 0.05
    assert close.float().mean() > 0.95
    counts = torch.bincount(codes[:, 0], minlength=3)
    assert stats.chisquare(counts, [4000, 10_000, 6000]).pvalue > 1e-3


def test_hard_draws_are_vectors_with_the_gradient_of_averages():
    head = GumbelHead(4, (2, 3, 2), hard=True)
    logits = normal(6, 2, 3).requires_grad_()
    z = head.relaxed(logits)
    vectors = Codebook(head.vectors.detach())
    torch.testing.assert_close(z, vectors.vectors_of(vectors.codes_of(z.detach())))
    z.sum().backward()
    assert logits.grad.abs().sum() > 0


def test_the_temperature_falls_by_equal_factors_and_stays():
    remedy = GumbelSoftmax(start=1.0, end=0.25, anneal=0.5)
    assert [remedy.temperature(share) for share in (0, 0.25, 0.5, 1)] == [1, 0.5, 0.25, 0.25]
    assert GumbelSoftmax(anneal=0.0).temperature(0.0) == 0.5


def test_a_step_sets_the_temperature_and_evaluation_draws_vectors(corpus, batch):
    built = make("lstm", {"gumbel_softmax": {"codes": 4, "places": 2, "anneal": 0.01}})
    built.steps(corpus, 3)
    assert 0.5 <= built.model.head.temperature.item() < 1
    arrays = built.evaluate(corpus.valid)
    vectors = Codebook(built.model.head.vectors.detach())
    codes = torch.from_numpy(arrays["codes"])
    z = torch.from_numpy(arrays["posterior_sample"]).view(-1, 2, 4)
    assert torch.equal(vectors.vectors_of(codes), z)
    metrics = score(arrays).metrics
    assert 0 <= metrics["kl"] <= 2 * math.log(4)
    used = [len(np.unique(place)) for place in arrays["codes"].T]
    assert metrics["dead_codes"] == 4 - np.mean(used)
    assert 1 <= metrics["code_perplexity"] <= np.mean(used)


# --- what is refused


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("vq_vae", {"codes": 1}, "codes must be a whole number at least 2"),
        ("vq_vae", {"codes": 100, "length": 2}, "at most the number of training sentences"),
        ("product_quantisation", {"codes": 100, "places": 2}, "at most the number of training"),
        ("residual_vq", {"codes": 100}, "at most the number of training sentences"),
        ("gumbel_softmax", {"codes": 100, "places": 2}, "at most the number of training sentences"),
        ("vq_vae_2", {"codes": 100, "length": 3}, "at most the number of training sentences"),
        ("gumbel_softmax", {"codes": 1}, "codes must be a whole number at least 2"),
        ("product_quantisation", {"codes": 1}, "codes must be a whole number at least 2"),
        ("residual_vq", {"codes": 1}, "codes must be a whole number at least 2"),
        ("vq_vae_2", {"codes": 1}, "codes must be a whole number at least 2"),
        ("vq_vae", {"codes": 4, "length": 3}, "length must divide the latent size"),
        ("gumbel_softmax", {"places": 5}, "places must divide the latent size"),
        ("fsq", {"levels": (5, 5, 5)}, "number of levels must divide the latent size"),
        ("fsq", {"levels": (5, 1)}, "levels must be numbers from 2"),
        ("fsq", {"levels": ()}, "levels must be numbers from 2"),
        ("fsq", {"levels": (9,) * 8}, "whose product is at most 65536"),
    ],
)
def test_settings_that_give_no_codes_are_refused(name, settings, message):
    with pytest.raises(UserError, match=message):
        make("lstm", {name: settings})
