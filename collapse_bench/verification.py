"""Exact against estimated: the functions that score a suite, on models whose answers are known."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from collapse_bench.device import one_thread
from collapse_bench.diagnosis import diagnose
from collapse_bench.diagnosis.annealing import annealed_importance_sampling
from collapse_bench.evaluation import evaluate
from collapse_bench.honesty_controls import honesty_controls
from collapse_bench.latent_model import Rows, Scored
from collapse_bench.metrics import Scores, fooled, score
from collapse_bench.truth.blahut_arimoto import curve as rate_distortion_curve
from collapse_bench.truth.blahut_arimoto import point
from collapse_bench.truth.controls import Control, controls
from collapse_bench.truth.copy_strings import CopyStrings
from collapse_bench.truth.families import other_families
from collapse_bench.truth.gaussian import LinearGaussian
from collapse_bench.truth.hmm import HiddenMarkov
from collapse_bench.truth.kalman import linear_dynamics
from collapse_bench.truth.length_strings import BitChannel, LengthStrings
from collapse_bench.truth.linear import linear_vae
from collapse_bench.truth.linear_corpus import drawn, exact_model, optimum
from collapse_bench.truth.sequence import linear_sequence
from collapse_bench.truth.strings import Smooth, Steps, Strings, all_strings, matched

OPTIMUM, MIXTURE = "linear VAE, optimum", "mixture of strings"
SMOOTH = "strings, smooth decoder"
"""Models that have checks beside those of their numbers."""

SENTENCES, SAMPLES, SEED = 2000, 128, 1
LIMIT = 4.0
"""Standard errors over sentences that an estimate may be off. They do not hold the bias of an NLL
of `SAMPLES` draws, which lifts the useful rate of a loose posterior (copy strings with a blind
decoder) by up to three of them: another `SEED` may well fail there."""

OF_THE_MODEL = ("mutual_information_model", "entropy")
"""Exact values that no posterior has a part in."""

BOUNDS: dict[str, tuple[Callable[[Mapping[str, float]], float], ...]] = {
    "mutual_information": (
        lambda of: of["mutual_information"],
        lambda of: of["mutual_information_upper"],
    ),
    "marginal_kl": (
        lambda of: of["kl"] - of["mutual_information_upper"],
        lambda of: of["marginal_kl"],
    ),
    "total_correlation": (
        lambda of: (
            of["total_correlation"]
            - max(0.0, of["mutual_information_upper"] - of["mutual_information"])
        ),
        lambda of: of["total_correlation"],
    ),
    "information_given_length": (
        lambda of: of["information_given_length"],
        lambda of: of["information_given_length_upper"],
    ),
    "information_beyond": (
        lambda of: of["information_beyond"],
        lambda of: of["information_given_length_upper"],
    ),
    "trivial_information": (
        lambda of: of["mutual_information"] - of["information_given_length_upper"],
        lambda of: of["mutual_information_upper"] - of["information_given_length"],
    ),
}
"""Metrics that are bounds of a truth rather than estimates of it: where it must lie, from below and
above, of strings without first words."""

CONTROLLED = 1000
"""Sentences of a control."""

ANNEALED, SLOPES = 32, np.geomspace(0.2, 20, 25)
"""Sentences that are annealed, and slopes at which a rate-distortion curve is computed."""

EXACT = 1e-9
"""Nats by which a number without sampling error may be off."""


@dataclass(frozen=True)
class Check:
    """One number or verdict of one model.

    Attributes:
        model: its name.
        what: metric, or "verdict".
        exact: what is known.
        estimated: what the bench says.
        error: standard error of the estimate, None where there is none to have.
        off: by how many standard errors it is wrong; of a bracket, how far the truth is outside.
        passed: whether that is little enough.
    """

    model: str
    what: str
    exact: str
    estimated: str
    error: float | None
    off: float | None
    passed: bool


def verify() -> Iterator[Check]:
    """Every check, one after another; the same numbers each time."""
    with one_thread():
        models, found = truths(), {}
        for name, model in models.items():
            found[name] = measured(model)
            yield from numbers(name, model.exact(), found[name])
        yield from values()
        yield perplexity_from_distortion(models[SMOOTH], found[SMOOTH])
        yield from curve(models[MIXTURE], found[MIXTURE])
        yield from bounds(models[OPTIMUM])
        for control in controls(CONTROLLED):
            yield from verdicts(control)
        yield from honesty()


def measured(model: Any) -> Scores:
    """What the bench says of a model on sentences that the model has drawn."""
    sentences = model.draw(SENTENCES, torch.Generator().manual_seed(SEED))
    lengths = model.lengths(sentences) if isinstance(model, LengthStrings) else None
    rows = Rows.of(sentences, lengths)
    return score(evaluate(Scored(model), rows, samples=SAMPLES, batch=SENTENCES, seed=SEED))


def truths() -> dict[str, Any]:
    """Exactly solvable models, by name; each draws its own sentences."""
    generator = torch.Generator().manual_seed(SEED)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    spectrum = torch.tensor([6.0, 3.0, 2.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    turn = torch.linalg.qr(normal(3, 3)).Q
    optimum = linear_vae(spectrum, 3)
    sequence = linear_sequence(
        0.4 * normal(1, 2, 2), 0.5 * normal(2, 2), torch.eye(2, dtype=torch.float64), 6
    )
    dynamics = linear_dynamics(0.6, 0.2 * normal(2, 2), torch.eye(2, dtype=torch.float64), 4)
    words = matched(Steps(normal(3).softmax(0), (1.5 * normal(3, 4, 3)).softmax(-1)), 6)
    smooth = matched(Smooth(normal(4, 3), normal(4, 3)), 6)
    return {
        OPTIMUM: optimum,
        "linear VAE, rotated": linear_vae(spectrum, 3, turn),
        "linear VAE, posterior mis-set": replace(
            optimum, shift=optimum.shift + 0.3, variance=1.5 * optimum.variance
        ),
        "sequence, full history": sequence,
        "Kalman, best factorised posterior": dynamics,
        "Kalman, posterior at the floor": dynamics.at_floor(),
        MIXTURE: words,
        f"{MIXTURE}, posterior mis-set": replace(
            words, mean=0.6 * words.mean + 0.3, scale=0.8 * words.scale
        ),
        SMOOTH: smooth,
        "hidden Markov model": HiddenMarkov(
            normal(3).softmax(0), (2 * normal(3, 3)).softmax(1), (1.5 * normal(3, 4)).softmax(1), 5
        ),
        "copy strings, window too short": copy_strings(window=1, reads=True),
        "copy strings, window long enough": copy_strings(window=10, reads=True),
        "copy strings, decoder blind": copy_strings(window=1, reads=False),
        "length strings, length and kind in z": length_strings(length=True, kind=True),
        "length strings, length in z": length_strings(length=True, kind=False),
        "length strings, kind in z": length_strings(length=False, kind=True),
        **other_families(SEED),
    }


def copy_strings(window: int, reads: bool) -> CopyStrings:
    """Two global bits, three times, with noise between."""
    noise = torch.tensor([[0.7, 0.2, 0.1], [0.2, 0.2, 0.6], [0.3, 0.4, 0.3]], dtype=torch.float64)
    return CopyStrings(
        bits=2, repeats=3, gap=2, noise=noise, window=window, reads=reads, error=0.1,
        mean=0.8, scale=0.7,
    )  # fmt: skip


def length_strings(length: bool, kind: bool) -> LengthStrings:
    """Strings of three or seven words; what is not in z is at the prior, and not read."""
    told, untold = BitChannel(mean=0.8, scale=0.6, error=0.15), BitChannel(0.0, 1.0, 0.5)
    return LengthStrings(
        short=3, long=7, noise=3, length=told if length else untold,
        kind=BitChannel(mean=0.9, scale=0.4, error=0.3) if kind else untold,
    )  # fmt: skip


def numbers(name: str, exact: Mapping[str, float], scores: Scores) -> Iterator[Check]:
    """A check for every exact value, but those of the model rather than of its posterior."""
    useful = min(exact["useful_rate"], exact["mutual_information"])
    for metric, truth in {"useful_information": useful, **exact}.items():
        if metric in BOUNDS:
            lower, upper = (of(scores.metrics) for of in BOUNDS[metric])
            yield bracketed(name, metric, truth, lower, upper, scores.standard_errors[metric])
        elif metric not in OF_THE_MODEL:
            estimate, error = scores.metrics[metric], scores.standard_errors[metric]
            off = (estimate - truth) / max(error, EXACT / LIMIT)
            yield Check(
                name, metric, f"{truth:.4f}", f"{estimate:.4f}", error, off, abs(off) <= LIMIT
            )


def bracketed(
    name: str, what: str, truth: float, lower: float, upper: float, error: float
) -> Check:
    """A check that a truth is between two bounds, but for their error."""
    off = max(lower - truth, truth - upper, 0.0) / max(error, EXACT / LIMIT)
    told = f"{lower:.4f} to {upper:.4f}"
    return Check(name, what, f"{truth:.4f}", told, error, off, off <= LIMIT)


def values() -> Iterator[Check]:
    """The bench's own linear VAE at its optimum, on the values that it is the model of."""
    sentences = drawn(SENTENCES, SEED)
    arrays = evaluate(optimum(), sentences, samples=SAMPLES, batch=SENTENCES, seed=SEED)
    yield from numbers("linear VAE on linear_gaussian", exact_model().exact(), score(arrays))


