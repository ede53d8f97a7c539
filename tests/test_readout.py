"""The readout: token log-likelihoods with a gradient of its own, held to the plain formula."""

import pytest
import torch
from conftest import WORDS
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode

from collapse_bench.model.readout import (
    ALIGNED,
    ROWS,
    Readout,
    token_log_likelihood,
)


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
    actual = token_log_likelihood(states, weight, targets)
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


IN_PARTS = {"one row": 1, "seven rows": 7 * 11, "all rows": 2**25}
"""Largest numbers of probabilities, for the 11 words of `tokens_of`."""
in_parts = pytest.mark.parametrize("kept", IN_PARTS.values(), ids=IN_PARTS.keys())


@pytest.fixture
def keep(monkeypatch):
    """Set the largest number of probabilities held at once."""
    return lambda kept: monkeypatch.setattr("collapse_bench.model.readout.KEPT", kept)


MM, SOFTMAX = torch.ops.aten.mm, torch.ops.aten.softmax
PRODUCTS = {MM.default, MM.out, torch.ops.aten.addmm_.default}


class Formed(TorchDispatchMode):
    """The rows of everything as wide as the logits that is computed inside, and all products."""

    def __init__(self, words):
        super().__init__()
        self.widths = {(words,), (words + -words % ALIGNED,)}
        self.rows = {}
        self.products = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        self.products += function in PRODUCTS
        if isinstance(result, torch.Tensor) and result.shape[1:] in self.widths:
            self.rows.setdefault(function, []).append(len(result))
        return result


@in_parts
@pytest.mark.parametrize("rows", [3, ROWS + 2])
def test_token_log_likelihood_keeps_its_derivative(rows, kept, keep):
    keep(kept)
    states, weight, targets, _ = tokens_of(rows, hidden=2, words=3)
    assert torch.autograd.gradcheck(
        lambda *inputs: token_log_likelihood(*inputs, targets),
        (states, weight), eps=1e-6, atol=1e-8, rtol=1e-6, nondet_tol=0.0,
    )  # fmt: skip


@in_parts
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_its_gradient_has_a_gradient(dtype, kept, keep):
    """As a descent on z asks for: without it, a part of the derivative would be missing."""
    keep(kept)
    states, weight, targets, gradient = tokens_of(20)
    pairs = []
    for function, kind in ((token_log_likelihood, dtype), (reference, torch.float64)):
        inputs = [each.detach().to(kind).requires_grad_() for each in (states, weight)]
        nats = function(*inputs, targets)
        first = torch.autograd.grad(nats, inputs, gradient.to(kind), create_graph=True)
        towards = [torch.linspace(-1, 1, each.numel(), dtype=kind).view_as(each) for each in first]
        for slope, direction in zip(first, towards, strict=True):
            pairs.append(torch.autograd.grad(slope, inputs, direction, retain_graph=True))
    close = {"rtol": 1e-9, "atol": 1e-9} if dtype == torch.float64 else {"rtol": 1e-3, "atol": 1e-4}
    for found, expected in zip(pairs[:2], pairs[2:], strict=True):
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one.double(), other, **close)


@pytest.mark.parametrize("again", [False, True])
def test_where_only_the_gradient_of_the_states_is_asked_for_the_weight_has_no_product(again):
    states, weight, targets, gradient = tokens_of(20)
    moved = states * 1  # as the decoder's are, they come from elsewhere
    with Formed(words=11) as formed:
        nats = token_log_likelihood(moved, weight, targets)
        torch.autograd.grad(nats, states, gradient.double(), create_graph=again)
    assert formed.products == 2


