"""The parts of the model: what each computes and what it sees."""

import math
from dataclasses import replace

import pytest
import torch
from conftest import make, needs_bfloat16, noise_of, parameters, same, same_arrays
from torch import nn
from torch.nn import functional as F

from collapse_bench.metrics import score
from collapse_bench.model import GENERATIVE, INFERENCE, SLOTS, diagonal_normal, plain
from collapse_bench.model.distributions import draw, rate
from collapse_bench.model.distributions.autoregressive import AutoregressiveNormal
from collapse_bench.model.dropout import Dropout
from collapse_bench.model.latent import LastState, StandardNormal
from collapse_bench.model.transformer import attention, causal_mask, positions
from collapse_bench.plugins import remedy_files

OF_DIFFERENCES = {"contrastive_critic", "pooling", "scale_vae"}
"""Remedies whose gradient is one of differences between sentences or tokens, which in an untrained
model are no larger than what bfloat16 rounds off: another token's state may be the largest."""


@needs_bfloat16
@pytest.mark.parametrize("name", ["", *sorted(remedy_files())], ids=lambda name: name or "vae")
def test_a_step_in_lower_precision_is_finite_and_close(name, architecture, corpus):
    steps = []
    for precision in ("float32", "bfloat16"):
        torch.manual_seed(1)
        run = make(architecture, [name] if name else []).run(corpus, precision=precision)
        steps.append((run, run.update(run.draw())))
    (exact, expected), (run, forward) = steps
    assert not torch.equal(forward.distortion, expected.distortion)
    close = name not in OF_DIFFERENCES
    if close:
        torch.testing.assert_close(forward.distortion, expected.distortion, rtol=0.005, atol=0.1)
        torch.testing.assert_close(forward.kl, expected.kl, rtol=0.02, atol=0.002)
    assert forward.distortion.dtype == forward.kl.dtype == torch.float32
    assert forward.q.mean.dtype == forward.z.dtype == torch.float32
    for parameter, other in zip(run.model.parameters(), exact.model.parameters(), strict=True):
        assert parameter.dtype == parameter.grad.dtype == torch.float32
        assert parameter.isfinite().all()
        # Rounded products, no other derivative.
        apart = (parameter.grad - other.grad).norm()
        assert not close or apart < 0.03 * other.grad.norm() + 1e-3


# One pass


def test_the_terms_of_a_pass_are_those_of_the_bound(architecture, batch):
    model = make(architecture).model.eval()
    noise = torch.randn(5, 8, generator=torch.Generator().manual_seed(2))
    forward = model(batch, lambda shape: noise, step=3, progress=0.5)
    assert (forward.step, forward.progress) == (3, 0.5)
    mean, scale = forward.q.mean, forward.q.stddev
    assert torch.equal(forward.z, mean + scale * noise)
    torch.testing.assert_close(
        forward.kl, 0.5 * (mean**2 + scale**2 - 2 * scale.log() - 1), atol=1e-6, rtol=1e-5
    )
    assert torch.equal(forward.distortion, -model.log_likelihood(batch, forward.z))
    torch.testing.assert_close(forward.per_sentence(), forward.distortion + forward.kl.sum(1))
    # The mean over sentences, however many tokens each has.
    torch.testing.assert_close(forward.loss(), forward.per_sentence().mean())
    with_extra = replace(forward, extra={"a": torch.arange(5.0), "b": torch.ones(5)})
    torch.testing.assert_close(
        with_extra.per_sentence(), forward.per_sentence() + torch.arange(1.0, 6)
    )
    assert plain(forward) is forward


def test_the_head_gives_a_mean_and_a_log_variance():
    head = make("lstm").model.head
    features = torch.randn(5, 15)
    q = head(features, None)
    mean, log_variance = head.mean_and_log_variance(features).chunk(2, dim=1)
    torch.testing.assert_close(q.mean, mean)
    torch.testing.assert_close(q.variance, log_variance.exp())


def test_the_last_state_is_the_one_at_eos(batch):
    states = torch.randn(*batch.mask.shape, 15)
    pooled = LastState()(states, batch.mask)
    for row, length in enumerate(batch.lengths.tolist()):
        assert torch.equal(pooled[row], states[row, length - 1])


