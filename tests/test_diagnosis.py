"""One question of any model: models whose answer is known, models that are wrong, what is said."""

import math

import matplotlib.image
import numpy as np
import pytest
import torch
from conftest import make

import collapse_bench
from collapse_bench.diagnosis import diagnose, examine
from collapse_bench.diagnosis.report import ADVICE
from collapse_bench.errors import UserError
from collapse_bench.metrics import VERDICTS, fooled
from collapse_bench.truth.controls import controls

N = 400


def told(model, sentences, lengths=None, **changes):
    settings = {"samples": 32, "batch": 400, "refined": 16}
    return diagnose(model, sentences, lengths, **settings | changes)


# Models whose answer is known


CONTROLS = {control.name: control for control in controls(N)}


@pytest.fixture(scope="module")
def diagnoses():
    """The diagnosis of every control, each made once."""
    made = {}

    def of(name):
        if name not in made:
            control = CONTROLS[name]
            made[name] = told(control.model, control.sentences, control.lengths)
        return made[name]

    return of


@pytest.mark.parametrize("name", CONTROLS)
def test_every_control_has_its_verdict_and_fools_what_it_should(name, diagnoses):
    control, found = CONTROLS[name], diagnoses(name)
    assert found.verdict == control.verdict
    assert fooled(found.scores.metrics) == list(control.fooled)


@pytest.mark.parametrize("name", CONTROLS)
def test_what_is_said_holds_verdict_numbers_and_advice(name, diagnoses):
    control, found = CONTROLS[name], diagnoses(name)
    text = str(found)
    metrics, errors = found.scores
    assert text.startswith(f"verdict: {control.verdict.upper()}\n  {VERDICTS[control.verdict]}\n")
    assert text.endswith(f"try next: {ADVICE[control.verdict]}")
    for number in (
        "useful_beyond", "information_beyond", "trivial_information", "information_given_length",
        "useful_information", "useful_rate", "mutual_information", "kl", "nll", "negative_elbo",
        "marginal_kl", "shuffle_gap", "shuffle_gap_any",
    ):  # fmt: skip
        assert f"{round(metrics[number], 2) + 0.0:8.2f} ± {errors[number]:.2f}" in text
    assert f"evidence ({N} sentences" in text
    assert f"ln N = {math.log(N):.2f}" in text
    assert f"{found.evidence.gaps.refined_use:.2f}" in text
    assert "(16 sentences)" in text
    alone = f"read alone, {', '.join(control.fooled)} would call this model alive"
    assert (alone in text) == bool(control.fooled)
    assert ("would call this model alive" in text) == bool(control.fooled)
    assert "nan" not in text


def test_where_z_helps_is_told_by_position(diagnoses):
    for name, control in CONTROLS.items():
        positions, saved, error = diagnoses(name).position_use
        count = control.model.log_likelihood(
            control.sentences[:1], control.model.posterior(control.sentences[:1]).mean
        ).shape[1]
        assert positions.tolist() == list(range(count))
        assert saved.shape == error.shape == (count,)
        if control.verdict in ("collapsed", "rate without use"):
            # The decoder never looks: nothing is saved anywhere.
            assert (saved == 0).all()
    _, saved, error = diagnoses("linear VAE at its optimum").position_use
    assert (saved > 4 * error).all()


def test_refined_posteriors_tell_inference_collapse_from_a_blind_decoder(diagnoses):
    lost = diagnoses("encoder at the prior, decoder uses z").evidence.gaps
    assert lost.refined_use > 0.5
    assert lost.amortisation > 0.5
    blind = diagnoses("collapsed VAE").evidence.gaps
    assert abs(blind.refined_use) < 0.1
    assert abs(blind.amortisation) < 0.1
    best = diagnoses("linear VAE at its optimum").evidence.gaps
    assert abs(best.amortisation) < 0.05


