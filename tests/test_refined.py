"""Refined posteriors in evaluation: the same descent for every entry, measured by other noise."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import make
from leaderboard_records import page_of, record
from test_evaluation import KnownEvidence, log_evidence

from collapse_bench.corpus import evaluation_batches
from collapse_bench.evaluation import SentenceNoise, evaluate
from collapse_bench.evaluation.importance import first_draws
from collapse_bench.evaluation.refined import CLIP, MOMENTUM, STEP_SIZE, refined_terms
from collapse_bench.laws.bench import TRAINING
from collapse_bench.metrics import ArraysError, absent, score
from collapse_bench.model.distributions import closed_rate, draw
from collapse_bench.model.refinement import Descent, normal_of, parameters_of
from collapse_bench.remedies.training.semi_amortised import SemiAmortised
from collapse_bench.suite import Cell, CorpusSettings, Entry, Evaluation, Sizes, cell_id
from collapse_bench.truth.gaussian import CorrelatedNormal


def evaluated(model, split, **settings):
    how = {"samples": 8, "batch": 16, "seed": 3} | settings
    return evaluate(model, split, **how)


@pytest.mark.parametrize(("spread", "shift"), [(0.5, 2.0), (1.4, 0.5)])
def test_the_gain_is_the_amortisation_gap_where_the_descent_is_done(spread, shift, corpus):
    model = KnownEvidence(spread, shift)
    arrays = evaluated(model, corpus.train, samples=64, refinement=400)
    metrics, errors = score(arrays)
    gap = spread**2 - 1 - 2 * math.log(spread) + 2 * shift**2
    assert metrics["refinement_gain"] == pytest.approx(gap, abs=0.1)
    assert metrics["refined_bound"] == pytest.approx(-log_evidence(corpus.train).mean(), abs=0.1)
    assert metrics["negative_elbo"] - metrics["refined_bound"] == pytest.approx(
        metrics["refinement_gain"]
    )
    # Both are measured by the same draws.
    assert errors["refinement_gain"] < 0.7 * errors["negative_elbo"]


def test_the_arrays_by_hand(architecture, corpus):
    model = make(architecture).model.eval()
    arrays = evaluated(model, corpus.valid, batch=6, refinement=3, standard_error=1e9)
    (batch,) = evaluation_batches(corpus.valid, 6)
    noise = SentenceNoise(len(corpus.valid), 3)
    with torch.no_grad():
        q = model.posterior(batch, torch.zeros)
        p = model.prior(q, batch)
    seen = []

    def energy(posterior):
        seen.append(noise.of(batch, -1 - len(seen))(q.mean.shape))
        nats = model.log_likelihood(batch, draw(posterior, seen[-1]))
        return closed_rate(posterior, p).sum(1) - nats

    refined = normal_of(Descent(3, STEP_SIZE, MOMENTUM, CLIP)(parameters_of(q), energy))
    drawn = [draw(refined, noise.of(batch, n)(q.mean.shape)) for n in range(4)]
    assert first_draws(8, 1e9, 3) == len(drawn)
    with torch.no_grad():
        nats = torch.stack([model.log_likelihood(batch, z) for z in drawn]).mean(0)
    order = batch.index.numpy()
    np.testing.assert_allclose(arrays["refined_distortion"][order], -nats, rtol=1e-5)
    np.testing.assert_allclose(
        arrays["refined_kl"][order], closed_rate(refined, p), rtol=1e-4, atol=1e-5
    )  # fmt: skip


@pytest.mark.parametrize("names", [[], ["semi_amortised"]], ids=["vae", "semi_amortised"])
def test_what_is_measured_without_it_stays_and_no_batch_size_changes_it(
    names, architecture, corpus
):
    model = make(architecture, names).model
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    plain, refined, single = (
        evaluated(model, corpus.valid, refinement=steps, batch=size)
        for steps, size in ((0, 16), (2, 16), (2, 1))
    )
    more = refined.keys() - plain.keys()
    assert more == {"refined_kl", "refined_distortion"}
    assert all(np.array_equal(plain[name], refined[name], equal_nan=True)
               for name in plain if plain[name].dtype.kind == "f")  # fmt: skip
    for name in more:
        np.testing.assert_allclose(single[name], refined[name], rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_family_without_mean_and_scale_has_none_and_it_is_said_why():
    q = CorrelatedNormal(torch.zeros(3, 2), torch.eye(2))
    assert refined_terms(None, None, q, q, None, steps=1, draws=1) == {}
    for name in ("refined_bound", "refinement_gain"):
        assert "only a diagonal normal" in absent("other")[name]
        assert name not in absent("normal")


def test_half_of_the_arrays_is_refused(corpus):
    arrays = evaluated(KnownEvidence(), corpus.valid, refinement=1)
    del arrays["refined_kl"]
    with pytest.raises(ArraysError, match="no array refined_kl"):
        score(arrays)


def test_a_cell_has_the_id_that_it_had_where_it_is_off():
    sizes = Sizes(embedding=10, hidden=15, latent=8)
    cell = Cell("tiny", Entry("vae"), "lstm", 1, CorpusSettings(), sizes, TRAINING, Evaluation())
    ids = [
        cell_id(replace(cell, evaluation=Evaluation(refinement=steps)), "ptb", "0", None, 9)
        for steps in (0, 1, 2)
    ]
    assert ids[0] == cell_id(cell, "ptb", "0", None, 9)
    assert len(set(ids)) == 3


def test_the_page_has_the_columns_where_a_record_has_the_numbers():
    plain = page_of([record("vae")])
    refined = page_of([record("vae"), record("svi", refined_bound=103.5, refinement_gain=0.6)])
    for title in ("refined R + D", "gain of refining"):
        assert title not in plain
        assert title in refined
    assert "103.50" in refined


def test_it_is_the_descent_of_the_remedy():
    remedy = SemiAmortised()
    assert (remedy.step_size, remedy.momentum, remedy.clip) == (STEP_SIZE, MOMENTUM, CLIP)
