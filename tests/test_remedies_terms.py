"""What the remedies promise that add terms, twins or pools, beyond the laws of all."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from conftest import make, noise_of, other_word
from test_training import RefiningHead
from torch.nn import functional as F

from collapse_bench.errors import UserError
from collapse_bench.model import SLOTS, diagonal_normal
from collapse_bench.remedies.encoder.pooling import Pooling
from collapse_bench.remedies.objective.contrastive_critic import ContrastiveCritic
from collapse_bench.remedies.objective.cosine_features import CosineFeatures
from collapse_bench.remedies.objective.coupled_vae import SCALES, CoupledVae
from collapse_bench.remedies.objective.fraternal_dropout import FraternalDropout
from collapse_bench.remedies.objective.twr_vae import TwrVae


def passed(names, batch, architecture="lstm", training=False, **changes):
    """A pass of a model with these remedies, and the last of them."""
    built = make(architecture, names, **changes)
    model = built.model.train(training)
    torch.manual_seed(3)
    return model(batch, noise_of(1)), (built.remedies or [None])[-1]


# Pooling

KINDS = ("max", "mean", "attention", "last")
MANY = [(kind,) for kind in KINDS] + [("max", "mean"), KINDS]


def pool_of(kinds):
    torch.manual_seed(5)
    return make("lstm", {"pooling": {"pools": kinds}}).model.pool


@pytest.mark.parametrize("kinds", MANY, ids="+".join)
def test_no_pool_looks_at_padding(kinds, batch):
    pool, states = pool_of(kinds), torch.randn(*batch.mask.shape, 15)
    pooled = pool(states, batch.mask)
    assert pooled.shape == (5, 15)
    for filler in (0.0, 1e6, -1e6, math.nan, math.inf):
        other = states.masked_fill(~batch.mask[:, :, None], filler)
        assert torch.equal(pool(other, batch.mask), pooled)
    # And each sentence by itself, without any padding.
    for row, length in enumerate(batch.lengths.tolist()):
        alone = states[row : row + 1, :length]
        expected = pool(alone, torch.ones(1, length, dtype=torch.bool))
        torch.testing.assert_close(pooled[row : row + 1], expected)


def test_each_pool_is_what_its_name_says(batch):
    states = torch.randn(*batch.mask.shape, 15)
    pools = {kind: pool_of((kind,)) for kind in KINDS}
    attention = pools["attention"]
    for row, length in enumerate(batch.lengths.tolist()):
        own = states[row, :length]
        weights = [attention.query(attention.key(h).tanh()).exp() for h in own]
        mean = sum(w * h for w, h in zip(weights, own, strict=True)) / sum(weights)
        expected = {"max": own.max(0)[0], "mean": own.sum(0) / length, "last": own[-1]}
        for kind, value in {**expected, "attention": mean}.items():
            torch.testing.assert_close(pools[kind](states, batch.mask)[row], value)


def test_several_pools_are_joined_by_one_linear_map(batch):
    states, pool = torch.randn(*batch.mask.shape, 15), pool_of(("mean", "max"))
    parts = [pool_of((kind,))(states, batch.mask) for kind in ("mean", "max")]
    torch.testing.assert_close(pool(states, batch.mask), pool.join(torch.cat(parts, 1)))


@pytest.mark.parametrize("pools", [(), ("max", "max"), ("median",)])
def test_pools_that_make_no_sense_are_refused(pools):
    with pytest.raises(UserError, match="pools must"):
        Pooling(pools=pools)


# Cosines of features


def test_the_penalty_is_the_mean_cosine_of_all_pairs(batch):
    forward, _ = passed({}, batch)
    term = CosineFeatures(weight=2.0).objective(forward).extra["cosine_features"]
    h = forward.features
    pairs = [F.cosine_similarity(h[i], h[j], dim=0) for i, j in itertools.permutations(range(5), 2)]
    torch.testing.assert_close(term.mean(), 2 * torch.stack(pairs).mean())
    row = torch.stack([F.cosine_similarity(h[3], h[j], dim=0) for j in (0, 1, 2, 4)])
    torch.testing.assert_close(term[3], 2 * row.mean())


@pytest.mark.parametrize(
    ("features", "mean"),
    [
        (torch.ones(4, 3), 1.0),
        (torch.eye(4), 0.0),
        (torch.tensor([[1.0, 0.0], [-3.0, 0.0]]), -1.0),
        (torch.ones(1, 3), 0.0),  # no pair
    ],
)
def test_the_mean_cosine_of_features_that_are_known(features, mean, batch):
    forward, _ = passed({}, batch)
    found = CosineFeatures().objective(replace(forward, features=features))
    torch.testing.assert_close(found.extra["cosine_features"], torch.full((len(features),), mean))


# The critic


class KnownScores(torch.nn.Module):
    """A critic that says what it was told."""

    def __init__(self, scores):
        super().__init__()
        self.scores = scores

    def forward(self, z, features):
        return self.scores


def information(scores, forward):
    """InfoNCE of a critic, nats."""
    model = make("lstm", ["contrastive_critic"]).model
    model.further["contrastive_critic"] = KnownScores(scores)
    remedy = ContrastiveCritic(weight=1.0)
    return -remedy.objective(replace(forward, model=model)).extra["contrastive_critic"]


def test_no_critic_finds_more_than_the_logarithm_of_the_batch(batch):
    forward, _ = passed({}, batch)
    most = torch.full((5,), math.log(5))
    for seed in range(20):
        scores = 9 * torch.randn(5, 5, generator=torch.Generator().manual_seed(seed))
        assert (information(scores, forward) <= most + 1e-6).all()
    torch.testing.assert_close(information(100 * torch.eye(5), forward), most)
    torch.testing.assert_close(information(torch.ones(5, 5), forward), torch.zeros(5))


def test_the_critic_has_to_find_the_sentence_of_a_draw(batch):
    forward, _ = passed({}, batch)
    scores = torch.randn(5, 5)
    expected = [
        scores[i, i] - torch.stack([scores[i, j] for j in range(5)]).exp().mean().log()
        for i in range(5)
    ]
    torch.testing.assert_close(information(scores, forward), torch.stack(expected))


def test_the_self_critic_is_the_information_of_the_batch(batch, architecture):
    settings = {"contrastive_critic": {"critic": "self", "weight": 1.0}}
    forward, remedy = passed(settings, batch, architecture)
    found = -remedy.objective(forward).extra["contrastive_critic"]
    q, z = forward.q.base_dist, forward.z
    density = [[q.log_prob(z[i])[j].sum() for j in range(5)] for i in range(5)]
    expected = [row[i] - torch.stack(row).exp().mean().log() for i, row in enumerate(density)]
    torch.testing.assert_close(found, torch.stack(expected))
    assert not forward.model.further
    # What tells sentences apart perfectly is as good as a perfect critic.
    apart = diagonal_normal(100 * torch.eye(5, 8), torch.ones(5, 8))
    sure = remedy.objective(replace(forward, q=apart, z=apart.mean))
    expected = torch.full((5,), -math.log(5))
    torch.testing.assert_close(sure.extra["contrastive_critic"], expected)


def test_the_critic_learns_to_tell_sentences_apart(batch):
    """Where z does tell them: half of what there is to find after a hundred steps."""
    forward, remedy = passed({"contrastive_critic": {"weight": 1.0}}, batch)
    forward = replace(forward, z=torch.eye(5, 8), features=forward.features.detach())
    critic = forward.model.further["contrastive_critic"]
    adam = torch.optim.Adam(critic.parameters(), lr=0.03)
    found = []
    for _ in range(100):
        adam.zero_grad()
        term = remedy.objective(forward).extra["contrastive_critic"].mean()
        term.backward()
        adam.step()
        found.append(-term.detach())
    assert found[0] == pytest.approx(0, abs=0.05)
    assert 0.5 * math.log(5) < found[-1] <= math.log(5)


# Timestep-wise regularisation


@pytest.mark.parametrize("share", [0.01, 0.25, 0.75, 1.0])
def test_the_rate_is_the_mean_of_the_tokens_that_count(share, batch, architecture):
    forward, remedy = passed({"twr_vae": {"share": share}}, batch, architecture)
    kl = remedy.objective(forward).kl
    for row, length in enumerate(batch.lengths.tolist()):
        rates = []
        for token in range(length - max(1, round(share * length)), length):
            q = forward.model.head(forward.states[row, token], None)
            mean, scale = q.mean, q.stddev
            rates.append(0.5 * (mean**2 + scale**2 - 2 * scale.log() - 1))
        torch.testing.assert_close(kl[row], torch.stack(rates).mean(0), rtol=1e-4, atol=1e-6)
    if share == 0.01:  # the last token alone
        torch.testing.assert_close(kl, forward.kl)


def test_a_tokens_posterior_has_not_seen_what_follows(batch, architecture):
    encoder = make(architecture, ["twr_vae"]).model.encoder.eval()
    before, row = encoder(batch), int(batch.lengths.argmax())
    targets = batch.targets.clone()
    targets[row, 4] = other_word(int(targets[row, 4]))
    after = encoder(replace(batch, targets=targets))
    assert torch.equal(after[row, :4], before[row, :4])
    assert (after[row, 4:] != before[row, 4:]).any(1).all()


def test_a_latent_sequence_stays_as_it_is(batch):
    forward, _ = passed(["delta_vae"], batch)
    assert TwrVae().objective(forward) is forward


def test_a_head_that_refines_lets_the_tokens_be(batch):
    forward, remedy = passed(["twr_vae"], batch)
    expected = remedy.objective(forward).kl
    forward.model.head = RefiningHead(forward.model.head)
    torch.testing.assert_close(remedy.objective(forward).kl, expected)
    assert not forward.model.head.energies[0].any()


# Fraternal dropout


def test_without_dropout_two_passes_are_one(batch, architecture):
    forward, remedy = passed(["fraternal_dropout"], batch, architecture, training=True, dropout=0.0)
    found = remedy.objective(forward)
    assert torch.equal(found.extra["fraternal_dropout"], torch.zeros(5))
    torch.testing.assert_close(found.distortion, forward.distortion)


def test_two_passes_are_compared_token_by_token(batch, architecture):
    forward, _ = passed({}, batch, architecture, training=True)
    model = forward.model
    torch.manual_seed(11)
    again = model.decoder(batch, forward.z)
    nats = -model.readout(again, batch)
    torch.manual_seed(11)
    found = FraternalDropout(weight=0.3).objective(forward)
    torch.testing.assert_close(found.distortion, (forward.distortion + nats) / 2)
    for row, length in enumerate(batch.lengths.tolist()):
        apart = (forward.decoded - again)[row, :length].square()
        expected = 0.3 * sum(token.mean() for token in apart)
        torch.testing.assert_close(found.extra["fraternal_dropout"][row], expected)
    assert (found.extra["fraternal_dropout"] > 0).all()


def test_what_the_decoder_said_is_what_was_read_out(batch, architecture):
    forward, _ = passed({}, batch, architecture)
    assert torch.equal(-forward.model.readout(forward.decoded, batch), forward.distortion)
    assert torch.equal(forward.decoded, forward.model.decoder(batch, forward.z))


# The twin


def test_the_twin_is_a_deterministic_autoencoder(batch, architecture):
    forward, remedy = passed({"coupled_vae": {"reconstruction": 0.7}}, batch, architecture)
    twin, model = forward.model.further["coupled_vae"], forward.model
    # Unlike the VAE's own parts, so that it shows which are used.
    generator = torch.Generator().manual_seed(2)
    for parameter in twin.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    code = twin.head.mean_and_log_variance(model.pool(model.encoder(batch), batch.mask))[:, :8]
    nats = twin.readout(twin.decoder(batch, code), batch)
    found = remedy.objective(forward)
    torch.testing.assert_close(found.extra["twin"], -0.7 * nats)
    own = {id(p) for slot in SLOTS for p in getattr(model, slot).parameters()}
    assert not own & {id(p) for p in twin.parameters()}


@pytest.mark.parametrize("distance", ["kernel", "euclidean"])
def test_the_first_states_are_compared(distance, batch, architecture):
    settings = {"coupled_vae": {"coupling": 3.0, "distance": distance}}
    forward, remedy = passed(settings, batch, architecture)
    twin = forward.model.further["coupled_vae"]
    found = remedy.objective(forward).extra["coupling"]
    code = twin.head(forward.features, None).mean
    for row in range(5):
        own = forward.model.decoder(batch, forward.z)[row, 0]
        apart = (own - twin.decoder(batch, code)[row, 0]).detach()
        squared = float(apart.square().sum())
        kernels = [2 * 8 * c / (2 * 8 * c + squared) for c in SCALES]
        expected = 3 * (squared if distance == "euclidean" else -sum(kernels))
        assert float(found[row]) == pytest.approx(expected, rel=1e-4)


def gradients(forward, term):
    """Names of the parameters that a term's gradient reaches."""
    forward.model.zero_grad(set_to_none=True)
    term.sum().backward(retain_graph=True)
    named = forward.model.named_parameters()
    return {name for name, p in named if p.grad is not None and p.grad.any()}