@in_parts
@pytest.mark.parametrize("needed", ["states", "weight", "both"])
@pytest.mark.parametrize("rows", [0, 1, 7, 20, 2 * ROWS + 3])
def test_in_double_precision_it_is_exact_in_however_many_parts(rows, needed, kept, keep):
    keep(kept)
    states, weight, targets, gradient = tokens_of(rows)
    inputs = {"states": states, "weight": weight}
    wanted = [each for name, each in inputs.items() if needed in (name, "both")]
    for each in inputs.values():
        each.requires_grad_(any(each is one for one in wanted))
    actual = token_log_likelihood(states, weight, targets)
    expected = reference(states, weight, targets)
    assert actual.dtype == torch.float64
    torch.testing.assert_close(actual, expected, rtol=1e-13, atol=1e-13)
    pairs = zip(
        torch.autograd.grad(actual, wanted, gradient.double()),
        torch.autograd.grad(expected, wanted, gradient.double()),
        strict=True,
    )
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@in_parts
@pytest.mark.parametrize("needed", ["states", "weight", "both"])
def test_probabilities_are_kept_for_the_weight_alone_and_only_if_they_are_few(needed, kept, keep):
    keep(kept)
    states, weight, targets, gradient = tokens_of(20)
    states.requires_grad_(needed != "weight")
    weight.requires_grad_(needed != "states")
    saved = []

    def pack(tensor):
        saved.append(tensor)
        return tensor

    with Formed(words=11) as formed:
        with saved_tensors_hooks(pack, lambda tensor: tensor):
            nats = token_log_likelihood(states, weight, targets)
        nats.backward(gradient.double())
    few = kept >= 20 * 11
    wide = {t.data_ptr(): t for t in saved if t.numel() >= 20 * 11}.values()
    assert len(wide) == (few and needed != "states")
    for probabilities in wide:
        torch.testing.assert_close(probabilities[:, :11], (states @ weight.t()).softmax(1))
        assert not probabilities[:, 11:].any(), "beyond the vocabulary there are no words"
    # Nothing as wide comes and goes either: a part is as large as it may be, or a single row.
    assert max(formed.rows[SOFTMAX.int_out]) == min(20, max(1, kept // 11))
    assert max(formed.rows[MM.out]) == min(20, max(1, kept // 11))
    # The logits are formed once, or where the backward pass has to form them again, twice.
    again = needed != "states" and not few
    assert sum(formed.rows[MM.out]) == 20 * (1 + again)
    parts = len(formed.rows[MM.out]) // (1 + again)
    assert formed.products == parts * (1 + again + (2 if needed == "both" else 1))


@in_parts
@pytest.mark.parametrize("rows", [0, 1, 20, 2 * ROWS + 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_without_a_gradient_the_numbers_are_the_same(dtype, rows, kept, keep):
    keep(kept)
    states, weight, targets, _ = tokens_of(rows)
    states = states.to(dtype)
    with torch.no_grad():
        actual = token_log_likelihood(states, weight, targets)
    assert actual.dtype == torch.promote_types(dtype, torch.float32)
    expected = token_log_likelihood(states, weight, targets)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6)


@in_parts
@pytest.mark.parametrize("words", [1, ALIGNED - 1, ALIGNED, ALIGNED + 1])
def test_a_weight_of_more_digits_than_the_states_gets_a_gradient_of_its_own_dtype(
    words, kept, keep
):
    """As in a model in bfloat16, whose weights stay in float32."""
    keep(kept)
    states, weight, targets, gradient = tokens_of(20, words=words)
    narrow = states.detach().float().requires_grad_()
    exact = reference(states, weight, targets)
    actual = token_log_likelihood(narrow, weight, targets)
    pairs = zip(
        torch.autograd.grad(actual, (narrow, weight), gradient),
        torch.autograd.grad(exact, (states, weight), gradient.double()),
        strict=True,
    )
    torch.testing.assert_close(actual.double(), exact, rtol=1e-6, atol=5e-6)
    for (one, other), dtype in zip(pairs, (torch.float32, torch.float64), strict=True):
        assert one.dtype == dtype
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=2e-5)


@in_parts
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_certain_and_impossible_targets_have_the_gradient_of_the_limit(dtype, kept, keep):
    keep(kept)
    # Logits of 0, -s and -2s: the first word is certain, the others are impossible.
    s = 2.0**20
    states = torch.tensor([[s], [2 * s], [s], [2 * s]], dtype=dtype, requires_grad=True)
    weight = torch.tensor([[0.0], [-1.0], [-2.0]], dtype=dtype, requires_grad=True)
    actual = token_log_likelihood(states, weight, torch.tensor([0, 0, 1, 2]))
    assert actual.tolist() == [0, 0, -s, -4 * s]
    of_states, of_weight = torch.autograd.grad(actual.sum(), (states, weight))
    assert of_states[:, 0].tolist() == [0, 0, -1, -2]
    assert of_weight[:, 0].tolist() == [-3 * s, s, 2 * s]


@pytest.mark.parametrize("frozen", ["states", "weight"])
def test_only_the_gradients_that_are_needed_are_formed(frozen):
    states, weight, targets, gradient = tokens_of(5, dtype=torch.float32)
    {"states": states, "weight": weight}[frozen].requires_grad_(False)
    token_log_likelihood(states, weight, targets).backward(gradient)
    assert (states.grad is None) == (frozen == "states")
    assert (weight.grad is None) == (frozen == "weight")


def test_large_logits_neither_overflow_nor_vanish():
    states = torch.tensor([[1e4], [-1e4]])
    weight = torch.tensor([[1.0], [-1.0]], requires_grad=True)
    actual = token_log_likelihood(states, weight, torch.tensor([0, 0]))
    assert actual.tolist() == [0.0, -2e4]


def test_bfloat16_is_close():
    states, weight, targets, gradient = tokens_of(200, hidden=16, words=50, dtype=torch.float32)
    exact = reference(states, weight, targets)
    rounded = [each.detach().bfloat16().requires_grad_() for each in (states, weight)]
    actual = token_log_likelihood(*rounded, targets)
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
    states.requires_grad_()
    torch.testing.assert_close(readout(states, batch), expected)
    readout(states, batch).sum().backward()
    assert readout.weight.grad.isfinite().all()
    assert not states.grad[~batch.mask].any()
    with torch.no_grad():
        torch.testing.assert_close(readout(states, batch), expected)


@pytest.mark.parametrize("words", [WORDS, 200])
def test_padded_rows_give_what_gathered_ones_give(words, batch):
    """Values and gradients of the targets alone: padding adds nothing, whatever its place."""
    torch.manual_seed(1)
    readout = Readout(15, words).double()
    states = torch.randn(*batch.mask.shape, 15, dtype=torch.float64, requires_grad=True)
    nats = readout.by_position(states, batch)
    gathered = token_log_likelihood(states[batch.mask], readout.weight, batch.targets[batch.mask])
    assert not nats[~batch.mask].any()
    torch.testing.assert_close(nats[batch.mask], gathered, rtol=1e-13, atol=1e-13)
    scale = torch.linspace(-1, 2, len(gathered), dtype=torch.float64)
    wanted = (states, readout.weight)
    pairs = zip(
        torch.autograd.grad(nats[batch.mask], wanted, scale),
        torch.autograd.grad(gathered, wanted, scale),
        strict=True,
    )
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