def test_neither_the_batch_nor_the_kind_of_the_sentences_changes_the_answer(diagnoses):
    control = CONTROLS["linear VAE at its optimum"]

    class Listed:
        def posterior(self, sentences):
            return control.model.posterior(torch.stack(sentences))

        def prior(self, sentences):
            return control.model.prior(torch.stack(sentences))

        def log_likelihood(self, sentences, z):
            return control.model.log_likelihood(torch.stack(sentences), z)

    whole = diagnoses(control.name)
    found = told(Listed(), list(control.sentences), control.lengths.tolist(), batch=37)
    assert found.verdict == whole.verdict
    assert found.scores.metrics == pytest.approx(whole.scores.metrics, rel=1e-9, abs=1e-9)
    assert found.evidence.gaps.refined_use == pytest.approx(whole.evidence.gaps.refined_use)


def test_the_same_seed_gives_the_same_answer_and_another_one_hardly_another(diagnoses):
    control = CONTROLS["linear VAE at its optimum"]
    whole = diagnoses(control.name)
    same = told(control.model, control.sentences, control.lengths)
    assert str(same) == str(whole)
    other = told(control.model, control.sentences, control.lengths, seed=1)
    assert other.verdict == whole.verdict
    assert other.scores.metrics["kl"] == pytest.approx(whole.scores.metrics["kl"])
    assert other.scores.metrics["nll"] != whole.scores.metrics["nll"]


def test_the_package_offers_it_by_name():
    assert collapse_bench.diagnose is diagnose
    with pytest.raises(AttributeError, match="nothing"):
        _ = collapse_bench.nothing


# The picture


def test_the_picture_is_a_png_and_the_same_every_time(diagnoses, tmp_path):
    for number, name in enumerate(("collapsed VAE", "linear VAE at its optimum")):
        path = tmp_path / f"{number}.png"
        diagnoses(name).draw(str(path) if number else path, title="$ _ mine")
        pixels = matplotlib.image.imread(path)
        assert pixels.shape[0] > 300
        assert pixels.std() > 0.05
    diagnoses("collapsed VAE").draw(tmp_path / "again.png", title="$ _ mine")
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "0.png").read_bytes()


# Models of the bench


@pytest.mark.parametrize("remedies", [(), ("delta_vae",), ("limited_receptive_field",)])
def test_a_model_of_the_bench_is_examined_with_its_arrays(architecture, remedies, corpus, tmp_path):
    built = make(architecture, remedies)
    arrays = built.evaluate(corpus.test, samples=8)
    found = examine(built.model, corpus.test, arrays, refined=4)
    assert found.verdict in VERDICTS
    assert f"evidence ({len(corpus.test)} sentences" in str(found)
    assert "length and first words tell z" in str(found)
    assert "share of the known attributes" in str(found)
    positions, saved, error = found.position_use
    assert len(positions) == len(saved) == len(error) > 0
    assert np.isfinite(saved).all()
    found.draw(tmp_path / "a.png")
    if "delta_vae" in remedies:
        assert found.evidence.gaps.refined_rate >= 1.5 - 1e-3, "a floor holds for any posterior"


def test_one_test_sentence_is_no_verdict(corpus, tmp_path):
    built = make("lstm")
    test = corpus.test
    one = type(test)(test.tokens[: test.offsets[1]], test.offsets[:2])
    found = examine(built.model, one, built.evaluate(one, samples=8))
    assert found.verdict == "too few sentences"
    assert "nan" not in str(found)
    assert "inf" not in str(found).replace("information", "").replace("inference", "")
    assert found.draw(tmp_path / "a").exists()


def test_arrays_of_another_model_are_not_examined_silently(corpus):
    built = make("lstm")
    arrays = built.evaluate(corpus.test, samples=8)
    with pytest.raises(UserError, match="distortion"):
        examine(built.model, corpus.test, arrays | {"distortion": arrays["distortion"] * np.nan})