def perplexity_from_distortion(model: Strings, scores: Scores) -> Check:
    """The perplexity is that of the NLL; that of D alone would be far lower, and is no perplexity.

    The check fails too if the two could not be told apart.
    """
    reported, error = scores.metrics["perplexity"], scores.standard_errors["perplexity"]
    truth, fake = math.exp(model.exact()["nll"]), math.exp(model.exact()["distortion"])
    off = (reported - truth) / error
    return Check(
        "perplexity from D alone", f"perplexity, from D {fake:.0f}", f"{truth:.0f}",
        f"{reported:.0f}", error, off, abs(off) <= LIMIT < (truth - fake) / error,
    )  # fmt: skip


def curve(model: Strings, scores: Scores) -> Iterator[Check]:
    """The rate-distortion curve of a mixture, by Blahut-Arimoto, against what the bench measures.

    At slope 1 the curve touches R + D = H(x), which is the NLL; and no posterior over the same
    components may lie below it.
    """
    name = f"{MIXTURE}, R-D curve"
    strings = all_strings(model.vocabulary, model.length)
    source = (-model.exact_nll(strings)).exp().numpy()
    distortion = -model.log_likelihood_by_cell(strings).numpy()
    best = point(source, distortion, beta=1.0)
    known = model.exact()
    yield numbers_agree(name, "R + D at slope 1 = H(x)", known["nll"], best.rate + best.distortion)
    spent, told = scores.metrics["distortion"], scores.metrics["mutual_information"]
    rates, distortions = zip(
        *((p.rate, p.distortion) for p in rate_distortion_curve(source, distortion, SLOPES)),
        strict=True,
    )
    least = float(np.interp(spent, distortions, rates))
    error = sum(scores.standard_errors[m] for m in ("distortion", "mutual_information"))
    off = max(least - told, 0.0) / error
    yield Check(
        name, "I is not below R(D)", f">= {least:.4f}", f"{told:.4f}", error, off,
        off <= LIMIT,
    )  # fmt: skip


