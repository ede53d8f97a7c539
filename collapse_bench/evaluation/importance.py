"""Importance weights of draws from posterior and prior, until the NLL of a sentence is known."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from collapse_bench.evaluation.noise import SentenceNoise, Sentences
from collapse_bench.metrics.likelihood import monte_carlo_error, proposal_draws
from collapse_bench.model.distributions import draw, shape_of

FIRST_ROUND = 8
"""Draws that every sentence gets, where their number depends on the error."""


def importance_weights(
    log_likelihood: Callable[[Any, Tensor], Tensor],
    batch: Sentences,
    q: Distribution,
    p: Distribution,
    first: Tensor,
    noise: SentenceNoise,
    *,
    samples: int,
    standard_error: float,
    at_once: int,
) -> dict[str, Tensor]:
    """`distortion`, `log_ratio`, `log_weights` and `draws` of B sentences that were encoded.

    Args:
        log_likelihood: of sentences and z, nats, [B].
        batch: B sentences.
        q: their posterior, p: their prior.
        first: draw number 0 from the posterior, whose dtype the others take.
        noise: of all draws.
        samples, standard_error: as for `evaluate`.
        at_once: rows that are decoded at once.
    """
    most_q, _ = proposal_draws(samples)
    sentences, device = len(batch.lengths), batch.lengths.device
    # In the dtype that the model computes in.
    of_q = torch.zeros(sentences, samples, dtype=q.log_prob(first).dtype, device=device)
    of_p = torch.zeros_like(of_q)
    likelihood, log_weights = (torch.full_like(of_q, -math.inf) for _ in range(2))
    draws = torch.zeros_like(batch.lengths)
    going_on = torch.arange(sentences, device=device)
    done_q = done_p = 0
    for total in rounds_of_draws(samples, standard_error):
        from_q, from_p = proposal_draws(total)
        new = [*range(done_q, from_q), *range(most_q + done_p, most_q + from_p)]
        drawn = []
        for n in new:
            each = draw(q if n < most_q else p, noise.of(batch, n)(shape_of(q)).to(first.dtype))
            # At once: a flow knows the density of its latest draw without inverting anything.
            of_q[:, n], of_p[:, n] = q.log_prob(each), p.log_prob(each)
            drawn.append(each)
        z = torch.stack(drawn)  # [new, B, D] or [new, B, n, D]
        # However few sentences go on, as many as ever are decoded at once.
        which = torch.arange(len(new), device=device).repeat_interleave(len(going_on))
        row, column = going_on.repeat(len(new)), torch.tensor(new, device=device)[which]
        for part in torch.arange(len(row), device=device).split(at_once):
            w, r, c = which[part], row[part], column[part]
            likelihood[r, c] = log_likelihood(batch.rows(r), z[w, r]).to(likelihood.dtype)
        share_q, share_p = torch.tensor([from_q, from_p], device=device).div(total).log()
        proposal = torch.logaddexp(of_q + share_q, of_p + share_p)
        log_weights[going_on] = (likelihood + of_p - proposal)[going_on]
        draws[going_on] = total
        if not done_q:
            distortion = -likelihood[:, :from_q].mean(1)
            log_ratio = (of_q - of_p)[:, :from_q].mean(1)
        error = monte_carlo_error(
            log_weights[going_on, :from_q].cpu().numpy(),
            log_weights[going_on, most_q : most_q + from_p].cpu().numpy(),
        )
        going_on = going_on[torch.from_numpy(~(error <= standard_error)).to(device)]
        if not len(going_on):
            break
        done_q, done_p = from_q, from_p
    return {
        "distortion": distortion,
        "log_ratio": log_ratio,
        "log_weights": log_weights,
        "draws": draws,
    }


def rounds_of_draws(samples: int, standard_error: float) -> list[int]:
    """How many draws a sentence has had after each round: 8, 16, 32 and so on up to S, or S."""
    totals = []
    if standard_error > 0:
        total = FIRST_ROUND
        while total < samples:
            totals.append(total)
            total *= 2
    return [*totals, samples]
