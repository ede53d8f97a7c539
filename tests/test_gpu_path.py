"""What only a GPU does, as far as a processor can tell: called directly, or on fake tensors."""

from dataclasses import replace

import pytest
import torch
from conftest import make
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from collapse_bench.evaluation import SentenceNoise
from collapse_bench.evaluation.evaluate import batches_of, rows_at_once, sentences_at_once
from collapse_bench.latent_model import Rows
from collapse_bench.model import lstm, transformer
from collapse_bench.model.dropout import Dropout
from collapse_bench.model.lstm import LSTM, lstm_dtype
from collapse_bench.model.transformer import attention, causal_mask


def weights_and_inputs():
    """An LSTM of its own, torch's with the same weights, inputs [5, 7, 6] and first states."""
    torch.manual_seed(1)
    ours, torchs = LSTM(6, 4), nn.LSTM(6, 4, batch_first=True)
    torchs.load_state_dict(ours.state_dict())
    inputs = torch.randn(5, 7, 6, requires_grad=True)
    first = torch.randn(1, 5, 4, requires_grad=True), torch.randn(1, 5, 4, requires_grad=True)
    return ours, torchs, inputs, first


@pytest.fixture
def a_gpu():
    """Tensors without numbers, whose device may be a GPU."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


@pytest.fixture
def autocast():
    """What `torch.autocast` sets for a GPU, which it does not where there is none."""
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    yield
    torch.set_autocast_enabled("cuda", False)


# The LSTM outside autocast


def test_on_a_processor_the_lstm_is_that_of_torch_to_the_bit():
    ours, torchs, inputs, first = weights_and_inputs()
    assert torch.equal(ours(inputs), torchs(inputs)[0])
    assert torch.equal(ours(inputs, first), torchs(inputs, first)[0])


@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize(
    ("dtype", "within"), [(torch.float64, 1e-6), (torch.float32, 1e-6), (torch.bfloat16, 2e-2)]
)
def test_copies_in_a_dtype_give_its_states_and_the_gradients_of_the_weights(dtype, within, begun):
    ours, torchs, inputs, first = weights_and_inputs()
    first = first if begun else None
    states = ours.in_dtype(dtype, inputs, first)
    assert states.dtype == dtype
    expected = torchs(inputs, first)[0]
    torch.testing.assert_close(states.float(), expected, rtol=0, atol=within)
    gradient = torch.randn(5, 7, 4)
    wanted = [inputs, *(first or ())]
    found = torch.autograd.grad(states, [*wanted, *ours.parameters()], gradient.to(dtype))
    right = torch.autograd.grad(expected, [*wanted, *torchs.parameters()], gradient)
    for one, other in zip(found, right, strict=True):
        assert one.dtype == torch.float32
        assert float((one - other).norm() / other.norm()) < within


@pytest.mark.parametrize(
    ("version", "wanted", "computed"),
    [
        (91300, torch.bfloat16, torch.bfloat16),
        (91200, torch.bfloat16, torch.float32),
        (None, torch.bfloat16, torch.float32),
        (91200, torch.float16, torch.float16),
    ],
)
def test_an_older_cudnn_computes_the_lstm_in_float32(version, wanted, computed, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: version)
    assert lstm_dtype(wanted) == computed
    with torch.backends.cudnn.flags(enabled=False):
        assert lstm_dtype(torch.bfloat16) == torch.float32


@pytest.fixture
def called(a_gpu, monkeypatch):
    """What torch's LSTM was called with: autocast, the dtypes of all tensors, and its mode."""
    called = []
    real = torch._VF.lstm

    def spied(inputs, first, weights, *rest):
        dtypes = {each.dtype for each in (inputs, *first, *weights)}
        called.append((torch.is_autocast_enabled("cuda"), dtypes, rest[3]))
        return real(inputs, first, weights, *rest)

    monkeypatch.setattr(torch._VF, "lstm", spied)
    monkeypatch.setattr(lstm, "lstm_dtype", lambda wanted: wanted)
    return called


def on_gpu(lstm):
    """The same LSTM with weights that are nowhere."""
    lstm._flat_weights = [torch.empty(p.shape, device="cuda") for p in lstm.parameters()]
    return lstm


