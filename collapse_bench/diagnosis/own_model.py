"""A user's own model, asked before it is judged: is its answer for a sentence one answer?

A number says something of a model only if it is the same each time it is asked for, whatever the
other sentences of the batch are and however far they are padded. What fails here is an error in
the wrapper or the model, and told with the method that was called, what came and the way out.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from collapse_bench.errors import UserError
from collapse_bench.evaluation import SentenceNoise
from collapse_bench.latent_model import Rows, Scored
from collapse_bench.model.distributions import draw, family_of, shape_of

ASKED = 32
"""Sentences that a model is asked about, at most."""

MARGIN = 2
"""Positions behind a sentence's length that may still be its own: a start and an end of sentence
need not be counted in lengths."""

Answers = dict[str, Tensor]
"""What each method said, [B, ...], by the method's name."""


def check_answers(model: Scored, rows: Rows, *, batch: int, seed: int) -> None:
    """Refuse a model whose answers are not a function of the sentence.

    Args:
        model: in eval mode; gradients are not needed.
        rows: at least two sentences.
        batch: sentences that the model may be handed at once; four are, whatever it is.
        seed: of the noise.

    Raises:
        UserError: it answers the same question differently the second time, among other sentences,
            or with padding cut off; or its density does not broadcast.
    """
    noise = SentenceNoise(len(rows), seed)
    # From short to long, so that the halves are padded differently where a wrapper pads.
    order = rows.lengths.argsort(stable=True)
    places = torch.linspace(0, len(rows) - 1, min(len(rows), ASKED, max(batch, 4))).long()
    some = rows.rows(order[places])
    q = model.posterior(some, noise.of(some, -1))
    z = draw(q, noise.of(some, 0)(shape_of(q))).detach()
    _check_density(q, z)
    whole = _answers(model, some, noise, z)
    if method := _differing(whole, _answers(model, some, noise, z)):
        raise UserError(
            f"{method}: gives other numbers for the same sentences each time: turn its dropout off"
            " and take no noise of its own, or make the wrapper an nn.Module that holds the model,"
            " so that it is put into eval mode"
        )
    for part in torch.arange(len(some)).flip(0).chunk(2):
        among = _answers(model, some.rows(part), noise, z[part.to(z.device)])
        expected = {name: told[part.to(told.device)] for name, told in whole.items()}
        if method := _differing(expected, among):
            raise UserError(
                f"{method}: what it says of a sentence depends on the others of the batch:"
                f" {_example(expected[method], among[method])} among {len(some)} sentences and"
                f" among {len(part)} of them. Take no statistic over the batch (batch"
                " normalisation in eval mode: a wrapper that is an nn.Module is put into it), and"
                " mask padding, which reaches as far as the longest sentence of a batch"
            )
    _check_padding(model, rows, noise)


def _answers(model: Scored, batch: Rows, noise: SentenceNoise, z: Tensor) -> Answers:
    """What every method says of B sentences; the likelihood and the prior of z [B, ...]."""
    q = model.posterior(batch, noise.of(batch, -1))
    own = draw(q, noise.of(batch, 0)(shape_of(q)))
    p = model.prior(q, batch)
    density = p.log_prob(z)
    if density.shape != (len(batch),):
        raise UserError(
            f"prior: the log_prob of its {type(p).__name__} must be one number a sentence, shape"
            f" [{len(batch)}], not {list(density.shape)}"
        )
    return {
        "posterior": torch.cat([own.flatten(1), q.log_prob(own)[:, None]], dim=1),
        "prior": density,
        "log_likelihood": model.log_likelihood(batch, z),
    }


def _differing(expected: Answers, found: Answers) -> str | None:
    """The first method whose answers differ by more than floating point explains."""
    for method, told in expected.items():
        if not _same(told, found[method]).all():
            return method
    return None


def _same(one: Tensor, other: Tensor) -> Tensor:
    """Whether numbers agree as far as products in their dtype, or in float32, can."""
    least = torch.finfo(torch.float32).eps
    precision = torch.finfo(one.dtype).eps if one.is_floating_point() else least
    tolerance = max(precision, least) ** 0.5
    return one.isclose(other.to(one), rtol=tolerance, atol=tolerance, equal_nan=True)


def _example(expected: Tensor, found: Tensor) -> str:
    """The pair of numbers that is furthest apart."""
    apart = (expected - found.to(expected)).abs().nan_to_num(nan=torch.inf).flatten()
    at = apart.argmax()
    return f"{float(expected.flatten()[at]):.6g} and {float(found.flatten()[at]):.6g}"


def _check_density(q: Any, z: Tensor) -> None:
    """Refuse a posterior whose density cannot be had at other sentences' draws."""
    if family_of(q) == "normal":
        return
    name = type(q).__name__
    own, others = q.log_prob(z), q.log_prob(z[:2, None])
    if own.shape != q.batch_shape or others.shape != (len(z[:2]), len(z)):
        raise UserError(
            f"posterior: log_prob of a {name} must turn z {list(z.shape)} into [{len(z)}] and"
            f" {list(z[:2, None].shape)}, two sentences' z, into {[len(z[:2]), len(z)]}, each of"
            f" them under every sentence's posterior, not into {list(own.shape)} and"
            f" {list(others.shape)}"
        )
    if not _same(others.diagonal(), own[: len(others)]).all():
        raise UserError(
            f"posterior: log_prob of a {name} gives {_example(own[:2], others.diagonal())} for the"
            " same z of the same sentence, by itself and broadcast"
        )


def _check_padding(model: Scored, rows: Rows, noise: SentenceNoise) -> None:
    """Refuse a log-likelihood that counts padding, where rows and lengths tell what that is."""
    cut = without_padding(rows)
    if cut is None:
        return
    whole = rows.rows(cut.index)
    q = model.posterior(whole, noise.of(whole, -1))
    z = draw(q, noise.of(whole, 0)(shape_of(q)))
    expected = model.log_likelihood(whole, z)
    try:
        found = model.log_likelihood(cut, z)
    except (RuntimeError, ValueError, IndexError, AssertionError):
        return  # A model of a fixed width cannot be asked.
    if not _same(expected, found).all():
        columns = whole.values.shape[1] - cut.values.shape[1]
        raise UserError(
            f"log_likelihood: padding counts: {_example(expected, found)} nats for the same"
            f" sentence and z with {columns} more columns of padding and without; mask what is"
            " past a sentence's end before the sum"
        )


def without_padding(rows: Rows) -> Rows | None:
    """The shortest sentences without columns in which nothing but padding is left.

    Args:
        rows: all sentences.

    Returns:
        At most `ASKED` rows, or None where values are a list, lengths are unknown, or no column
        is known to be padding.
    """
    values, lengths = rows.values, rows.lengths
    if isinstance(values, list) or values.ndim < 2 or lengths.max() == 1:
        return None
    width = values.shape[1]
    short = lengths.argsort(stable=True)[:ASKED]
    short = short[lengths[short] + MARGIN < width]
    if not len(short):
        return None
    some = rows.rows(short)
    kept = int(some.lengths.max()) + MARGIN
    behind = np.asarray(some.values[:, kept:].cpu() if isinstance(values, Tensor) else
                        some.values[:, kept:])  # fmt: skip
    if (behind != behind[:1, :1]).any():
        return None  # Lengths do not count these rows' positions.
    return Rows(some.values[:, :kept], some.lengths, some.index)
