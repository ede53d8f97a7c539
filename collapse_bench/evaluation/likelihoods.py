"""Whether log p(x|z) is a function of the words and z, and of nothing else."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from collapse_bench.corpus import Batch
from collapse_bench.evaluation.asked import COMPARED, Asked, table_of
from collapse_bench.latent_model import Rows
from collapse_bench.model import SequenceVAE

COMPANY, ALONE = 4, 3
"""Sentences that join those that are compared, and how many are asked about alone."""

UNCOUNTED = 2
"""Positions of a sentence that its length need not count: a start and an end."""

NOTHING = 1e-3
"""Nats above 0 that are rounding."""


def repeatable(asked: Asked) -> str | None:
    """Whether the same call twice gives the same numbers."""
    own, again = asked.own, asked.infer(asked.sentences)
    what = _changed(asked, own.z, again.z, own.q.log_prob(own.z), again.q.log_prob(again.z))
    what = what or _nats(asked, "log p(z)", own.p.log_prob(own.z), again.p.log_prob(own.z))
    nats = asked.model.log_likelihood(asked.sentences, own.z)
    what = what or _nats(asked, "log p(x|z)", asked.nats, nats)
    return what and f"the same call twice gives other numbers: {what}"


def leak(asked: Asked) -> str | None:
    """Whether log p(x|z) is a function of x and z alone.

    Neither what was encoded or decoded before may play a part, nor the number of a sentence.
    """
    model, sentences, z = asked.model, asked.sentences, asked.own.z
    others = sentences.rows(torch.arange(len(z), device=asked.device).flip(0))
    encoded = asked.infer(others)
    if isinstance(sentences, Batch):
        sentences = replace(sentences, index=sentences.index.roll(1))
    if isinstance(model, SequenceVAE):
        states = model.decoder(sentences, z)
        model.decoder(others, encoded.z)
        nats: Tensor = model.readout(states, sentences)
    else:
        nats = model.log_likelihood(sentences, z)
    what = _nats(asked, "log p(x|z)", asked.nats, nats)
    return what and (
        "the likelihood knows more than the words and z: with what was encoded or decoded before,"
        f" or with the number of a sentence, {what}"
    )


def neighbours(asked: Asked) -> str | None:
    """Whether a sentence's numbers are the same alone, in another order and in other company."""
    chosen, own = asked.order[: len(asked.nats)], asked.own
    log_q = own.q.log_prob(own.z)
    lengths = np.asarray(asked.split.lengths)
    longest = asked.order[lengths[asked.order].argmax()]
    company = np.append(asked.order[len(chosen) :][:COMPANY], longest)
    backwards = np.arange(len(chosen))[::-1].copy()
    for strangers, place in (
        (company, backwards),
        *((company[:0], backwards[i : i + 1]) for i in range(min(ALONE, len(chosen)))),
    ):
        batch = asked.at(np.concatenate([strangers, chosen[place]]))
        found = asked.infer(batch)
        first = len(strangers)
        z = torch.cat([found.z[:first], own.z[place]])
        nats = asked.model.log_likelihood(batch, z)[first:]
        other_log_q = found.q.log_prob(found.z)[first:]
        told = _changed(asked, own.z[place], found.z[first:], log_q[place], other_log_q)
        told = told or _nats(asked, "log p(x|z)", asked.nats[place], nats)
        if told:
            return f"a sentence's numbers depend on its neighbours in the batch: {told}"
    return None


def padding(asked: Asked) -> str | None:
    """Whether columns in which the shortest sentences have nothing but padding count.

    Asked of a model that gives sums; `Scored` sees by itself where there are nats by position.
    """
    split = asked.split
    if not isinstance(split, Rows) or table_of(split) is None or split.lengths.max() == 1:
        return None
    width = split.values.shape[1]
    short = split.lengths.argsort(stable=True)[:COMPARED]
    rows = asked.at(short[split.lengths[short] + UNCOUNTED < width].numpy())
    table = table_of(rows)
    if table is None or not len(rows):
        return None
    kept = int(rows.lengths.max()) + UNCOUNTED
    if (table[:, kept:] != table[0, -1]).any():
        return None  # what lengths do not count is no padding
    z = asked.infer(rows).z
    nats = asked.model.log_likelihood(rows, z)
    try:
        narrow = asked.model.log_likelihood(replace(rows, values=rows.values[:, :kept]), z)
    except Exception:
        return None  # rows of another width are not what the model is for
    what = _nats(asked, f"with {width - kept} columns of it cut off, log p(x|z)", nats, narrow)
    return what and f"padding counts: {what}"


def positive(asked: Asked) -> str | None:
    """Whether a log-likelihood of words is above 0, or not the sum of those of its tokens."""
    nats, tokens = asked.nats, asked.tokens
    highest = float(max(nats.max(), nats.max() if tokens is None else tokens.max()))
    if _discrete(asked.sentences) and highest > NOTHING:
        return (
            f"a log-likelihood of words is above 0: {highest:.3g} nats; a loss has to change its"
            f" sign, and logits need a log-softmax"
        )
    what = None if tokens is None else _nats(asked, "their sum", nats, tokens.sum(1))
    return what and f"log p of the tokens does not add up to that of the sentence: {what}"


def _nats(asked: Asked, what: str, one: Tensor, other: Tensor) -> str | None:
    """What is told where numbers of a sentence, in nats, differ by too much."""
    worst = float(asked.beyond(one, other).max())
    return f"{what} changes by up to {worst:.2g} nats" if worst else None


def _changed(
    asked: Asked, z: Tensor, other: Tensor, log_q: Tensor, other_log_q: Tensor
) -> str | None:
    """What is told where posteriors of B sentences differ, by a draw z of each and its density.

    One sentence of many does not count: rounding may tip what is nearly a tie between two codes.
    """
    if not z.numel():
        return None
    off = asked.beyond(z.flatten(1), other.flatten(1)).amax(1)
    nats = asked.beyond(log_q, other_log_q)
    forgiven = len(z) > ALONE
    if int((off > 0).sum()) > forgiven:
        return f"the same draw of the posterior moves by up to {float(off.max()):.2g}"
    if int((nats > 0).sum()) > forgiven:
        return f"log q(z|x) changes by up to {float(nats.max()):.2g} nats"
    return None


def _discrete(sentences: Batch | Rows) -> bool:
    """Whether these are words: a density of numbers may be above 1."""
    if isinstance(sentences, Rows):
        return not sentences.real
    return not sentences.targets.is_floating_point()
