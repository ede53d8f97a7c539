"""Is it a bound? What a model has to keep to for its numbers to mean anything, measured.

A likelihood that peeks at what it predicts, that does not sum to one, or that hangs on the batch is
none; a density that is not that of its draws makes importance weights worthless; and a prior that
looks at the sentence bounds something else. None of that shows in the numbers themselves, and none
is asked of a model's author: the model is put to the question on some of its sentences.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import nn

from collapse_bench.corpus import Split
from collapse_bench.errors import UserError
from collapse_bench.evaluation import densities, likelihoods, values, words
from collapse_bench.evaluation.asked import Asked, asking
from collapse_bench.evaluation.evaluate import Evaluable
from collapse_bench.latent_model import Rows

LAWS = {
    "repeatable": "the same call twice gives the same numbers",
    "leak": "z reaches the likelihood only through the decoder's arguments",
    "neighbours": "no sentence depends on its neighbours in the batch",
    "padding": "padding does not count",
    "positive": "no log-likelihood of words is above 0",
    "causal": "the decoder does not see what it predicts",
    "normalised": "the probabilities of all words sum to 1, a density of values integrates to 1",
    "prior": "the prior does not depend on the sentence",
    "density": "the densities of posterior and prior are those of their draws",
    "mass": "the prior integrates to 1",
    "answers": "it can be seen whether the others hold",
}
"""What is measured, in words."""

WIDER = 3.0
"""How much larger the weights of a model are made that has hardly been trained."""

M = TypeVar("M", bound=nn.Module)
Look = Callable[[Asked], str | None]

OF_LIKELIHOOD: dict[str, Look] = {
    "leak": likelihoods.leak,
    "neighbours": likelihoods.neighbours,
    "padding": likelihoods.padding,
    "causal": lambda asked: (values if asked.of_values else words).causal(asked),
    "normalised": lambda asked: (values if asked.of_values else words).normalised(asked),
}
"""In this order, up to the first that is broken: what breaks one may break any later one."""

OF_ALL: dict[str, Look] = {
    "positive": likelihoods.positive,
    "prior": densities.prior,
    "density": densities.density,
    "mass": densities.mass,
}
"""Looked at in any case."""


@dataclass(frozen=True)
class Finding:
    """A law, a key of `LAWS`, that a model breaks, and what was seen."""

    law: str
    reason: str


@dataclass(frozen=True)
class Bound:
    """What a model's NLL is: a bound on -log p(x), or why not.

    Attributes:
        kind: `valid`; `conditional` where only the prior looks at the sentence or at other data,
            so that the NLL is that of a sentence given them; or `invalid`.
        reasons: what was found, one sentence each.
        unseen: what could not be looked at, one sentence each.
    """

    kind: Literal["valid", "conditional", "invalid"]
    reasons: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()


def bound_of(model: Evaluable, split: Split | Rows, *, batch: int, seed: int) -> Bound:
    """Whether the numbers of a model are bounds, by what it does with some of its sentences.

    Args:
        model: on any device; its modes and weights, and torch's generators, are as before
            afterwards.
        split: N sentences.
        batch: sentences decoded at once.
        seed: of which sentences, and of all noise.
    """
    found = findings(model, split, batch=batch, seed=seed)
    return bound_from(found, unseen(model, split))


def bound_from(found: Sequence[Finding], unseen: tuple[str, ...] = ()) -> Bound:
    """What follows from the laws that a model breaks, and what could not be looked at."""
    if not found:
        return Bound("valid", (), unseen)
    only_prior = all(finding.law == "prior" for finding in found)
    reasons = tuple(finding.reason for finding in found)
    return Bound("conditional" if only_prior else "invalid", reasons, unseen)


def unseen(model: Evaluable, split: Split | Rows) -> tuple[str, ...]:
    """What cannot be looked at: whether words that are given in sums are seen beforehand, and
    whether a density of very many channels integrates to 1."""
    if isinstance(split, Split) and split.real and split.tokens.shape[1] > values.CHANNELS:
        return (
            f"whether the density of {split.tokens.shape[1]} channels integrates to 1 cannot be"
            f" seen: of more than {values.CHANNELS} the points are too few",
        )
    if not isinstance(split, Rows) or split.real:
        return ()
    with asking(model):
        if Asked(model, split.rows(torch.arange(min(2, len(split)))), 2, 0).tokens is not None:
            return ()
    return ("peeking cannot be seen: log_likelihood gives sums; give nats by position [B, T]",)


def findings(
    model: Evaluable, split: Split | Rows, *, batch: int, seed: int
) -> tuple[Finding, ...]:
    """The laws that a model breaks, with what was seen; none for an honest one.

    A model that answers otherwise each time is asked no more, and of its likelihood one fault is
    told, not what follows from it.

    Args:
        as for `bound_of`.
    """
    with asking(model):
        torch.manual_seed(seed)
        asked = Asked(model, split, batch, seed)
        found = _seen("repeatable", likelihoods.repeatable, asked)
        if found:
            return found
        for law, look in OF_LIKELIHOOD.items():
            found = found or _seen(law, look, asked)
        for law, look in OF_ALL.items():
            found += _seen(law, look, asked)
    return found


def _seen(law: str, look: Look, asked: Asked) -> tuple[Finding, ...]:
    """What one look finds; a model that ends in an error does not answer."""
    try:
        reason = look(asked)
    except (UserError, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        told = f"{type(error).__name__}: {error}".splitlines()[0]
        return (Finding("answers", f"it cannot be seen whether {LAWS[law]}: {told}"),)
    return () if reason is None else (Finding(law, reason),)


def wider(model: M) -> M:
    """The same model, its weights made larger, in place.

    Hardly trained, a model says much the same of every sentence, and what it looks at that it must
    not hardly shows.
    """
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(WIDER)
    return model
