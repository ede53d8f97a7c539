"""Whether log p(x|z) is a likelihood of values: each step from those before it, in a density.

A sequence's first step is number 1 in what is told.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import multivariate_t
from torch import Tensor

from collapse_bench.corpus import Batch
from collapse_bench.evaluation.asked import Asked
from collapse_bench.model import SequenceVAE

Floats = NDArray[np.float64]

Density = Callable[[Tensor], Tensor]
"""Log density in nats, [M], of values [M, Y]."""

ASKED, DRAWS, FEWEST, PLACES = 4, 2**12, 2**8, 2**16
"""Steps of which the density is integrated; points at which, most and fewest; and steps that are
decoded for them, where a sequence is so long that they limit the points."""

CHANNELS = 32
"""Most channels of a step whose density is integrated: in more the points are too few."""

ABOVE = 0.05
"""By how much an integral may be above 1, beside four standard errors."""

FREEDOM = 5
"""Degrees of freedom of the Student's t from which points are drawn: heavier tails than a normal's,
so that none of a normal's mass is weighed without bound."""


def causal(asked: Asked) -> str | None:
    """Whether the density of a step depends on this step's values but through them, or on later
    ones.

    Of each sequence one step and all after it are changed: what was predicted before, and the state
    that predicts the changed step, have to be as they were.
    """
    model: Any = asked.model
    batch, z = asked.sentences, asked.own.z
    place = torch.tensor([int(asked.rng.integers(n)) for n in batch.lengths.tolist()])
    place[: len(place) // 2] = batch.lengths[: len(place) // 2].cpu() - 1  # the last one, too
    at = torch.arange(batch.mask.shape[1], device=asked.device)
    later = (at >= place.to(asked.device)[:, None]) & batch.mask
    other = changed(batch, later)
    row = torch.arange(len(place), device=asked.device)
    states, new_states = model.decoder(batch, z), model.decoder(other, z)
    before = (at < place.to(asked.device)[:, None]).cpu()
    nats = model.readout.by_position(states, batch)
    off = asked.beyond(nats, model.readout.by_position(new_states, other)).where(before, 0.0)
    # The old values of the changed step, as the state of the changed sequence predicts them.
    step = one_step(batch.targets[row, place], batch)
    one = model.readout(states[row, place][:, None], step)
    new = model.readout(new_states[row, place][:, None], step)
    off[row.cpu(), place] = asked.beyond(one, new)
    if not off.any():
        return None
    i, t = divmod(int(off.argmax()), off.shape[1])
    return (
        f"the decoder sees what it predicts: changing step {int(place[i]) + 1} and those after it"
        f" changes what is predicted for step {t + 1} by {float(off[i, t]):.2g} nats"
    )


def normalised(asked: Asked) -> str | None:
    """Whether the density of a step's values integrates to no more than 1.

    By importance sampling around its peak, which is sought by Newton's method. One with a mass
    below 1 is still a bound, and one that is not met in full here is not accused.
    """
    model, batch = asked.model, asked.sentences
    assert isinstance(model, SequenceVAE)
    if batch.targets.shape[2] > CHANNELS:
        return None
    for i in range(min(ASKED, len(batch.lengths))):
        t = int(asked.rng.integers(int(batch.lengths[i])))
        z = asked.own.z[i : i + 1]

        def density(values: Tensor, i: int = i, t: int = t, z: Tensor = z) -> Tensor:
            many = z.expand(len(values), *z.shape[1:])
            ended = every_next_step(batch, i, t, values)
            return model.log_likelihood_by_position(ended, many)[:, t].double()

        draws = max(FEWEST, min(DRAWS, PLACES // (t + 1)))
        mass = _mass(density, batch.targets[i, t], draws, asked)
        if mass is None:
            return f"the density of step {t + 1} has no peak: near some values it has no bound"
        total, error = mass
        if not total <= 1 + ABOVE * asked.slack + 4 * error:
            return f"the density of step {t + 1} integrates to {total:.4g}, above 1"
    return None


def _mass(density: Density, start: Tensor, draws: int, asked: Asked) -> tuple[float, float] | None:
    """The integral over values [Y] of exp(density), and its standard error; None without a peak."""
    found = _peak(density, start)
    if found is None:
        return None
    around = multivariate_t(*found, df=FREEDOM, seed=asked.rng)
    points = np.reshape(around.rvs(draws), (draws, len(start)))
    nats = density(torch.from_numpy(points).to(start)).cpu().numpy()
    weights = np.exp(nats - around.logpdf(points))
    return float(weights.mean()), float(weights.std() / math.sqrt(draws))


def _peak(density: Density, start: Tensor) -> tuple[Floats, Floats] | None:
    """Where a density [Y] is largest, and its inverse curvature [Y, Y] there."""
    at = start.detach().clone()
    for _ in range(20):
        with torch.enable_grad():
            x = at.clone().requires_grad_()
            (slope,) = torch.autograd.grad(density(x[None]).sum(), x, create_graph=True)
            rows = [torch.autograd.grad(s, x, retain_graph=True)[0] for s in slope]
        curvature = -torch.stack(rows).double().cpu()
        curvature = (curvature + curvature.T) / 2
        if not curvature.isfinite().all() or torch.linalg.eigvalsh(curvature)[0] <= 0:
            return None
        move = torch.linalg.solve(curvature, slope.detach().double().cpu())
        at = at + move.to(at)
        if float(move @ curvature @ move) < 1e-6:
            return at.double().cpu().numpy(), torch.linalg.inv(curvature).numpy()
    return None


def changed(batch: Batch, where: Tensor) -> Batch:
    """The batch with the values of these places [B, T] moved, in targets and inputs alike."""
    targets = batch.targets + where[:, :, None] * 1.5
    inputs = batch.inputs.clone()
    inputs[:, 1:] = targets[:, :-1].where(batch.mask[:, 1:, None], batch.inputs[:, 1:])
    return replace(batch, targets=targets, inputs=inputs)


def one_step(targets: Tensor, batch: Batch) -> Batch:
    """Sequences of one step each, targets [B, Y], as the batch numbers them."""
    return replace(
        batch,
        targets=targets[:, None],
        inputs=torch.zeros_like(targets[:, None]),
        mask=batch.mask[:, :1],
        lengths=torch.ones_like(batch.lengths),
        counted=len(targets),
    )


def every_next_step(batch: Batch, i: int, t: int, values: Tensor) -> Batch:
    """Sequence i up to step t, once for each of the values [M, Y] that step t may have."""
    count = len(values)
    before = batch.targets[i, :t].expand(count, t, -1)
    lengths = batch.lengths.new_full((count,), t + 1)
    return Batch(
        targets=torch.cat([before, values[:, None]], dim=1),
        inputs=batch.inputs[i, : t + 1].expand(count, t + 1, -1),
        mask=batch.mask.new_ones(count, t + 1),
        lengths=lengths,
        index=batch.index[i].expand(count),
        kinds=batch.kinds[i].expand(count),
        counted=count * (t + 1),
    )
