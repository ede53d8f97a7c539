"""Laws of a model that is evaluated: the same for everyone, whatever its training was."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from collapse_bench.corpus import Batch
from collapse_bench.corpus.vocabulary import PAD
from collapse_bench.evaluation import bound_of, wider
from collapse_bench.laws.bench import (
    Arrays,
    Built,
    head_of,
    numbers,
    same_array,
    same_arrays,
)
from collapse_bench.laws.law import DoesNotApply, LawBroken, Subject
from collapse_bench.metrics.identities import INFINITE, OF_SOME
from collapse_bench.model import Forward
from collapse_bench.record import read_model, write_model

ROUNDING = 1e-5
"""Relative and absolute, nats: other batches and other padding round otherwise."""

SENTENCES, SIZES_OF_BATCHES = 13, (4, 16)
"""A rest of one, and fewer sentences than a batch takes."""


def evaluation_changes_nothing_and_repeats(subject: Subject) -> None:
    """An evaluation leaves weights, buffers, modes, gradients and generators as they were, whatever
    the mode was, and a second one is the same; only other noise gives other numbers."""
    corpus, built = subject.corpus, subject.make()
    built.steps(corpus, 2)
    for mode in (True, False):
        built.model.train(mode)
        before = state_of(built)
        first = built.evaluate(corpus.valid)
        after = state_of(built)
        if changed := [name for name, was in before.items() if not same_value(was, after[name])]:
            raise LawBroken(f"evaluating changes {', '.join(changed)}")
        if differing := different(first, built.evaluate(corpus.valid)):
            raise LawBroken(f"a second evaluation gives another {', '.join(differing)}")


def evaluation_is_the_same_for_every_batch_size(subject: Subject) -> None:
    """A sentence's numbers are the same however many are evaluated at once: statistics of a batch
    belong into buffers, which evaluation uses and training fills."""
    corpus, built = subject.corpus, subject.make()
    built.steps(corpus, 4)
    split = head_of(corpus.train, SENTENCES)
    single = numbers(built.evaluate(split, batch=1))
    for size in SIZES_OF_BATCHES:
        together = numbers(built.evaluate(split, batch=size))
        for name, value in single.items():
            if not np.allclose(value, together[name], rtol=ROUNDING, atol=ROUNDING, equal_nan=True):
                worst = float(np.abs(value - together[name]).max())
                raise LawBroken(f"with {size} at once {name} differs by up to {worst:.2g}")


def evaluation_leaves_one_row_a_sentence(subject: Subject) -> None:
    """Every sentence gets one finite row of each array, float32, and the same one with the decoder
    left out."""
    corpus, built = subject.corpus, subject.make()
    arrays, n = built.evaluate(corpus.valid, samples=3), len(corpus.valid)
    one = {name: value for name, value in arrays.items() if value.ndim}
    for name, value in one.items():
        if len(value) != n:
            raise LawBroken(f"{name} has {len(value)} rows for {n} sentences")
    for name, value in numbers(one).items():
        unknown = ~np.isfinite(value)
        if name in INFINITE:
            unknown &= value != -np.inf
        elif name in OF_SOME:
            unknown &= ~np.isnan(value)
        if unknown.any():
            raise LawBroken(f"{name} is not finite: {value[unknown][:3].tolist()}")
        if value.dtype.kind == "f" and value.dtype != np.float32 and name in TERMS:
            raise LawBroken(f"{name} is {value.dtype}, not float32")
    if not np.array_equal(arrays["tokens"], corpus.valid.lengths):
        raise LawBroken("tokens are not those of the sentences")
    if "posterior_scale" in arrays and not (arrays["posterior_scale"] > 0).all():
        raise LawBroken("posterior_scale must be positive")
    posterior = built.evaluate(corpus.valid, samples=0)
    differing = [
        name
        for name, value in posterior.items()
        if name not in ("kl", "log_ratio") and not same_array(value, arrays[name])
    ]
    if differing:
        raise LawBroken(f"without the decoder {', '.join(differing)} is another")


TERMS = ("kl", "distortion", "log_weights", "log_density", "log_prior", "posterior_sample")


def evaluation_does_not_know_how_the_model_was_trained(subject: Subject) -> None:
    """A model that was trained by objective and step alone is a plain VAE: the same weights
    evaluate the same without the remedy."""
    if "build" in subject.levers:
        raise DoesNotApply("it is part of the model")
    corpus, built, plain = subject.corpus, subject.make(), subject.plain()
    built.steps(corpus, 4)
    plain.model.load_state_dict(built.model.state_dict())
    if names := different(built.evaluate(corpus.valid), plain.evaluate(corpus.valid)):
        raise LawBroken(f"with the remedy {', '.join(names)} is another")


def a_saved_model_evaluates_the_same(subject: Subject) -> None:
    """Weights and buffers are the whole model: written, and read into one that was built anew, they
    evaluate the same to the bit. Weights that slots share are written for each."""
    corpus, built = subject.corpus, subject.make()
    built.steps(corpus, 3)
    expected = built.evaluate(corpus.valid)
    other = subject.make(seed=2)
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder), built.model.state_dict())
        read_model(Path(folder), other.model)
    if names := different(expected, other.evaluate(corpus.valid)):
        raise LawBroken(
            f"read into a new model {', '.join(names)} is another: something lasts that is neither"
            f" a weight nor a buffer"
        )


def padding_changes_nothing(subject: Subject) -> None:
    """Columns past the end of every sentence of a batch change neither rate nor likelihood."""
    built, batch = subject.make(), subject.batch
    model = built.model.eval()
    with torch.no_grad():
        short, wide = (model(each, torch.ones) for each in (batch, padded(batch, 4)))
    for name, one, other in pairs(short, wide):
        if not torch.allclose(one, other, rtol=1e-5, atol=1e-5):
            raise LawBroken(f"with more padding {name} moves by up to {apart(one, other):.2g}")


def no_sentence_depends_on_its_neighbours(subject: Subject) -> None:
    """In evaluation a sentence's rate and likelihood stay as they are when another one of its batch
    is changed; and they do depend on its own words."""
    built, batch = subject.make(), subject.batch
    model = built.model.eval()
    targets, real = batch.targets.clone(), batch.targets.is_floating_point()
    targets[0, 0] = targets[0, 0] + 1 if real else other_word(int(targets[0, 0]))
    with torch.no_grad():
        before, after = (
            model(each, torch.ones) for each in (batch, replace(batch, targets=targets))
        )
    if torch.equal(before.distortion[0], after.distortion[0]):
        raise LawBroken("a sentence with another first word has the same likelihood")
    for name, one, other in pairs(before, after):
        if not torch.allclose(one[1:], other[1:], rtol=1e-5, atol=1e-5):
            how = apart(one[1:], other[1:])
            raise LawBroken(f"another sentence's word moves {name} by up to {how:.2g}")


def its_bound_is_one(subject: Subject) -> None:
    """Its NLL is a bound on -log p(x): the decoder does not see what it predicts, probabilities sum
    to 1, z reaches the likelihood through the decoder's arguments alone, the prior looks at no
    sentence, the posterior's density is that of its draws, so that the mean of log q/p is the rate.
    """
    corpus, built = subject.corpus, subject.make()
    built.steps(corpus, 4)
    for widened in (False, True):  # see `wider`; but wide posteriors are hard to see in the rate
        model = wider(built.model) if widened else built.model
        split = head_of(corpus.train, 24) if widened else corpus.train
        bound = bound_of(model, split, batch=16, seed=1)
        if bound.kind != "valid":
            raise LawBroken(f"its bound is {bound.kind}: {'; '.join(bound.reasons)}")


def state_of(built: Built) -> dict[str, Any]:
    """What an evaluation has to leave as it is, by name."""
    model = built.model
    return {
        **{name: value.clone() for name, value in model.state_dict().items()},
        "a mode": [part.training for part in model.modules()],
        "a gradient": [id(parameter.grad) for parameter in model.parameters()],
        "requires_grad": [parameter.requires_grad for parameter in model.parameters()],
        "torch's generator": torch.get_rng_state(),
        "numpy's generator": np.random.get_state()[1].copy(),  # type: ignore[index]  # noqa: NPY002
    }


def same_value(one: Any, other: Any) -> bool:
    """Whether two parts of a state are the same."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    return same_array(np.asarray(one), np.asarray(other))


def different(one: Arrays, other: Arrays) -> list[str]:
    """Names of the arrays that are not bitwise equal."""
    if one.keys() != other.keys():
        return sorted(one.keys() ^ other.keys())
    return [name for name in one if not same_arrays({name: one[name]}, {name: other[name]})]


def pairs(one: Forward, other: Forward) -> list[tuple[str, torch.Tensor, torch.Tensor]]:
    """What is compared of two passes, by name."""
    return [
        ("the draw of the posterior", one.z, other.z),
        ("the rate", one.kl, other.kl),
        ("log p(x|z)", one.distortion, other.distortion),
    ]


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference."""
    return float((one - other).abs().max())


def other_word(word: int) -> int:
    """A different word, never a special one."""
    first, words = 4, 37
    return first + (word - first + 1) % words


def padded(batch: Batch, columns: int) -> Batch:
    """The same batch with more padding at its end."""

    def wide(x: torch.Tensor, value: float) -> torch.Tensor:
        return F.pad(x, (*[0] * 2 * (x.dim() - 2), 0, columns), value=value)

    return replace(
        batch,
        targets=wide(batch.targets, PAD),
        inputs=wide(batch.inputs, PAD),
        mask=wide(batch.mask, False),
    )
