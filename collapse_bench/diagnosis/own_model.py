"""A user's own model, asked before it is judged: is its answer for a sentence one answer?

A number says something of a model only if it is the same each time it is asked for, whatever the
other sentences of the batch are and however far they are padded, and if it can be the logarithm of
a probability. A model of the bench that fails is shown with its reason; of a user's own it is a
mistake in the wrapper, and an error that says how to mend it.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from collapse_bench.errors import UserError
from collapse_bench.evaluation import Bound, Finding, SentenceNoise, bound_from, findings, unseen
from collapse_bench.latent_model import Rows, Scored
from collapse_bench.model.distributions import draw, family_of, shape_of

WAY_OUT = {
    "repeatable": "turn its dropout off and let it draw nothing by itself; a wrapper that is an"
    " nn.Module and holds the model is put into eval mode",
    "neighbours": "take no statistic over the batch (a wrapper that is an nn.Module and holds the"
    " model is put into eval mode, which batch normalisation needs), and mask padding, which"
    " reaches as far as the longest sentence of a batch",
    "padding": "mask what is past a sentence's end before the sum over its tokens",
    "positive": "return log p(x|z) of the whole sentence in nats, as log_softmax gives it, with the"
    " sign of a logarithm and not of a loss",
}
"""Laws of honesty of which a breach is a mistake in a wrapper, and what mends it."""


def bound_of_own(model: Scored, rows: Rows, *, batch: int, seed: int) -> Bound:
    """What the numbers of a user's model are.

    Args:
        model: on any device.
        rows: all sentences.
        batch: sentences handed to the model at once.
        seed: of the noise.

    Raises:
        UserError: its answers are not a function of the sentence, words have a log-likelihood above
            0, or its posterior's density does not broadcast.
    """
    found = findings(model, rows, batch=batch, seed=seed)
    refuse(found)
    return bound_from(found, unseen(model, rows))


def refuse(found: Sequence[Finding]) -> None:
    """Raise an error for what is a mistake in a wrapper.

    Raises:
        UserError: with what was seen and the way out, a line each.
    """
    wrong = [each for each in found if each.law in WAY_OUT]
    if wrong:
        told = "\n".join(f"{each.reason}: {WAY_OUT[each.law]}" for each in wrong)
        raise UserError(f"diagnose: the model is not what it is taken for: {told}")


def check_density(model: Scored, rows: Rows, *, batch: int, seed: int) -> None:
    """Refuse a posterior whose density cannot be had at other sentences' draws.

    Args:
        as for `bound_of_own`; the model in eval mode.

    Raises:
        UserError: its log_prob does not broadcast.
    """
    some = rows.rows(torch.arange(min(batch, len(rows))))
    noise = SentenceNoise(len(rows), seed)
    q = model.posterior(some, noise.of_refinement(some))
    if family_of(q) != "normal":
        _check_broadcast(q, draw(q, noise.of(some, 0)(shape_of(q))))


def _check_broadcast(q: Distribution, z: Tensor) -> None:
    name, two = type(q).__name__, z[:2, None]
    try:
        own, others = q.log_prob(z), q.log_prob(two)
    except (RuntimeError, ValueError, IndexError) as error:
        raise UserError(f"posterior: {_wanted(name, z)}: it fails: {error}") from error
    if own.shape != q.batch_shape or others.shape != (len(two), len(z)):
        raise UserError(
            f"posterior: {_wanted(name, z)}, not {list(own.shape)} and {list(others.shape)}"
        )
    if not others.diagonal().isclose(own[: len(two)], rtol=1e-3, atol=1e-3, equal_nan=True).all():
        raise UserError(
            f"posterior: {_wanted(name, z)}: the same z of the same sentence gives"
            f" {float(own[0]):.6g} nats by itself and {float(others[0, 0]):.6g} broadcast"
        )


def _wanted(name: str, z: Tensor) -> str:
    shape: Any = [min(2, len(z)), 1, *z.shape[1:]]
    return (
        f"log_prob of a {name} must turn z {list(z.shape)} into [{len(z)}] and the z of other"
        f" sentences, {shape}, into {[shape[0], len(z)]}, one column a posterior"
    )
