"""Training steps and the vocabulary product."""

import pytest
import torch
from torch.nn import functional as F

from benchmarks import reference
from benchmarks.conftest import new_reference, new_run
from collapse_bench.corpus import Batch
from collapse_bench.evaluation import evaluating
from collapse_bench.model import INFERENCE
from collapse_bench.precision import products_in, resolve_precision

ROUNDS = 3
SENTENCES, LENGTH = 32, 22
"""Of the vocabulary product: an average batch of the Penn Treebank, 704 tokens."""
PRODUCTS, PRODUCT_ROUNDS = 4, 5


@pytest.mark.parametrize("architecture", ["lstm", "transformer"])
def test_both_sides_are_the_same_model(architecture, cells, corpus, batches):
    model, same = (new(cells[architecture], corpus) for new in (new_run, new_reference))
    same.load_state_dict(model.model.state_dict())
    same.eval()
    batch = batches[0]
    with evaluating(model.model):
        q = model.model.posterior(batch, torch.zeros_like)
        ours = model.model.log_likelihood(batch, q.mean)
        mean, log_variance = same.encode(batch)
        torch.testing.assert_close(q.mean, mean, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(q.variance, log_variance.exp(), atol=1e-5, rtol=1e-4)
        plain = -same.distortion(batch.inputs, batch.targets, mean)
        torch.testing.assert_close(ours, plain, atol=1e-3, rtol=1e-4)


def steps(race, batches, run, model, optimizer, **keywords):
    """A round of training steps, on the same batches."""

    def plain():
        for batch in batches:
            reference.training_step(model, optimizer, batch)

    def ours():
        for batch in batches:
            run.update(batch, **keywords)

    tokens = sum(batch.tokens for batch in batches)
    race(reference=plain, bench=ours, rounds=ROUNDS, work=tokens, unit="tokens")


@pytest.mark.benchmark(group="train_step_lstm")
def test_train_step_lstm(race, cells, corpus, batches):
    model = new_reference(cells["lstm"], corpus)
    optimizer = reference.adam(model.parameters())
    steps(race, batches, new_run(cells["lstm"], corpus), model, optimizer)


@pytest.mark.benchmark(group="train_step_transformer")
def test_train_step_transformer(race, cells, corpus, batches):
    model = new_reference(cells["transformer"], corpus)
    optimizer = reference.adam(model.parameters())
    steps(race, batches, new_run(cells["transformer"], corpus), model, optimizer)


@pytest.mark.benchmark(group="encoder_step")
def test_encoder_step(race, cells, corpus, batches):
    model = new_reference(cells["lstm"], corpus)
    optimizer = reference.adam(model.inference_parameters())
    steps(race, batches, new_run(cells["lstm"], corpus), model, optimizer, only=INFERENCE)


@pytest.mark.benchmark(group="train_step_lstm_sgd")
def test_train_step_lstm_sgd(benchmark, cells, corpus, batches):
    """The reference with the optimiser of the public code, to hold it against that one's figures;
    the bench is not in it."""
    model = new_reference(cells["lstm"], corpus)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, foreach=False, fused=False)

    def plain():
        for batch in batches:
            reference.training_step(model, optimizer, batch)

    benchmark.pedantic(plain, rounds=ROUNDS, warmup_rounds=1)
    tokens = sum(batch.tokens for batch in batches)
    benchmark.extra_info.update(only="reference", work=tokens, unit="tokens")


@pytest.mark.benchmark(group="vocabulary_product")
def test_vocabulary_product(race, benchmark, machine, cells, corpus):
    """States to log-likelihoods and back: three products with the vocabulary matrix."""
    cell, vocabulary = cells["lstm"], corpus.vocabulary.size
    readout = new_run(cell, corpus).model.readout
    weight = readout.weight.detach().clone().requires_grad_()
    states = torch.randn(SENTENCES, LENGTH, cell.sizes.hidden, requires_grad=True)
    targets = torch.randint(4, vocabulary, (SENTENCES, LENGTH))
    lengths = torch.full((SENTENCES,), LENGTH)
    everywhere = torch.ones_like(targets, dtype=torch.bool)
    tokens = targets.numel()
    nobody = torch.full((SENTENCES,), -1)
    index = torch.arange(SENTENCES)
    batch = Batch(targets, targets, everywhere, lengths, index, nobody, counted=tokens)

    def plain():
        for _ in range(PRODUCTS):
            states.grad = weight.grad = None
            logits = F.linear(states.flatten(0, 1), weight)
            F.cross_entropy(logits, targets.flatten(), reduction="none").sum().backward()

    def ours():
        for _ in range(PRODUCTS):
            states.grad = readout.weight.grad = None
            with products_in(cell.training.precision, "cpu"):
                log_likelihood = readout(states, batch)
            log_likelihood.sum().backward()

    gflop = PRODUCTS * 3 * 2 * tokens * cell.sizes.hidden * vocabulary / 1e9
    race(reference=plain, bench=ours, rounds=PRODUCT_ROUNDS, work=gflop, unit="GFLOP")
    if benchmark.stats:
        rate = gflop / benchmark.stats["median"]
        benchmark.extra_info["gflop_per_s"] = rate
        precision = resolve_precision(cell.training.precision, "cpu")
        benchmark.extra_info["precision"] = precision
        benchmark.extra_info["share_of_ceiling"] = rate / machine[f"gflop_per_s_{precision}"]
