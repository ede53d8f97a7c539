"""Whether log p(x|z) is a function of the words and z, and of nothing else."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from collapse_bench.corpus import Batch
from collapse_bench.evaluation.asked import Asked, table_of
from collapse_bench.model import SequenceVAE

COMPARED, COMPANY, ALONE = 24, 8, 3
"""Sentences that are compared, others that then join them, and those that are asked about alone."""

NOTHING = 1e-3
"""Nats above 0 that are rounding."""


def repeatable(asked: Asked) -> str | None:
    """Whether the same call twice gives the same numbers."""
    sentences = asked.at(asked.order[:COMPARED])
    one, again = asked.infer(sentences), asked.infer(sentences)
    what = _changed(asked, one.z, again.z, one.q.log_prob(one.z), again.q.log_prob(again.z))
    what = what or _nats(asked, "log p(z)", one.log_prior, again.p.log_prob(one.z))
    nats = [asked.model.log_likelihood(sentences, one.z) for _ in range(2)]
    what = what or _nats(asked, "log p(x|z)", *nats)
    return what and f"the same call twice gives other numbers: {what}"


def leak(asked: Asked) -> str | None:
    """Whether log p(x|z) is a function of x and z alone.

    Neither what was encoded or decoded before may play a part, nor the number of a sentence.
    """
    sentences = asked.at(asked.order[:COMPARED])
    z = asked.infer(sentences).z
    nats = asked.model.log_likelihood(sentences, z)
    others = sentences.rows(torch.arange(len(z), device=asked.device).flip(0))
    encoded = asked.infer(others)
    after = asked.model.log_likelihood(sentences, z)
    what = _nats(asked, "once other sentences were encoded, log p(x|z)", nats, after)
    if what is None and isinstance(sentences, Batch):
        asked.infer(sentences)
        numbered = replace(sentences, index=sentences.index.roll(1))
        otherwise = asked.model.log_likelihood(numbered, z)
        what = _nats(asked, "numbered as another sentence, log p(x|z)", nats, otherwise)
    if what is None and isinstance(asked.model, SequenceVAE):
        states = asked.model.decoder(sentences, z)
        asked.model.decoder(others, encoded.z)
        again = asked.model.readout(states, sentences)
        what = _nats(asked, "of the same states, once others were decoded, log p(x|z)", nats, again)
    return what and f"the likelihood knows more than the words and z: {what}"


def neighbours(asked: Asked) -> str | None:
    """Whether a sentence's numbers are the same alone, in another order and in other company."""
    chosen = asked.order[:COMPARED]
    sentences = asked.at(chosen)
    own = asked.infer(sentences)
    nats = asked.model.log_likelihood(sentences, own.z)
    lengths = asked.split.lengths
    longest = int(np.asarray(lengths.cpu() if isinstance(lengths, Tensor) else lengths).argmax())
    company = np.append(asked.order[COMPARED : COMPARED + COMPANY], longest)
    parts = [np.concatenate([company, chosen[::-1]]), *(chosen[i : i + 1] for i in range(ALONE))]
    for part in filter(len, parts):
        batch = asked.at(part)
        found = asked.infer(batch)
        # Those of the batch that are compared, and where they are among the chosen.
        mine = slice(len(part) - len(chosen), None) if len(part) > 1 else slice(None)
        place = [int(np.flatnonzero(chosen == number)[0]) for number in part[mine]]
        z = found.z.clone()
        z[mine] = own.z[place]
        told = _changed(
            asked,
            own.z[place],
            found.z[mine],
            own.q.log_prob(own.z)[place],
            found.q.log_prob(found.z)[mine],
        ) or _nats(asked, "log p(x|z)", nats[place], asked.model.log_likelihood(batch, z)[mine])
        if told:
            return f"a sentence's numbers depend on its neighbours in the batch: {told}"
    return None


def padding(asked: Asked) -> str | None:
    """Whether columns that are past the end of every sentence of a batch count.

    Asked of a model that gives sums; `Scored` sees by itself where there are nats by position.
    """
    rows = asked.at(asked.order[:COMPARED])
    table = table_of(rows)
    longest = int(rows.lengths.max())
    if table is None or not 1 < longest < table.shape[1]:
        return None
    z = asked.infer(rows).z
    nats = asked.model.log_likelihood(rows, z)
    try:
        short = asked.model.log_likelihood(replace(rows, values=rows.values[:, :longest]), z)
    except Exception:
        return None  # rows of another width are not what the model is for
    what = _nats(asked, "without the columns past the longest sentence, log p(x|z)", nats, short)
    return what and f"padding counts: {what}"


def positive(asked: Asked) -> str | None:
    """Whether a log-likelihood of words is above 0, or not the sum of those of its tokens."""
    sentences = asked.at(asked.order[:COMPARED])
    z = asked.infer(sentences).z
    nats = asked.model.log_likelihood(sentences, z)
    tokens = asked.model.log_likelihood_by_position(sentences, z)
    highest = float(max(nats.max(), nats.max() if tokens is None else tokens.max()))
    if _discrete(sentences) and highest > NOTHING:
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


def _discrete(sentences: Any) -> bool:
    """Whether these are words: a density of numbers may be above 1."""
    values = sentences.targets if isinstance(sentences, Batch) else sentences.values
    if isinstance(values, list | tuple):
        values = values[0]
    kind = getattr(values, "dtype", None)
    if kind is None:
        return not any(isinstance(each, float) for each in np.ravel(np.array(values, object)))
    return not (kind.is_floating_point if isinstance(kind, torch.dtype) else kind.kind == "f")