def test_the_posterior_depends_on_every_word(architecture, batch):
    model = make(architecture).model.eval()
    before = model.posterior(batch, noise_of(1)).mean
    for row, length in enumerate(batch.lengths.tolist()):
        for token in (0, length // 2, length - 1):
            targets = batch.targets.clone()
            targets[row, token] = 4 + (targets[row, token] - 3) % 37
            after = model.posterior(replace(batch, targets=targets), noise_of(1)).mean
            assert (after[row] != before[row]).any()


def test_the_likelihood_depends_on_every_latent_dimension(architecture, batch):
    model = make(architecture).model.eval()
    z = torch.zeros(5, 8)
    before = model.log_likelihood(batch, z)
    for dimension in range(8):
        changed = z.clone()
        changed[:, dimension] = 1
        assert (model.log_likelihood(batch, changed) != before).all()
    # One z for every token is the same as a z that does not change.
    torch.testing.assert_close(
        model.log_likelihood(batch, z[:, None].expand(-1, batch.mask.shape[1], -1)), before
    )


def test_a_causal_encoder_sees_nothing_after_its_token(architecture, batch):
    encoder = make(architecture).model.encoder
    before, row = encoder(batch, causal=True), int(batch.lengths.argmax())
    for token in (1, 5, 9):
        targets = batch.targets.clone()
        targets[row, token] = 4 + (targets[row, token] - 3) % 37
        after = encoder(replace(batch, targets=targets), causal=True)
        assert torch.equal(after[row, :token], before[row, :token])
        assert not torch.equal(after[row, token], before[row, token])


def test_a_rate_without_a_closed_form_is_estimated_from_the_draw():
    class Unknown(torch.distributions.Distribution):
        def log_prob(self, z):
            return -z.abs().sum(1)

    q = diagonal_normal(torch.zeros(3, 4), torch.ones(3, 4))
    z = torch.ones(3, 4)
    kl = rate(q, Unknown(validate_args=False), z)
    assert kl.shape == (3, 1)
    torch.testing.assert_close(kl[:, 0], q.log_prob(z) + 4)


def test_a_draw_of_a_prior_over_a_sequence_has_its_covariance():
    n, a = 5, 0.7
    prior = AutoregressiveNormal(torch.Size((n, n, 1)), a)
    # Noise in one place at a time gives the columns of a root of the covariance.
    root = draw(prior, torch.eye(n, dtype=torch.float64)[:, :, None])[:, :, 0].t()
    place = torch.arange(n)
    torch.testing.assert_close(root @ root.t(), a ** (place[:, None] - place).abs().double())


def test_what_cannot_be_drawn_from_is_told():
    with pytest.raises(TypeError, match="Gamma is neither"):
        draw(torch.distributions.Gamma(torch.ones(2, 3), torch.ones(2, 3)), torch.zeros(2, 3))


def test_the_rate_to_the_prior_itself_is_zero(batch):
    q = diagonal_normal(torch.zeros(5, 8), torch.ones(5, 8))
    p = StandardNormal()(q, batch)
    assert torch.equal(rate(q, p, q.mean), torch.zeros(5, 8))


@pytest.mark.parametrize("width", [1, 2, 15, 16])
def test_positions_are_sinusoids_of_any_width(width):
    table = positions(9, width, torch.device("cpu"))
    assert table.shape == (9, width)
    assert torch.equal(table[0], (torch.arange(width) % 2).float())
    assert len({tuple(row) for row in table.tolist()}) == 9


def test_dropout_acts_in_training_only(architecture, batch):
    model = make(architecture, dropout=0.5).model
    z = torch.zeros(5, 8)
    assert not torch.equal(model.decoder(batch, z), model.decoder(batch, z))
    model.eval()
    assert torch.equal(model.decoder(batch, z), model.decoder(batch, z))


# Dropout


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_dropout_is_the_identity_in_evaluation_and_at_zero(p):
    x = torch.randn(4, 5, 6)
    assert torch.equal(Dropout(p).eval()(x), x)
    state = torch.get_rng_state()
    assert torch.equal(Dropout(0.0)(x), x)
    assert torch.equal(state, torch.get_rng_state())


def test_dropout_of_everything_leaves_zeros():
    x = torch.randn(4, 5, requires_grad=True)
    y = Dropout(1.0)(x)
    assert torch.equal(y, torch.zeros(4, 5))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
def test_dropout_keeps_its_share_scales_it_up_and_treats_every_entry_alike(p):
    torch.manual_seed(1)
    x = torch.rand(1000, 10, 20) + 1
    y = Dropout(p)(x)
    kept = y != 0
    torch.testing.assert_close(y[kept], x[kept] / (1 - p))
    n, of_one = x.numel(), math.sqrt(p * (1 - p))
    assert float(kept.double().mean()) == pytest.approx(1 - p, abs=4 * of_one / math.sqrt(n))
    expected, error = float(x.mean()), 4 * of_one / (1 - p) * float(x.norm()) / n
    assert float(y.double().mean()) == pytest.approx(expected, abs=error)
    each = kept.double().mean(0)
    assert (each - (1 - p)).abs().max() < 5 * of_one / math.sqrt(1000)
    # No row is like another, and no entry goes with the next.
    assert len({tuple(row) for row in kept.flatten(1).tolist()}) == 1000
    together = (kept[:, :, 1:] & kept[:, :, :-1]).double().mean()
    assert float(together) == pytest.approx((1 - p) ** 2, abs=8 * of_one / math.sqrt(n))


def test_the_gradient_of_dropout_passes_where_the_value_does():
    torch.manual_seed(1)
    x = torch.randn(40, 50, requires_grad=True)
    gradient = torch.randn(40, 50)
    y = Dropout(0.3)(x)
    y.backward(gradient)
    scale = (y != 0) / 0.7
    assert 0 < int((y == 0).sum()) < y.numel()
    torch.testing.assert_close(x.grad, gradient * scale)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_dropout_keeps_the_precision_and_repeats_with_the_seed(dtype):
    x, dropout = torch.randn(30, 40).to(dtype), Dropout(0.5)
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(dropout(x))
    assert all(output.dtype == dtype for output in outputs)
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])
    assert set((outputs[0] / x).flatten().tolist()) == {0.0, 2.0}
    assert not torch.equal(dropout(x), outputs[2])


