"""Likelihood, mutual information and active units of a model that has been trained a little."""

import numpy as np
import pytest

from benchmarks import reference
from benchmarks.conftest import pick
from collapse_bench.evaluation import evaluate
from collapse_bench.metrics import posterior_scores
from collapse_bench.metrics.likelihood import importance_weighted_nll

SAMPLES = 500
SENTENCES, SPREAD = 4, 8
"""Sentences of the NLL at equal K, of average length, and of that to a standard error, of any."""
STANDARD_ERROR = 0.05
ROUNDS, SPREAD_ROUNDS, POSTERIOR_ROUNDS = 2, 1, 3
SEED = 1


def likelihood(race, benchmark, pair, split, batch, rounds, *, work, unit, **keywords):
    """NLL with `SAMPLES` draws a sentence; `keywords` may ask for fewer of ours."""
    draws = []

    def plain():
        return float(np.mean(reference.importance_weighted_nll(pair.reference, split, SAMPLES)))

    def ours():
        arrays = evaluate(
            pair.bench, split, samples=SAMPLES, batch=batch, seed=SEED, precision="auto",
            shuffled=False, **keywords,
        )  # fmt: skip
        draws.append(float(arrays["draws"].mean()))
        nll = importance_weighted_nll(arrays["log_weights"], arrays["draws"])
        return float(nll.mean())

    race(reference=plain, bench=ours, rounds=rounds, work=work, unit=unit, sentences=len(split))
    benchmark.extra_info["draws_of_bench"] = draws[-1]


def to_standard_error(race, benchmark, pair, corpus, suite):
    """NLL until no sentence's has a larger Monte-Carlo standard error than `STANDARD_ERROR`.

    The reference takes all of its draws for every sentence and does not look at the error, as the
    public code does.
    """
    split = of_every_length(corpus.test)
    likelihood(
        race, benchmark, pair, split, suite.evaluation.batch, SPREAD_ROUNDS,
        work=len(split), unit="sentences", standard_error=STANDARD_ERROR,
    )  # fmt: skip


def of_average_length(split):
    """The sentences whose length is closest to the mean."""
    distance = np.abs(split.lengths - split.lengths.mean())
    return pick(split, np.argsort(distance, kind="stable")[:SENTENCES])


def of_every_length(split):
    """Sentences at equal steps from short to long."""
    by_length = np.argsort(split.lengths, kind="stable")
    steps = (np.arange(SPREAD) + 0.5) / SPREAD * len(split)
    return pick(split, by_length[steps.astype(int)])


@pytest.mark.benchmark(group="nll")
def test_nll(race, benchmark, collapsing, corpus, suite):
    split = of_average_length(corpus.test)
    likelihood(
        race, benchmark, collapsing, split, suite.evaluation.batch, ROUNDS,
        work=SAMPLES * split.n_tokens, unit="token evaluations",
    )  # fmt: skip


@pytest.mark.benchmark(group="nll_to_standard_error")
def test_nll_to_standard_error(race, benchmark, collapsing, corpus, suite):
    to_standard_error(race, benchmark, collapsing, corpus, suite)


@pytest.mark.benchmark(group="nll_to_standard_error_informative")
def test_nll_to_standard_error_informative(race, benchmark, informative, corpus, suite):
    """Where the latent says something, so that sentences need many draws."""
    arrays = evaluate(informative.bench, corpus.test, samples=0, batch=64, seed=SEED)
    information = posterior_scores(arrays).metrics["mutual_information"]
    assert information > 1, f"the model that is to inform tells {information:.2f} nats"
    benchmark.extra_info["mutual_information"] = information
    to_standard_error(race, benchmark, informative, corpus, suite)


def posterior_metric(race, pair, split, batch, plain, metric):
    """A metric that needs no decoder, from the weights and the text on: encoding is part of it."""

    def ours():
        arrays = evaluate(pair.bench, split, samples=0, batch=batch, seed=SEED, precision="auto")
        return posterior_scores(arrays).metrics[metric]

    race(
        reference=lambda: plain(pair.reference, split, batch),
        bench=ours,
        rounds=POSTERIOR_ROUNDS,
        work=len(split),
        unit="sentences",
    )


@pytest.mark.benchmark(group="mutual_information")
def test_mutual_information(race, collapsing, corpus, suite):
    posterior_metric(
        race, collapsing, corpus.test, suite.evaluation.batch,
        reference.mutual_information, "mutual_information",
    )  # fmt: skip


@pytest.mark.benchmark(group="active_units")
def test_active_units(race, collapsing, corpus, suite):
    posterior_metric(
        race, collapsing, corpus.test, suite.evaluation.batch,
        reference.active_units, "active_units",
    )  # fmt: skip