def numbers_agree(name: str, what: str, one: float, other: float) -> Check:
    """A check of two exact values."""
    off = abs(one - other)
    return Check(name, what, f"{one:.6f}", f"{other:.6f}", None, None, off <= 1e-6)


def bounds(model: LinearGaussian) -> Iterator[Check]:
    """Annealed importance sampling, forwards and backwards, against the exact log p(x)."""
    sentences = model.draw(ANNEALED, torch.Generator().manual_seed(SEED))
    rows, scored = Rows.of(sentences), Scored(model)
    # A draw from the exact posterior is as good as the z that the sentence was made from.
    generator = torch.Generator().manual_seed(SEED)
    exact = model.posterior(sentences)
    z = exact.mean + exact.stddev * torch.randn(
        exact.mean.shape, generator=generator, dtype=torch.float64
    )
    q = scored.posterior(rows, torch.randn)
    found = annealed_importance_sampling(
        scored.log_likelihood,
        scored.prior(q, rows),
        rows,
        chains=8,
        temperatures=100,
        truth=z,
        seed=SEED,
    )
    assert found.upper is not None
    assert found.upper_error is not None
    truth = -model.exact_nll(sentences).numpy()
    error = float(np.sqrt((found.lower_error**2 + found.upper_error**2).mean() / ANNEALED))
    yield bracketed(
        OPTIMUM, "log p(x), annealed from both sides", float(truth.mean()),
        float(found.lower.mean()), float(found.upper.mean()), error,
    )  # fmt: skip


def verdicts(control: Control) -> Iterator[Check]:
    """The verdict of a control, and the metrics that it fools."""
    found = diagnose(
        control.model, control.sentences, control.lengths, batch=CONTROLLED, refined=32, seed=SEED
    )
    alone = ", ".join(fooled(found.scores.metrics))
    yield Check(
        control.name, "verdict", control.verdict, found.verdict, None, None,
        found.verdict == control.verdict,
    )  # fmt: skip
    expected = ", ".join(control.fooled)
    yield Check(
        control.name, "fooled", expected or "none", alone or "none", None, None, alone == expected
    )


def honesty() -> Iterator[Check]:
    """No remedy is accused, and every cheat is caught at what it does."""
    for name, expected, found in honesty_controls():
        yield Check(name, "bound", expected, found, None, None, found == expected)


def table(checks: Sequence[Check]) -> list[str]:
    """The checks as a table in markdown."""
    titles = ["model", "what", "exact", "estimated", "standard error", "off by (SE)", ""]
    rows = [
        [
            check.model,
            check.what,
            check.exact,
            check.estimated,
            "" if check.error is None else f"{check.error:.4f}",
            "" if check.off is None else f"{check.off:.1f}",
            "pass" if check.passed else "**FAIL**",
        ]
        for check in checks
    ]
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    lines = [titles, ["-" * width for width in widths], *rows]
    return [
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in lines
    ]
