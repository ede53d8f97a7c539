"""What the remedies promise that change the decoder, beyond the laws of all."""

from dataclasses import replace

import pytest
import torch
from conftest import change_input, make, noise_of, same_arrays
from torch.nn import functional as F

from collapse_bench.corpus.vocabulary import BOS, UNK
from collapse_bench.model.transformer import positions
from collapse_bench.remedies.decoder.dilated_convolutions import DILATIONS, DilatedDecoder
from collapse_bench.remedies.decoder.inverse_lipschitz import BrenierMap
from collapse_bench.remedies.decoder.limited_receptive_field import WindowDecoder
from collapse_bench.remedies.decoder.word_dropout import WordDropout, WordDropoutDecoder


def latent_of(shape, seed=1):
    """A draw of z."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# Word dropout


class Reader(torch.nn.Module):
    """A decoder that hands out the words that it reads."""

    def forward(self, batch, z):
        return batch.inputs


def test_word_dropout_replaces_words_by_unk_at_its_rate_and_never_bos(batch):
    torch.manual_seed(0)
    decoder = WordDropoutDecoder(Reader(), 0.3)
    z = torch.zeros(5, 8)
    draws = torch.stack([decoder(batch, z) for _ in range(300)])
    words = (batch.inputs != BOS) & (batch.inputs != UNK) & batch.mask
    assert (draws[:, :, 0] == BOS).all()
    dropped = draws != batch.inputs
    assert not dropped[:, ~words & batch.mask].any()
    assert (draws[dropped] == UNK).all()
    share = dropped[:, words].float().mean(0)
    assert share.mean() == pytest.approx(0.3, abs=0.01)
    assert (share - 0.3).abs().max() < 0.15  # every word alike
    assert len({tuple(draw.flatten().tolist()) for draw in draws}) == 300


def test_word_dropout_at_rate_one_leaves_no_history(batch):
    read = WordDropoutDecoder(Reader(), 1.0)(batch, torch.zeros(5, 8))
    assert (read[:, 1:][batch.mask[:, 1:]] == UNK).all()
    assert (read[:, 0] == BOS).all()


def test_word_dropout_is_off_in_evaluation(architecture, corpus, batch):
    decoder = WordDropoutDecoder(Reader(), 1.0).eval()
    assert torch.equal(decoder(batch, torch.zeros(5, 8)), batch.inputs)
    heavy, none = (make(architecture, {"word_dropout": {"rate": rate}}) for rate in (0.9, 0.0))
    assert same_arrays(heavy.evaluate(corpus.valid), none.evaluate(corpus.valid))


def test_word_dropout_hides_words_from_the_decoder_only(batch):
    built = make("lstm", {"word_dropout": {"rate": 1.0}})
    model = built.model.train()
    plain = make("lstm").model.train()
    torch.testing.assert_close(
        model(batch, noise_of(1)).q.mean, plain(batch, noise_of(1)).q.mean, rtol=0, atol=0
    )


@pytest.mark.parametrize(
    ("settings", "points"),
    [
        ({}, {0: 0.25, 0.5: 0.25, 1: 0.25}),
        ({"warmup": 0.5}, {0: 1, 0.1: 0.85, 0.25: 0.625, 0.5: 0.25, 0.7: 0.25, 1: 0.25}),
        ({"rate": 0.0, "warmup": 1.0}, {0: 1, 0.4: 0.6, 1: 0}),
    ],
)
def test_the_rate_of_word_dropout_falls_from_one(settings, points):
    remedy = WordDropout(**settings)
    for progress, rate in points.items():
        assert remedy.rate_at(progress) == pytest.approx(rate, abs=1e-12)


def test_annealed_word_dropout_reads_less_and_less_unk(corpus):
    built = make("lstm", {"word_dropout": {"rate": 0.1, "warmup": 0.5}, "delta_vae": {"length": 4}})
    run = built.run(corpus, budget=1500)
    step = built.remedy.step(run.update, run)
    decoder = built.model.decoder.decoder
    assert isinstance(decoder, WordDropoutDecoder)
    rates = []
    while run.meter.tokens < 1500:
        progress = run.progress
        step(run.draw())
        rates.append(decoder.rate)
        assert decoder.rate == pytest.approx(max(0.1, 1 - 0.9 * progress / 0.5))
    assert rates == sorted(rates, reverse=True)
    assert (rates[0], rates[-1]) == (1, 0.1)


# Limited receptive field


@pytest.mark.parametrize("window", [1, 2, 4])
def test_the_decoder_sees_z_and_exactly_the_last_words(window, batch):
    model = make("lstm", {"limited_receptive_field": {"window": window}}).model.eval()
    z = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
    before = model.decoder(batch, z)
    row = int(batch.lengths.argmax())
    for token in range(int(batch.lengths[row])):
        after = model.decoder(change_input(batch, row, token), z)
        changed = (after[row] != before[row]).any(1).nonzero()[:, 0].tolist()
        assert changed == list(range(token, min(token + window, len(after[row]))))
    moved = model.decoder(batch, z + torch.eye(8)[3])
    assert (moved != before).any(2).all()


def test_the_window_decoder_is_the_same_in_every_architecture(batch):
    decoders = [
        make(architecture, ["limited_receptive_field"]).model.decoder
        for architecture in ("lstm", "transformer")
    ]
    assert all(isinstance(decoder, WindowDecoder) for decoder in decoders)
    shapes = [[tuple(p.shape) for p in decoder.parameters()] for decoder in decoders]
    assert shapes[0] == shapes[1]


# Dilated convolutions


@pytest.mark.parametrize(
    ("size", "reach"), [("small", 15), ("medium", 63), ("large", 125), ("very large", 187)]
)
def test_a_dilated_decoder_reaches_back_as_far_as_published(size, reach, batch):
    assert 1 + 2 * sum(DILATIONS[size]) == reach
    sizes = replace(make("lstm").model.dimensions, hidden=4)
    decoder = DilatedDecoder(sizes, DILATIONS[size]).double().eval()
    # All that is seen adds up, so that nothing cancels and no ReLU is closed.
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.copy_(parameter.abs() + 0.1)
    tokens = 200
    words = torch.randint(4, 41, (1, tokens), generator=torch.Generator().manual_seed(1))
    long = replace(batch, inputs=words)
    z = torch.zeros(1, 8, dtype=torch.float64)
    before = decoder(long, z)
    for token in (0, 6, tokens - reach):
        after = decoder(change_input(long, 0, token), z)
        changed = (after != before)[0].any(1).nonzero()[:, 0].tolist()
        assert changed == list(range(token, min(token + reach, tokens)))


def test_a_dilated_decoder_sees_z_at_every_position_and_its_own_alone(batch):
    decoder = make("lstm", ["dilated_convolutions"]).model.decoder.eval()
    tokens = batch.inputs.shape[1]
    z = latent_of((5, 8))
    before = decoder(batch, z)
    assert (decoder(batch, z + torch.eye(8)[3]) != before).any(2).all()
    # With one z for each token, that of the past acts as the words of the past do.
    each = z[:, None].repeat(1, tokens, 1)
    torch.testing.assert_close(decoder(batch, each), before)
    each[:, 4, 3] += 1
    changed = (decoder(batch, each) != before).any(2).all(0)
    assert changed[4]
    assert torch.equal(decoder(batch, each)[:, :4], before[:, :4])


# Skip-VAE


@pytest.mark.parametrize("shape", [(5, 8), (5, 2, 4), (5, "T", 8)])
def test_the_softmax_of_a_skip_vae_reads_z_past_the_decoder(shape, architecture, batch):
    model = make(architecture, ["skip_vae"]).model.eval()
    tokens = batch.inputs.shape[1]
    z = latent_of([tokens if size == "T" else size for size in shape]).requires_grad_()
    h = latent_of((5, tokens, 15), seed=2)
    # What the wrapped decoder makes of z is cut.
    model.decoder.decoder.forward = lambda batch, z: h
    model.log_likelihood(batch, z).sum().backward()
    of_h, of_z = model.readout.weight.split([15, 8], 1)
    each = z.detach() if shape[1] == "T" else z.detach().flatten(1)[:, None].expand(-1, tokens, -1)
    logits = F.linear(h, of_h) + F.linear(each, of_z)
    slope = (F.one_hot(batch.targets, 41) - logits.softmax(-1)) * batch.mask[..., None]
    expected = slope @ of_z  # [B, T, D]
    if shape[1] != "T":
        expected = expected.sum(1).view_as(z)
    torch.testing.assert_close(z.grad, expected, rtol=1e-4, atol=1e-5)
    nats = logits.log_softmax(-1).gather(2, batch.targets[..., None])[..., 0] * batch.mask
    torch.testing.assert_close(model.log_likelihood_by_position(batch, z), nats)


def test_the_decoder_of_a_skip_vae_is_the_plain_one(architecture, batch):
    plain, model = make(architecture).model.eval(), make(architecture, ["skip_vae"]).model.eval()
    model.decoder.decoder.load_state_dict(plain.decoder.state_dict())
    z = latent_of((5, 8))
    states = model.decoder(batch, z)
    assert torch.equal(states[..., :15], plain.decoder(batch, z))
    assert torch.equal(states[..., 15:], z[:, None].expand(-1, states.shape[1], -1))


# Inverse Lipschitz


def brenier_of(constant, scale=1.0):
    """A map with a spread of weights, 6 wide."""
    torch.manual_seed(1)
    brenier = BrenierMap(6, 9, constant).double()
    with torch.no_grad():
        for parameter in brenier.parameters():
            parameter.mul_(scale)
    return brenier


def convex(brenier, x):
    """f(x), of which the map is the gradient."""
    inner = F.softplus(brenier.first(x)) @ F.softplus(brenier.between).t()
    outer = F.softplus(inner + brenier.second(x)) @ F.softplus(brenier.last)
    return outer + brenier.constant / 2 * x.square().sum(-1)


@pytest.mark.parametrize("constant", [0.0, 0.3, 2.0])
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_a_brenier_map_is_the_gradient_of_a_convex_function(constant, scale):
    brenier = brenier_of(constant, scale)
    x = latent_of((7, 6)).double().requires_grad_()
    (gradient,) = torch.autograd.grad(convex(brenier, x).sum(), x)
    torch.testing.assert_close(brenier(x), gradient, rtol=1e-12, atol=1e-12)
    for row in x.detach():
        jacobian = torch.autograd.functional.jacobian(brenier, row)
        torch.testing.assert_close(jacobian, jacobian.t(), rtol=1e-12, atol=1e-12)
        least = torch.linalg.eigvalsh(jacobian)[0]
        assert least > constant  # f is strictly convex without the constant


def stretch(decoder, batch, seed, size=1.0):
    """By how much the states of two random z are further apart than they, for the same words."""
    one, other = (size * latent_of((5, 8), seed + i).double() for i in range(2))
    apart = (decoder(batch, one) - decoder(batch, other)).norm(dim=2)  # [B, T]
    return apart / (one - other).norm(dim=1, keepdim=True)


@pytest.mark.parametrize("constant", [0.5, 3.0])
def test_states_are_apart_as_z_is_before_and_after_training(constant, architecture, corpus, batch):
    built = make(architecture, {"inverse_lipschitz": {"constant": constant}})
    for _ in range(2):
        decoder = built.model.double().eval().decoder
        for seed, size in enumerate((1e-3, 1.0, 30.0)):
            assert (stretch(decoder, batch, seed, size) >= constant).all()
        built.model.float()
        built.steps(corpus, 12, learning_rate=0.1)
    weights = built.model.decoder.brenier
    assert all(F.softplus(w).min() > 0 for w in (weights.between, weights.last))


def test_only_the_brenier_map_sees_z(architecture, batch):
    decoder = make(architecture, ["inverse_lipschitz"]).model.decoder.eval()
    seen = []
    decoder.decoder.register_forward_pre_hook(lambda part, given: seen.append(given[1]))
    z = latent_of((5, 8))
    states = decoder(batch, z)
    history = decoder.decoder(batch, torch.ones(5, 8))
    joined = torch.cat([history, z[:, None].expand(-1, history.shape[1], -1)], 2)
    assert torch.equal(states, decoder.brenier(joined))
    assert torch.equal(seen[0], torch.ones(5, 8))


# Latent memory


@pytest.mark.parametrize("embedding", [True, False])
@pytest.mark.parametrize("each", [False, True])
def test_every_layer_attends_to_its_slot_and_to_the_past(embedding, each, batch):
    model = make("transformer", {"latent_memory": {"embedding": embedding}}).model.eval()
    decoder, tokens = model.decoder, batch.inputs.shape[1]
    z = latent_of((5, tokens, 8) if each else (5, 8))
    own = z if each else z[:, None].expand(-1, tokens, -1)
    x = decoder.stack.enter(10**0.5 * decoder.embedding(batch.inputs))
    x = x + positions(tokens, 15, x.device) + (decoder.latent(own) if embedding else 0)
    for block, slots in zip(decoder.stack.blocks, decoder.memory(own).split(15, 2), strict=True):
        x = by_hand(block, x, slots)
    torch.testing.assert_close(decoder(batch, z), decoder.stack.norm(x))
    assert (decoder.latent is not None) == embedding


def by_hand(block, x, slots):
    """A layer token by token and head by head; slots [B, T, H], the own one of each token."""
    query, key, value = block.query_key_value(block.attention_norm(x)).split(15, 2)
    seen = torch.zeros_like(x)
    for row in range(len(x)):
        for token in range(x.shape[1]):
            for head in (slice(0, 5), slice(5, 10), slice(10, 15)):
                slot = slots[row, token, head][None]
                keys = torch.cat([slot, key[row, : token + 1, head]])
                values = torch.cat([slot, value[row, : token + 1, head]])
                weights = (keys @ query[row, token, head] / 5**0.5).softmax(0)
                seen[row, token, head] = weights @ values
    x = x + block.attention_output(seen)
    return x + block.feed_forward(x)