# Attention


@pytest.mark.parametrize("width", [1, 5])
@pytest.mark.parametrize("kind", ["causal", "sentence"])
def test_attention_is_that_of_torch_with_its_gradients(kind, width, batch):
    tokens = batch.mask.shape[1]
    allowed = {
        "causal": causal_mask(batch)[:, None],
        "sentence": batch.mask[:, None, None, :].expand(-1, 1, tokens, -1),
    }[kind]
    generator = torch.Generator().manual_seed(1)
    query, key, value, gradient = (
        3 * torch.randn(5, 3, tokens, width, dtype=torch.float64, generator=generator)
        for _ in range(4)
    )
    inputs = [each.requires_grad_() for each in (query, key, value)]
    actual = attention(*inputs, allowed)
    expected = F.scaled_dot_product_attention(*inputs, attn_mask=allowed)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    pairs = zip(
        torch.autograd.grad(actual, inputs, gradient),
        torch.autograd.grad(expected, inputs, gradient),
        strict=True,
    )
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


def test_attention_sees_nothing_of_what_is_not_allowed(batch):
    allowed = batch.mask[:, None, None, :]
    tokens = batch.mask.shape[1]
    query, key, value = torch.randn(3, 5, 3, tokens, 4).unbind()
    before = attention(query, key, value, allowed)
    padding = ~batch.mask[:, None, :, None].expand_as(key)
    changed = (each.masked_fill(padding, 1e6) for each in (key, value))
    assert torch.equal(attention(query, *changed, allowed), before)


def test_parts_are_shared_and_parameters_belong_to_one_slot(architecture):
    model = make(architecture).model
    head = nn.Linear(2, 3)
    other = model.with_parts({"head": head}, "mine")
    assert other.head is head
    assert other.encoder is model.encoder
    assert other.readout is model.readout
    slots = [model.parameters_of((slot,)) for slot in SLOTS]
    flat = [parameter for parameters in slots for parameter in parameters]
    assert len(flat) == len(set(flat)) == len(list(model.parameters()))
    assert model.readout.weight in set(model.parameters_of(("readout",)))


def test_the_lstm_decoder_begins_with_the_latent_and_reads_it_with_every_word(batch):
    decoder = make("lstm").model.decoder.eval()
    z = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
    cell = z @ decoder.first_cell.weight.t()
    hidden = cell.tanh()
    one = nn.LSTMCell(18, 15)
    for name, value in decoder.lstm.named_parameters():
        getattr(one, name.removesuffix("_l0")).data = value.data
    states = decoder(batch, z)
    for token, words in enumerate(batch.inputs.t()):
        hidden, cell = one(torch.cat([decoder.embedding.weight[words], z], 1), (hidden, cell))
        torch.testing.assert_close(states[:, token], hidden)


# The language model


def test_a_latent_of_size_zero_is_a_language_model(architecture, corpus):
    built = make(architecture, latent=0)
    _, selection = built.train(corpus)
    arrays = built.evaluate(corpus.test, samples=1)
    assert arrays["kl"].shape == (6, 0)
    # It is exact: nothing depends on the noise.
    assert same_arrays(arrays, built.evaluate(corpus.test, samples=1, seed=99))
    metrics = score(arrays).metrics
    assert metrics["nll"] == metrics["distortion"] == metrics["negative_elbo"]
    assert metrics["kl"] == metrics["mutual_information"] == metrics["active_units"] == 0
    assert selection.best < selection.history[0]["negative_elbo"] + 1e-9


def test_the_language_model_has_nothing_but_a_decoder(architecture, corpus):
    built = make(architecture, latent=0)
    model = built.model
    assert sum(parameter.numel() for parameter in model.parameters_of(INFERENCE)) == 0
    of_decoder = sum(parameter.numel() for parameter in model.parameters_of(GENERATIVE))
    assert sum(parameter.numel() for parameter in model.parameters()) == of_decoder > 0
    run = built.steps(corpus, 3)
    assert run.updates == {"encoder": 0, "decoder": 3}
    before = parameters(model)
    forward = run.update(run.draw(), only=GENERATIVE)
    assert not same(before, parameters(model))
    assert forward.z.shape == forward.kl.shape == (5, 0)
    assert run.updates == {"encoder": 0, "decoder": 4}
    # Its decoder is that of the VAE, without a latent.
    vae = make(architecture)
    words = {name: p.shape for name, p in vae.model.decoder.named_parameters()}
    assert words.keys() == dict(model.decoder.named_parameters()).keys()