def test_on_a_gpu_no_autocast_reaches_the_lstm(called, autocast):
    states = on_gpu(LSTM(6, 4))(torch.empty(5, 7, 6, device="cuda"))
    assert (states.device.type, states.dtype) == ("cuda", torch.bfloat16)
    assert called == [(False, {torch.bfloat16}, True)]
    assert torch.is_autocast_enabled("cuda")


def test_on_a_gpu_the_lstm_has_gradients_in_eval_mode_where_they_are_wanted(called):
    ours = on_gpu(LSTM(6, 4)).eval()
    for wanted in (True, False):
        with torch.set_grad_enabled(wanted):
            ours(torch.empty(5, 7, 6, device="cuda"))
    assert called == [(False, {torch.float32}, True), (False, {torch.float32}, False)]


# Attention and dropout


def test_without_a_mask_attention_is_causal(batch):
    query, key, value = torch.randn(3, 5, 2, batch.mask.shape[1], 4, dtype=torch.float64)
    expected = attention(query, key, value, causal_mask(batch)[:, None])
    found = attention(query, key, value, None)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_a_decoder_is_the_same_without_its_mask(batch, monkeypatch):
    decoder = make("transformer", layers=2).model.decoder.eval()
    z = torch.randn(5, 8)
    masked = decoder(batch, z)
    monkeypatch.setattr(transformer, "causal_mask", lambda batch: None)
    torch.testing.assert_close(decoder(batch, z), masked, rtol=1e-5, atol=1e-6)


def test_on_a_gpu_no_causal_mask_is_made(batch, a_gpu):
    on_gpu = replace(batch, mask=torch.empty(5, 24, dtype=torch.bool, device="cuda"))
    assert causal_mask(on_gpu) is None
    assert causal_mask(batch).shape == (1, 24, 24)


def test_on_a_gpu_dropout_is_the_kernel_of_torch(a_gpu, monkeypatch):
    monkeypatch.setattr(F, "dropout", lambda x, p: ("torch", p))
    x = torch.empty(3, 4, device="cuda")
    assert Dropout(0.5)(x) == ("torch", 0.5)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0)(x) is x


# Evaluation


@pytest.mark.parametrize(("longest", "on_cpu", "on_gpu"), [(20, 64, 6553), (2**18, 1, 1)])
def test_a_gpu_decodes_thousands_of_rows_at_once(longest, on_cpu, on_gpu):
    assert rows_at_once(64, longest, torch.device("cpu")) == on_cpu
    assert rows_at_once(64, longest, torch.device("cuda")) == on_gpu


def test_a_gpu_encodes_many_sentences_at_once(corpus):
    on_gpu = sentences_at_once(corpus.test, 2, torch.device("cuda"))
    (batch,) = batches_of(corpus.test, on_gpu)
    assert len(batch.index) == len(corpus.test) > 2
    assert sentences_at_once(corpus.test, 64, torch.device("cpu")) == 64
    assert sentences_at_once(Rows.of([[1], [2]]), 64, torch.device("cuda")) == 64


def test_what_is_evaluated_is_chosen_without_a_number_of_the_device(batch):
    """A meta tensor has none to give."""
    nowhere = batch.to("meta")
    chosen = nowhere.rows(torch.zeros(7, dtype=torch.int64, device="meta"))
    assert (chosen.targets.device.type, len(chosen.targets)) == ("meta", 7)
    noise = SentenceNoise(60, 1).of(chosen, 0)(torch.Size([7, 3]))
    assert (noise.device.type, noise.shape) == ("meta", (7, 3))
    assert nowhere.tokens == batch.tokens
    with pytest.raises(RuntimeError, match="item"):
        chosen.tokens  # noqa: B018


# The norm of a gradient


def test_the_norm_of_gradients_ignores_those_of_size_zero():
    """A language model has such: its latent is of size 0 (pytorch issue 140066)."""
    gradients = [torch.zeros(0), torch.full((3, 4), 2.0), torch.zeros(5, 0), torch.ones(1)]
    assert float(nn.utils.get_total_norm(gradients)) == 7.0
    assert float(nn.utils.get_total_norm(gradients, foreach=True)) == 7.0
