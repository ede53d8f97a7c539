"""log p(x) between two bounds by annealing from the prior to the posterior and back.

Importance sampling from the encoder fails where the encoder is wrong. Annealed importance sampling
(Neal 2001) does not use it: its chains begin at the prior and pass through the densities
p(z) p(x|z)^b, b from 0 to 1, by Hamiltonian Monte Carlo. The mean weight is unbiased for p(x), so
its log is a lower bound on log p(x) in expectation. Run backwards from a true z of a sentence that
the model has made, the same chains give an upper bound (Grosse, Ghahramani and Adams 2015; Wu,
Burda, Salakhutdinov and Grosse 2017).
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Distribution

from collapse_bench.diagnosis.decoding import (
    LogLikelihood,
    SentenceStreams,
    check_gradient,
    gradient,
    gradients_of_latents,
)
from collapse_bench.metrics.likelihood import monte_carlo_error
from collapse_bench.model.distributions import draw

Floats = NDArray[np.floating]

ACCEPTANCE = 0.65
"""Share of accepted proposals that step sizes are tuned to (Neal 2011)."""

PILOTS = 4
"""Chains that tune the step sizes. They are not counted: were the step sizes those of the counted
chains' own past, the mean weight would not be unbiased."""

FIRST_STEP, GAIN = 0.5, 0.25
"""Step size at the prior, and how much of the miss in acceptance goes into its logarithm."""

STEEPNESS = 4.0
"""Of the sigmoid from which the temperatures are taken (Wu et al. 2017)."""


@dataclass(frozen=True)
class Bounds:
    """Stochastic bounds on log p(x) of B sentences, nats.

    Attributes:
        lower: of log p(x) from below in expectation, [B].
        lower_error: its Monte-Carlo error, [B]; it cannot see a mode that no chain has found.
        upper: from above in expectation, or None where no true z was given, [B].
        upper_error: the same of the upper bound.
        acceptance: share of accepted proposals, forwards, [B].
    """

    lower: Floats
    lower_error: Floats
    upper: Floats | None
    upper_error: Floats | None
    acceptance: Floats


class State(NamedTuple):
    """Chains at z [C, B, ...]: log p(z) and log p(x|z), [C, B], and their gradients."""

    z: Tensor
    prior: Tensor
    likelihood: Tensor
    of_prior: Tensor
    of_likelihood: Tensor


@dataclass(frozen=True)
class Target:
    """The densities p(z) p(x|z)^b of B sentences; at most `at_once` rows are decoded at once."""

    log_likelihood: LogLikelihood
    p: Distribution
    batch: Any
    at_once: int

    def at(self, z: Tensor) -> State:
        """Where chains at z [C, B, ...] are."""
        z = z.detach().requires_grad_()
        prior = torch.stack([self.p.log_prob(chain) for chain in z])
        (of_prior,) = gradient(prior.sum(), [z])
        sentence = torch.arange(z.shape[1], device=self.batch.lengths.device).repeat(len(z))
        likelihood: list[Tensor] = []
        of_likelihood: list[Tensor] = []
        rows = z.detach().flatten(0, 1)
        for part in torch.arange(len(rows), device=z.device).split(self.at_once):
            some = rows[part].requires_grad_()
            nats = self.log_likelihood(self.batch.rows(sentence[part]), some)
            of_likelihood += gradient(nats.sum(), [some])
            likelihood.append(nats.detach())
        return State(
            z.detach(),
            prior.detach(),
            torch.cat(likelihood).to(z).view_as(prior),
            of_prior,
            torch.cat(of_likelihood).view_as(z),
        )


def annealed_importance_sampling(
    log_likelihood: LogLikelihood,
    p: Distribution,
    batch: Any,
    *,
    chains: int = 16,
    temperatures: int = 200,
    leapfrog: int = 5,
    seed: int = 0,
    truth: Tensor | None = None,
    at_once: int = 1024,
) -> Bounds:
    """Bounds on log p(x) that owe nothing to the encoder.

    With `truth` their distance bounds the error of both, for these sentences; for others it is a
    hint (Grosse et al. 2015). Costs (chains + `PILOTS`) x temperatures x leapfrog gradients of
    each sentence, and as many again without the pilots for the upper bound.

    Args:
        log_likelihood: of a model in eval mode; its parameters need not be frozen.
        p: prior of B sentences over z [B, D] or [B, n, D].
        batch: the B sentences.
        chains: C, for each sentence.
        temperatures: T; the bounds close as it grows.
        leapfrog: steps of a proposal.
        seed: of the noise, which belongs to the sentence; not negative.
        truth: the z [B, D] or [B, n, D] that each sentence was made from. Sentences that were not
            made by this model have none, and what is put here for them gives no bound.
        at_once: rows that are decoded at once.

    Raises:
        UserError: log_likelihood depends on z without a gradient.
    """
    target = Target(log_likelihood, p, batch, at_once)
    schedule = inverse_temperatures(temperatures)
    streams = SentenceStreams(batch.index, seed)
    shape = p.batch_shape + p.event_shape
    like = draw(p, torch.zeros(shape, device=batch.lengths.device)) if truth is None else truth

    def start(count: int) -> Tensor:
        return torch.stack([draw(p, noise) for noise in streams.normal(count, like)])

    with gradients_of_latents():
        check_gradient(log_likelihood, batch, like)
        first = torch.full((len(like),), FIRST_STEP, dtype=like.dtype, device=like.device)
        pilot = _anneal(target, start(PILOTS), schedule, streams, leapfrog, first)
        forward = _anneal(target, start(chains), schedule, streams, leapfrog, pilot.steps)
        lower, lower_error = _log_mean(forward.log_weights)
        upper = upper_error = None
        if truth is not None:
            z = truth.expand(chains, *truth.shape)
            backward = _anneal(target, z, schedule[::-1], streams, leapfrog, pilot.steps.flip(0))
            # What grows on the way there shrinks on the way back: E[1 / w] = 1 / p(x).
            inverse, upper_error = _log_mean(backward.log_weights)
            upper = -inverse
    acceptance = forward.acceptance.mean(0).cpu().double().numpy()
    return Bounds(lower, lower_error, upper, upper_error, acceptance)