def test_the_twin_trains_the_encoder_and_is_followed(batch, architecture):
    forward, remedy = passed(["coupled_vae"], batch, architecture, training=True)
    found = remedy.objective(forward)
    of_twin, of_coupling = (gradients(forward, found.extra[n]) for n in ("twin", "coupling"))
    assert {name.split(".")[0] for name in of_twin} == {"encoder", "further"}
    assert {name.split(".")[0] for name in of_coupling} == {"encoder", "head", "decoder"}


def test_the_twin_decodes_a_latent_sequence_too(batch):
    forward, remedy = passed(["delta_vae", "coupled_vae"], batch)
    assert forward.z.shape == (5, 4, 2)
    assert remedy.objective(forward).extra["twin"].isfinite().all()


# What is decoded is paid for


@pytest.mark.parametrize("name", ["fraternal_dropout", "coupled_vae"])
def test_a_second_decoding_is_paid_for(name, corpus, architecture):
    built = make(architecture, [name])
    run = built.run(corpus)
    batch = run.draw()
    run.update(batch)
    assert run.meter.tokens == 2 * batch.tokens
    assert len(run.model.decoders) == 1 + (name == "coupled_vae")
    run.meter.stop()
    run.update(batch)
    assert run.meter.tokens == 2 * batch.tokens


def test_nothing_is_decoded_twice_where_the_weight_is_zero(corpus):
    for settings in ({"fraternal_dropout": {"weight": 0.0}}, {"coupled_vae": CoupledVae.neutral}):
        run = make("lstm", settings).run(corpus)
        batch = run.draw()
        run.update(batch)
        assert run.meter.tokens == batch.tokens
        assert not run.model.further


# Latent sequences


@pytest.mark.parametrize("name", ["cosine_features", "contrastive_critic", "fraternal_dropout"])
def test_terms_of_a_latent_sequence_are_one_a_sentence(name, batch):
    forward, remedy = passed(["delta_vae", name], batch)
    assert forward.features.shape == (5, 4, 15)
    term = remedy.objective(forward).extra[name]
    assert term.shape == (5,)
    assert term.isfinite().all()
