"""The parts of the model: what each computes, what it sees, and the readout's own gradient."""

from dataclasses import replace

import pytest
import torch
from conftest import WORDS, make, noise_of, same_arrays
from torch import nn

from collapse_bench.metrics import score
from collapse_bench.model import SLOTS, diagonal_normal, plain
from collapse_bench.model.autoregressive import AutoregressiveNormal
from collapse_bench.model.latent import LastState, StandardNormal, draw, rate
from collapse_bench.model.readout import ROWS, Readout, TokenLogLikelihood
from collapse_bench.model.transformer import positions

# The readout


def tokens_of(rows, hidden=7, words=11, dtype=torch.float64, seed=1):
    """States, a vocabulary matrix, targets, and a weight for each token, all different."""
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(rows, hidden, dtype=dtype, generator=generator)
    weight = torch.randn(words, hidden, dtype=dtype, generator=generator)
    targets = torch.randint(words, (rows,), generator=generator)
    gradient = torch.linspace(-1, 2, rows)
    return states.requires_grad_(), weight.requires_grad_(), targets, gradient


def reference(states, weight, targets):
    """The same by log-softmax over all logits."""
    return (states @ weight.t()).log_softmax(1).gather(1, targets[:, None])[:, 0]


@pytest.mark.parametrize("rows", [0, 1, 2, ROWS - 1, ROWS, ROWS + 1, 2 * ROWS, 2 * ROWS + 3])
def test_token_log_likelihood_is_log_softmax_with_its_gradients(rows):
    states, weight, targets, gradient = tokens_of(rows, dtype=torch.float32)
    actual = TokenLogLikelihood.apply(states, weight, targets)
    expected = reference(states.double(), weight.double(), targets)
    assert actual.shape == (rows,)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual.double(), expected, rtol=1e-6, atol=2e-6)
    pairs = zip(
        torch.autograd.grad(actual, (states, weight), gradient),
        torch.autograd.grad(expected, (states, weight), gradient.double()),
        strict=True,
    )
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("rows", [3, ROWS + 2])
def test_token_log_likelihood_keeps_its_derivative(rows):
    states, weight, targets, _ = tokens_of(rows, hidden=2, words=3)
    # The normaliser is in single precision whatever comes in, so the steps cannot be small.
    assert torch.autograd.gradcheck(
        lambda *inputs: TokenLogLikelihood.apply(*inputs, targets),
        (states, weight), eps=1e-2, atol=2e-3, rtol=1e-3, nondet_tol=0.0, fast_mode=True,
    )  # fmt: skip


@pytest.mark.parametrize("frozen", ["states", "weight"])
def test_only_the_gradients_that_are_needed_are_formed(frozen):
    states, weight, targets, gradient = tokens_of(5, dtype=torch.float32)
    {"states": states, "weight": weight}[frozen].requires_grad_(False)
    TokenLogLikelihood.apply(states, weight, targets).backward(gradient)
    assert (states.grad is None) == (frozen == "states")
    assert (weight.grad is None) == (frozen == "weight")


def test_large_logits_neither_overflow_nor_vanish():
    states = torch.tensor([[1e4], [-1e4]])
    weight = torch.tensor([[1.0], [-1.0]], requires_grad=True)
    actual = TokenLogLikelihood.apply(states, weight, torch.tensor([0, 0]))
    assert actual.tolist() == [0.0, -2e4]


def test_bfloat16_is_close():
    states, weight, targets, gradient = tokens_of(200, hidden=16, words=50, dtype=torch.float32)
    exact = reference(states, weight, targets)
    rounded = [each.detach().bfloat16().requires_grad_() for each in (states, weight)]
    actual = TokenLogLikelihood.apply(*rounded, targets)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, exact, rtol=0.02, atol=0.15)
    pairs = zip(
        torch.autograd.grad(actual, rounded, gradient),
        torch.autograd.grad(exact, (states, weight), gradient),
        strict=True,
    )
    for one, other in pairs:
        assert one.dtype == torch.bfloat16
        assert (one.float() - other).norm() < 0.02 * other.norm()


def test_the_readout_adds_up_the_tokens_of_each_sentence(batch):
    torch.manual_seed(1)
    readout = Readout(15, WORDS)
    states = torch.randn(*batch.mask.shape, 15)
    expected = (
        (states @ readout.weight.t())
        .log_softmax(-1)
        .gather(2, batch.targets[:, :, None])[:, :, 0]
        .mul(batch.mask)
        .sum(1)
    )
    torch.testing.assert_close(readout(states, batch), expected)
    # What stands at padding is not read, even where it is not a number.
    states[~batch.mask] = torch.nan
    torch.testing.assert_close(readout(states, batch), expected)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_step_in_lower_precision_is_finite_and_close(architecture, precision, corpus):
    run = make(architecture, dropout=0.0).run(corpus, precision=precision)
    exact = make(architecture, dropout=0.0).run(corpus)
    forward, expected = run.update(run.draw()), exact.update(exact.draw())
    torch.testing.assert_close(forward.distortion, expected.distortion, rtol=0.02, atol=0.1)
    assert all(parameter.dtype == torch.float32 for parameter in run.model.parameters())
    assert all(parameter.isfinite().all() for parameter in run.model.parameters())


# One pass


def test_the_terms_of_a_pass_are_those_of_the_bound(architecture, batch):
    model = make(architecture).model.eval()
    noise = torch.randn(5, 8, generator=torch.Generator().manual_seed(2))
    forward = model(batch, lambda mean: noise, step=3, progress=0.5)
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


def test_parts_are_shared_and_parameters_belong_to_one_slot(architecture):
    model = make(architecture).model
    head = nn.Linear(2, 3)
    other = model.with_parts({"head": head})
    assert other.head is head
    assert other.encoder is model.encoder
    assert other.readout is model.readout
    slots = [model.parameters_of((slot,)) for slot in SLOTS]
    flat = [parameter for parameters in slots for parameter in parameters]
    assert len(flat) == len(set(flat)) == len(list(model.parameters()))
    assert model.readout.weight in set(model.parameters_of(("decoder",)))


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