def inverse_temperatures(count: int) -> Floats:
    """b_0 = 0 to b_T = 1, [T + 1], dense at both ends (Wu et al. 2017).

    Args:
        count: T, at least 1.
    """
    sigmoid = 1 / (1 + np.exp(-STEEPNESS * np.linspace(-1, 1, count + 1)))
    return np.asarray((sigmoid - sigmoid[0]) / (sigmoid[-1] - sigmoid[0]))


class Annealed(NamedTuple):
    """A run of chains: log weights [C, B]; step sizes and acceptance of each move, [T - 1, B]."""

    log_weights: Tensor
    steps: Tensor
    acceptance: Tensor


def _anneal(
    target: Target,
    z: Tensor,
    schedule: Floats,
    streams: SentenceStreams,
    leapfrog: int,
    steps: Tensor,
) -> Annealed:
    """From the first density of the schedule to the last, either way.

    Args:
        target: the densities.
        z: draws from the first, [C, B, ...].
        schedule: [T + 1].
        streams: of noise.
        leapfrog: steps of a proposal.
        steps: step sizes of the moves, [T - 1, B], or the first ones, [B], to be tuned.
    """
    state = target.at(z)
    log_weights = torch.zeros_like(state.likelihood)
    tuned, used, acceptance = steps, [], []
    for t in range(1, len(schedule)):
        log_weights += float(schedule[t] - schedule[t - 1]) * state.likelihood
        if t == len(schedule) - 1:
            break  # a move at the last density would change no weight
        step = tuned if steps.dim() == 1 else steps[t - 1]
        state, share = _move(target, state, float(schedule[t]), streams, leapfrog, step)
        tuned = step * (GAIN * (share - ACCEPTANCE)).exp()
        used.append(step)
        acceptance.append(share)
    empty = z.new_zeros(0, z.shape[1])
    return Annealed(
        log_weights,
        torch.stack(used) if used else empty,
        torch.stack(acceptance) if acceptance else empty,
    )


def _move(
    target: Target,
    state: State,
    b: float,
    streams: SentenceStreams,
    leapfrog: int,
    step: Tensor,
) -> tuple[State, Tensor]:
    """One Hamiltonian move at p(z) p(x|z)^b (Neal 2011), and its mean acceptance, [B]."""

    def summed(square: Tensor) -> Tensor:
        return square.flatten(2).sum(2)

    z = state.z
    count = len(z)
    # Lengths of the same multiple of a period would bring the chain back to where it was.
    jitter = 0.8 + 0.4 * streams.uniform(count, z)  # [C, B]
    size = (jitter * step).view(*jitter.shape, *[1] * (z.dim() - 2))
    momentum = streams.normal(count, z[0])
    energy = 0.5 * summed(momentum.square()) - state.prior - b * state.likelihood
    new = state
    for _ in range(leapfrog):
        momentum = momentum + 0.5 * size * (new.of_prior + b * new.of_likelihood)
        new = target.at(new.z + size * momentum)
        momentum = momentum + 0.5 * size * (new.of_prior + b * new.of_likelihood)
    change = energy - 0.5 * summed(momentum.square()) + new.prior + b * new.likelihood
    # A proposal that left the numbers behind is a rejected one.
    chance = change.clamp(max=0).exp().nan_to_num(nan=0.0)
    accepted = streams.uniform(count, z) < chance

    def kept(ours: Tensor, theirs: Tensor) -> Tensor:
        return torch.where(accepted.view(*accepted.shape, *[1] * (ours.dim() - 2)), ours, theirs)

    pairs = zip(new, state, strict=True)
    return State(*(kept(ours, theirs) for ours, theirs in pairs)), chance.mean(0)


def _log_mean(log_weights: Tensor) -> tuple[Floats, Floats]:
    """log of the mean of exp over chains, [C, B] to [B], and its error."""
    mean = torch.logsumexp(log_weights, 0) - math.log(len(log_weights))
    weights = log_weights.T.cpu().double().numpy()
    return mean.cpu().double().numpy(), monte_carlo_error([weights])
