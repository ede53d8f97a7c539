"""Importance weights of draws from the proposal's strata, until the NLL of a sentence is known."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from collapse_bench.evaluation.noise import SentenceNoise, Sentences
from collapse_bench.metrics.likelihood import monte_carlo_error, proposal_draws
from collapse_bench.model.distributions import draw, shape_of, widened

FIRST_ROUND = 8
"""Draws that every sentence gets, where their number depends on the error."""


def strata_of(q: Distribution, p: Distribution) -> list[Distribution]:
    """What draws are taken from: the posterior, its widened one if there is one, the prior."""
    wide = widened(q, p)
    return [q, p] if wide is None else [q, wide, p]


def importance_weights(
    log_likelihood: Callable[[Any, Tensor], Tensor],
    batch: Sentences,
    strata: Sequence[Distribution],
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
        strata: the H distributions that `strata_of` their posterior and prior gives.
        first: draw number 0 from the posterior, whose dtype the others take.
        noise: of all draws.
        samples, standard_error: as for `evaluate`.
        at_once: rows that are decoded at once.
    """
    most = proposal_draws(samples, len(strata))
    starts = [sum(most[:h]) for h in range(len(strata))]
    shape = shape_of(strata[0])
    sentences, device = len(batch.lengths), batch.lengths.device
    # In the dtype that the model computes in.
    dtype = strata[0].log_prob(first).dtype
    densities = torch.zeros(len(strata), sentences, samples, dtype=dtype, device=device)
    of_q, of_p = densities[0], densities[-1]
    likelihood, log_weights = (torch.full_like(of_q, -math.inf) for _ in range(2))
    draws = torch.zeros_like(batch.lengths)
    going_on = torch.arange(sentences, device=device)
    done = (0,) * len(strata)
    for total in rounds_of_draws(samples, standard_error):
        counts = proposal_draws(total, len(strata))
        new, drawn = [], []
        for stratum, start, a, b in zip(strata, starts, done, counts, strict=True):
            for n in range(start + a, start + b):
                each = draw(stratum, noise.of(batch, n)(shape).to(first.dtype))
                # At once: a flow knows the density of its latest draw without inverting anything.
                for h, density in enumerate(strata):
                    densities[h, :, n] = density.log_prob(each)
                new.append(n)
                drawn.append(each)
        z = torch.stack(drawn)  # [new, B, D] or [new, B, n, D]
        # However few sentences go on, as many as ever are decoded at once.
        which = torch.arange(len(new), device=device).repeat_interleave(len(going_on))
        row, column = going_on.repeat(len(new)), torch.tensor(new, device=device)[which]
        for part in torch.arange(len(row), device=device).split(at_once):
            w, r, c = which[part], row[part], column[part]
            likelihood[r, c] = log_likelihood(batch.rows(r), z[w, r]).to(likelihood.dtype)
        shares = torch.tensor(counts, dtype=dtype, device=device).div(total).log()
        proposal = torch.logsumexp(densities + shares[:, None, None], dim=0)
        log_weights[going_on] = (likelihood + of_p - proposal)[going_on]
        draws[going_on] = total
        if not any(done):  # of these draws, see `first_draws`
            distortion = -likelihood[:, : counts[0]].mean(1)
            log_ratio = (of_q - of_p)[:, : counts[0]].mean(1)
        known = log_weights[going_on].cpu().numpy()
        error = monte_carlo_error(
            [known[:, s : s + n] for s, n in zip(starts, counts, strict=True) if n]
        )
        going_on = going_on[torch.from_numpy(~(error <= standard_error)).to(device)]
        if not len(going_on):
            break
        done = counts
    return {
        "distortion": distortion,
        "log_ratio": log_ratio,
        "log_weights": log_weights,
        "draws": draws,
    }


def first_draws(samples: int, standard_error: float, strata: int) -> int:
    """How many draws of its posterior a sentence has in the first round: those of its distortion,
    numbers 0 and on."""
    return proposal_draws(rounds_of_draws(samples, standard_error)[0], strata)[0]


def rounds_of_draws(samples: int, standard_error: float) -> list[int]:
    """How many draws a sentence has had after each round: 8, 16, 32 and so on up to S, or S."""
    totals = []
    if standard_error > 0:
        total = FIRST_ROUND
        while total < samples:
            totals.append(total)
            total *= 2
    return [*totals, samples]
