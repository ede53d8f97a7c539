"""One question of any model: is it collapsed, and how?"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from collapse_bench.corpus import Split
from collapse_bench.diagnosis.decoding import NoGradientError
from collapse_bench.diagnosis.own_model import bound_of_own, check_density
from collapse_bench.diagnosis.picture import Aggregate, Spectrum, draw
from collapse_bench.diagnosis.refinement import Gaps, gaps, refine
from collapse_bench.diagnosis.report import NO_VERDICT, Evidence, report
from collapse_bench.errors import UserError
from collapse_bench.evaluation import (
    Bound,
    Evaluable,
    SentenceNoise,
    bound_of,
    device_of,
    evaluate,
    evaluating,
    partners,
    rows_at,
)
from collapse_bench.latent_model import LatentModel, Rows, Scored
from collapse_bench.metrics import ArraysError, IdentityError, Scores, score, verdict
from collapse_bench.metrics.likelihood import importance_weighted_nll
from collapse_bench.metrics.mutual_information import dimension_information
from collapse_bench.model.distributions import family_of, shape_of

REFINED, SEEN = 64, 512
"""Sentences whose posteriors are refined, and whose use of z is looked at by position."""

AT_ONCE = 64
"""Of these, how many are decoded at once."""

UNBOUND = ("invalid", "conditional")
"""Kinds of bounds that say nothing of use: U is what z tells beyond p(x), which is not known."""


@dataclass(frozen=True)
class Diagnosis:
    """A verdict with its evidence; printed, it is a report.

    Attributes:
        verdict: a key of `metrics.VERDICTS`, or `NO_VERDICT` where its numbers are no bound.
        scores: every metric and its standard error, by plain name.
        evidence: what else the verdict rests on.
        arrays: per sentence, as `evaluate` leaves them.
        position_use: positions [T], nats that z saves there [T] and their errors, or None where the
            model gives sums only.
    """

    verdict: str
    scores: Scores
    evidence: Evidence
    arrays: Mapping[str, NDArray[Any]]
    position_use: tuple[NDArray[Any], NDArray[Any], NDArray[Any]] | None

    def __str__(self) -> str:
        return report(self.verdict, self.scores, self.evidence)

    def draw(self, path: Path | str, title: str = "") -> Path:
        """Write the picture: KL spectrum, aggregate posterior, use of z by position.

        Returns:
            The path of the file: a PNG, whose name is given that ending where it has another.
        """
        arrays, family = self.arrays, self.evidence.family
        z = arrays["posterior_sample"]
        spectrum: Spectrum | str = (
            f"by dimension:\na posterior of the family {family}\nhas no rate for each of them"
        )
        aggregate = Aggregate(z, z.var(axis=0), "variance = {:.2f}", _standard_normal(arrays))
        if family == "normal":
            information = dimension_information(
                z, arrays["posterior_mean"], arrays["posterior_scale"]
            ).mean(axis=0)
            spectrum = Spectrum(arrays["kl"], information)
            aggregate = aggregate._replace(weight=information, named="I = {:.2f} nats")
        return draw(
            Path(path),
            title=f"{title}: {self.verdict}" if title else self.verdict,
            spectrum=spectrum,
            aggregate=aggregate,
            position_use=self.position_use,
        )


def diagnose(
    model: LatentModel,
    sentences: Any,
    lengths: Any = None,
    *,
    samples: int = 64,
    batch: int = 64,
    refined: int = REFINED,
    seed: int = 0,
) -> Diagnosis:
    """Tell whether a model is collapsed, and how.

    Args:
        model: offers `posterior`, `prior` and `log_likelihood`; see `LatentModel`.
        sentences: a tensor, an array or a list with one row a sentence, N of them.
        lengths: `[N]` tokens of each; they say which sentences may be compared.
        samples: draws behind the NLL of a sentence.
        batch: sentences handed to the model at once.
        refined: sentences whose posterior is refined under the frozen decoder.
        seed: of all noise.

    Raises:
        UserError: the model breaks the protocol; what it says of a sentence depends on the others
            of the batch, on padding, or on chance; its log-likelihood is above 0 though rows are
            not floating point; its numbers are not finite or contradict each other; or there are
            fewer than two sentences.
    """
    rows = Rows.of(sentences, lengths)
    if len(rows) < 2:
        raise UserError(
            "diagnose: one sentence has nothing to be told apart from; give at least two, better"
            " a thousand"
        )
    least = {
        "samples": (samples, 1),
        "batch": (batch, 1),
        "refined": (refined, 2),
        "seed": (seed, 0),
    }
    for name, (value, smallest) in least.items():
        if value < smallest:
            raise UserError(f"diagnose: {name} must be at least {smallest}, not {value}")
    scored = Scored(model)
    bound = bound_of_own(scored, rows, batch=batch, seed=seed)
    with evaluating(scored):
        check_density(scored, rows, batch=batch, seed=seed)
    arrays = evaluate(scored, rows, samples=samples, batch=batch, seed=seed)
    return examine(scored, rows, arrays, refined=refined, seed=seed, bound=bound)


def examine(
    model: Evaluable,
    split: Split | Rows,
    arrays: Mapping[str, NDArray[Any]],
    *,
    refined: int = REFINED,
    seed: int = 0,
    bound: Bound | None = None,
) -> Diagnosis:
    """The diagnosis of a model that has been evaluated.

    Args:
        model: the very model that left the arrays.
        split: its N sentences.
        arrays: as `evaluate` left them.
        refined: sentences to refine, at most N.
        seed: of all noise.
        bound: what its numbers are; None where it has to be found out.

    Raises:
        UserError: the arrays are of no use, or contradict each other.
    """
    try:
        scores = score(arrays)
    except (ArraysError, IdentityError) as error:
        raise UserError(f"diagnose: {error}") from error
    n, latent = arrays["posterior_sample"].shape
    if not latent:
        raise UserError("diagnose: this model has no latent, so nothing can collapse")
    if bound is None:
        bound = bound_of(model, split, batch=AT_ONCE, seed=seed)
    chosen = np.random.default_rng(seed).permutation(n)[:refined]
    found = _refined_gaps(model, split, arrays, chosen, seed)
    certain = 0.0
    if not isinstance(found, str):  # of use, and more of it than the encoder's own posterior has
        certain = min(
            found.refined_use - 2 * found.refined_use_error,
            found.amortisation - 2 * found.amortisation_error,
        )
    told = NO_VERDICT
    if bound.kind not in UNBOUND:
        told = verdict(scores, int(arrays.get("aggregate_size", n)), certain)
    return Diagnosis(
        told,
        scores,
        Evidence(n, latent, str(arrays["family"]), bound, found, len(chosen)),
        arrays,
        by_position(model, split, arrays, seed),
    )


def _standard_normal(arrays: Mapping[str, NDArray[Any]]) -> bool:
    """Whether log p(z) is everywhere that of N(0, I)."""
    z = arrays["posterior_sample"].astype(np.float64)
    expected = -0.5 * (z**2 + math.log(2 * math.pi)).sum(axis=1)
    return np.allclose(arrays["log_prior"], expected, rtol=1e-3, atol=1e-3)


def _refined_gaps(
    model: Evaluable,
    split: Split | Rows,
    arrays: Mapping[str, NDArray[Any]],
    chosen: NDArray[np.int64],
    seed: int,
) -> Gaps | str:
    """The gaps over the chosen sentences, or why there are none to be had."""
    nll = importance_weighted_nll(arrays["log_weights"], arrays["draws"])
    if len(chosen) < 2:
        return "of one sentence no gap has an error"
    with evaluating(model, gradients=True):
        some = rows_at(split, chosen).to(device_of(model))
        with torch.no_grad():
            q = model.posterior(some, SentenceNoise(len(nll), seed).of_refinement(some))
            p = model.prior(q, some)
        if (family := family_of(q)) != "normal":
            return f"a posterior of the family {family} has no mean and scale to raise the bound by"
        try:
            return gaps(nll[chosen], refine(model.log_likelihood, some, q, p, seed=seed))
        except NoGradientError as error:
            return str(error)


def by_position(
    model: Evaluable, split: Split | Rows, arrays: Mapping[str, NDArray[Any]], seed: int
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]] | None:
    """What z saves at each position, against another sentence's z: positions, nats, errors.

    Positions that fewer than ten of the sentences reach are left out.
    """
    n = len(arrays["tokens"])
    chosen = np.random.default_rng(seed + 1).permutation(n)[:SEEN]
    other = partners(arrays["tokens"], seed)[chosen]
    device = device_of(model)
    saved: list[NDArray[Any]] = []
    with evaluating(model):
        for start in range(0, len(chosen), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            batch = rows_at(split, chosen[part]).to(device)
            shape = shape_of(model.posterior(batch, SentenceNoise(n, seed).of_refinement(batch)))

            def nats(which: NDArray[np.int64], batch: Any = batch, shape: Any = shape) -> Any:
                z = torch.from_numpy(arrays["posterior_sample"][which]).to(device)
                return model.log_likelihood_by_position(batch, z.reshape(shape))

            own, shuffled = nats(chosen[part]), nats(other[part])
            if own is None:
                return None
            difference = (own - shuffled).cpu().double().numpy()
            over = np.arange(difference.shape[1]) >= arrays["tokens"][chosen[part]][:, None]
            if arrays["tokens"].max() > 1:  # lengths are known
                difference[over] = np.nan
            saved.extend(difference)
    longest = max(map(len, saved))
    table = np.full((len(saved), longest), np.nan)
    for row, values in zip(table, saved, strict=True):
        row[: len(values)] = values
    count = np.isfinite(table).sum(axis=0)
    kept = count >= min(10, len(table))
    mean = np.nanmean(table[:, kept], axis=0)
    error = np.nanstd(table[:, kept], axis=0) / np.sqrt(count[kept])
    return np.flatnonzero(kept), mean, error
