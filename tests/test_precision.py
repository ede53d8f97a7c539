"""Products in float32 or bfloat16: what `auto` is, and that the results are the same."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from conftest import SIZES, TRAINING, Built, make, needs_bfloat16, same_arrays
from safetensors.torch import load_file

from collapse_bench.errors import UserError
from collapse_bench.evaluation import evaluate, negative_elbo
from collapse_bench.metrics import score
from collapse_bench.precision import products_in, resolve_precision
from collapse_bench.record import MODEL, write_model
from collapse_bench.runner import plan
from collapse_bench.suite import Cell, CorpusSettings, Entry, Evaluation
from collapse_bench.training import TrainingRun, stream_seed

PROCESSORS = {
    "none": ({"avx512_f": True, "avx512_bf16": False}, "float32"),
    "unknown": ({}, "float32"),
    "avx512": ({"avx512_bf16": True, "amx_bf16": False}, "bfloat16"),
    "amx": ({"amx_bf16": True}, "bfloat16"),
    "arm": ({"neon": True, "bf16": True}, "bfloat16"),
}
"""What torch says of processors, and what `auto` is there."""

processors = pytest.mark.parametrize(
    ("capabilities", "resolved"), PROCESSORS.values(), ids=PROCESSORS.keys()
)


def emulated(monkeypatch, answer):
    """Make oneDNN say that it can or cannot do without such instructions."""
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: answer)


# What is computed in


@processors
def test_auto_is_bfloat16_where_the_processor_has_instructions(capabilities, resolved, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    emulated(monkeypatch, True)
    assert resolve_precision("auto", "cpu") == resolved
    for wanted in ("float32", "bfloat16"):
        assert resolve_precision(wanted, "cpu") == wanted
    with products_in("auto", "cpu"):
        product = torch.ones(2, 3) @ torch.ones(3, 2)
    assert product.dtype == getattr(torch, resolved)


@processors
def test_bfloat16_is_refused_where_it_can_not_even_be_emulated(capabilities, resolved, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    emulated(monkeypatch, False)
    assert resolve_precision("auto", "cpu") == resolved
    assert resolve_precision("float32", "cpu") == "float32"
    if resolved == "bfloat16":
        assert resolve_precision("bfloat16", "cpu") == "bfloat16"
        return
    for refuse in (resolve_precision, products_in):
        with pytest.raises(UserError, match="this processor cannot compute in it; write auto"):
            refuse("bfloat16", "cpu")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: False)
    assert resolve_precision("auto", "cuda") == "float32"
    with pytest.raises(UserError, match="this GPU cannot"):
        resolve_precision("bfloat16", "cuda")


@pytest.mark.parametrize("part", ["training", "evaluation"])
def test_a_run_refuses_a_precision_before_any_cell_starts(part, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    emulated(monkeypatch, False)
    settings = {"training": TRAINING, "evaluation": Evaluation(precision="float32")}
    settings[part] = replace(settings[part], precision="bfloat16")
    cell = Cell("tiny", Entry("vae"), "lstm", 1, CorpusSettings(), SIZES, **settings)

    def planned():
        return plan([cell], corpus, tmp_path, budget=None, device="cpu", remedy_files={})

    with pytest.raises(UserError, match=rf"{part}\.precision: bfloat16: this processor"):
        planned()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    assert len(planned()) == 1


@pytest.mark.parametrize("native", [True, False])
def test_auto_on_a_gpu_asks_the_gpu_and_takes_no_emulation(native, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)

    def supported(including_emulation=True):
        return including_emulation or native

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert resolve_precision("auto", "cuda") == ("bfloat16" if native else "float32")
    for wanted in ("float32", "bfloat16"):
        assert resolve_precision(wanted, "cuda") == wanted


@needs_bfloat16
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_products_are_in_the_precision_asked_for_even_inside_another(precision):
    x = torch.ones(3, 3)
    for outer in ("float32", "bfloat16"):
        with products_in(outer, "cpu"):
            with products_in(precision, "cpu"):
                assert (x @ x).dtype == getattr(torch, precision)
                assert (x + x).dtype == x.softmax(1).dtype == torch.float32
            assert (x @ x).dtype == getattr(torch, outer)
    assert (x @ x).dtype == torch.float32


# The same results


@dataclass
class Trained:
    """A model after training in one precision, and the run that it was trained in."""

    built: Built
    run: TrainingRun
    bound: float


STEPS = {"lstm": 1000, "transformer": 200}


@pytest.fixture(scope="module")
def trained(corpus):
    """By architecture and precision: models of one seed; those in float32 and bfloat16 differ."""
    results = {}

    def train(architecture, precision):
        key = architecture, precision
        if key not in results:
            built = make(architecture, layers=1)
            run = built.steps(
                corpus, STEPS[architecture],
                budget=10**6, precision=precision, learning_rate=0.001,
            )  # fmt: skip
            arrays = evaluate(built.model, corpus.valid, samples=8, batch=6, seed=1)
            results[key] = Trained(built, run, negative_elbo(arrays))
        return results[key]

    return train


@needs_bfloat16
def test_models_trained_in_either_precision_have_the_same_bound(architecture, trained, corpus):
    untrained = make(architecture, layers=1)
    untrained = negative_elbo(untrained.evaluate(corpus.valid))
    exact, reduced = (trained(architecture, each) for each in ("float32", "bfloat16"))
    assert exact.bound < 0.75 * untrained
    assert reduced.bound == pytest.approx(exact.bound, rel=0.003)
    # They are not the same model.
    assert not torch.equal(
        exact.built.model.readout.weight, reduced.built.model.readout.weight
    )  # fmt: skip
    # So do both say of themselves, each in its own precision.
    own = [each.run.validate(samples=8) for each in (exact, reduced)]
    assert negative_elbo(own[1]) == pytest.approx(negative_elbo(own[0]), rel=0.003)
    for each, arrays, precision in zip((exact, reduced), own, ("float32", "bfloat16"), strict=True):
        expected = evaluate(
            each.built.model, corpus.valid, samples=8, batch=10,
            seed=stream_seed(1, "validation"), precision=precision, shuffled=False,
        )  # fmt: skip
        assert same_arrays(arrays, expected)


@pytest.fixture
def saved(architecture, trained, tmp_path):
    """A model that was trained in bfloat16, as it comes back from its file."""
    write_model(tmp_path, trained(architecture, "bfloat16").built.model.state_dict())
    model = make(architecture, layers=1, seed=9).model
    model.load_state_dict(load_file(tmp_path / MODEL))
    return model


def in_precision(model, split, precision):
    return evaluate(model, split, samples=16, batch=64, seed=4, precision=precision)


@needs_bfloat16
def test_every_metric_of_a_saved_model_is_the_same_in_either_precision(saved, corpus):
    exact, reduced = (
        in_precision(saved, corpus.train, each) for each in ("float32", "bfloat16")
    )  # fmt: skip
    assert not np.array_equal(exact["distortion"], reduced["distortion"])
    # Encoded in float32, whatever the decoder's products are in.
    for each in ("tokens", "kl", "posterior_mean", "posterior_scale", "posterior_sample", "draws"):
        assert np.array_equal(exact[each], reduced[each])
    numbers = {name: each.dtype for name, each in reduced.items() if each.dtype.kind == "f"}
    assert set(numbers.values()) == {np.dtype(np.float32)}
    assert numbers.keys() == {
        "kl", "posterior_mean", "posterior_scale", "posterior_sample",
        "distortion", "log_weights", "shuffled_log_likelihood",
    }  # fmt: skip
    (metrics, errors), (others, _) = score(exact), score(reduced)
    for each in ("nll", "negative_elbo", "distortion"):
        assert others[each] == pytest.approx(metrics[each], abs=0.01)
        assert errors[each] > 0.1, "there is something that could differ"
    assert others["shuffle_gap"] == pytest.approx(metrics["shuffle_gap"], abs=0.01)
    for each in ("kl", "mutual_information", "mutual_information_upper", "active_units"):
        assert others[each] == metrics[each]
    assert others["perplexity"] == pytest.approx(metrics["perplexity"], rel=0.001)
    assert others["ess"] == pytest.approx(metrics["ess"], rel=0.01)


@needs_bfloat16
def test_both_precisions_are_those_of_double_precision(saved, corpus):
    exact, reduced = (
        in_precision(saved, corpus.train, each) for each in ("float32", "bfloat16")
    )  # fmt: skip
    double = in_precision(saved.double(), corpus.train, "float32")
    assert double["distortion"].dtype == double["log_weights"].dtype == np.float64
    for each in ("kl", "distortion", "log_weights", "posterior_sample"):
        np.testing.assert_allclose(exact[each], double[each], rtol=0, atol=1e-4)
    for each in ("distortion", "log_weights"):
        difference = reduced[each].astype(np.float64) - double[each]
        assert abs(difference.mean()) < 0.01
        assert difference.std() < 0.1


@needs_bfloat16
@processors
def test_auto_evaluates_in_what_it_resolves_to(capabilities, resolved, saved, corpus, monkeypatch):
    expected = in_precision(saved, corpus.valid, resolved)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert same_arrays(in_precision(saved, corpus.valid, "auto"), expected)
