"""Whether prior and posterior are what the bound takes them for."""

import math

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, MultivariateNormal, Normal

from collapse_bench.evaluation.asked import Asked
from collapse_bench.model.distributions import base, closed_rate, draw, family_of, shape_of

PRIORS, PRIOR_BATCH = 192, 48
"""Sentences whose priors are compared, and how many are inferred at once: a prior that sees other
sentences of the batch need not differ within it."""

POINTS = 4
"""Places of z at which priors are compared."""

STRICT = 20.0
"""How much less priors may differ than likelihoods, which are long sums; mostly they are equal."""

SENTENCES, DRAWS = 64, 64
"""Sentences whose posterior is drawn from, and draws of each."""

ERRORS = 4.5
"""Standard errors by which the mean of log q/p may be off the closed rate: of a million honest
models seven are."""

FLOWS, WIDEST = 8, 64
"""Sentences whose draw is differentiated by its noise, and the most dimensions of z for it and for
a normal that is fitted to draws."""

JACOBIAN = 0.05
"""Nats by which a density may be below that of its draw by the change of variables, whose float32
determinant is good to 1e-3 where the condition is below `CONDITION`."""

CONDITION = 1e4

WIDER, MASS = 1.1, 0.02
"""How much wider the normal is that a prior is held against, and nats by which its mass may be
above 1 beyond the sampling error."""

CENTRES, NEAREST = 512, 16
"""Draws of a prior around which narrower normals are put, and draws that each is fitted to."""


def prior(asked: Asked) -> str | None:
    """Whether log p(z) at a fixed z is the same for all sentences and however they are numbered."""
    chosen = asked.order[:PRIORS]
    together = min(PRIOR_BATCH, (len(chosen) + 1) // 2)
    first = asked.at(chosen[:together])
    inferred = asked.infer(first)
    if not inferred.z.numel():
        return None
    of_p = draw(inferred.p, asked.noise.of(first, 1)(shape_of(inferred.q)))
    places = torch.cat([inferred.z[: POINTS // 2], of_p[: POINTS // 2]])
    expected: Tensor | None = None
    worst = 0.0
    for start in range(0, len(chosen), together):
        p = asked.infer(asked.at(chosen[start : start + together])).p
        nats = torch.stack(
            [p.log_prob(z.expand(shape_of(p))) for z in places]
        )  # [POINTS, B], of one z each
        expected = nats[:, :1] if expected is None else expected
        worst = max(worst, float(asked.beyond(expected.expand_as(nats), nats, STRICT).max()))
    if not worst:
        return None
    return (
        "the prior depends on the sentence or on other data: log p(z) of one z differs between"
        f" sentences by up to {worst:.2g} nats"
    )


def density(asked: Asked) -> str | None:
    """Whether log q is the density of what is drawn, and log p that of a prior's own draws.

    Where the rate has a closed form the mean of log q/p over draws has to agree with it. Elsewhere
    log q may not be below log N(e) - log |det dz/de|, the density of the draw z(e) by the change of
    variables: a flow's is equal to it, one that several noises lead to is above. Draws whose
    Jacobian is singular, as of codes and on a sphere, tell nothing.
    """
    sentences = asked.at(asked.order[:SENTENCES])
    inferred = asked.infer(sentences)
    if not inferred.z.numel():
        return None
    rate = closed_rate(inferred.q, inferred.p)
    found = (
        _of_flow(asked, prior=False)
        if rate is None
        else _of_closed_rate(asked, inferred.q, inferred.p, rate.sum(1))
    )
    return found or (None if type(base(inferred.p)) is Normal else _of_flow(asked, prior=True))


def mass(asked: Asked) -> str | None:
    """Whether the prior integrates to no more than 1, where it is a family of the remedy's own.

    The mean of p/r over draws of r is the part of p's mass that r reaches. Half of r is a normal
    with the mean and covariance of the prior's draws, and half a mixture of narrower ones around
    some of them, each fitted to its nearest neighbours: where p has parts far apart, the normal
    falls between them (a defensive mixture, Hesterberg 1995). A mass above 1 is told only beyond
    the sampling error. So nothing is seen of parts that too few of the draws fall into or that are
    far from normal in many dimensions, of a mass that is too small, in more than `WIDEST`
    dimensions, and of codes and spheres, which have no such normal.
    """
    of_q, of_p = family_of(asked.own.q), family_of(asked.own.p)
    if of_p == "normal" or of_p in ("codes", "sphere") or of_q not in ("normal", "flow"):
        return None
    if not 0 < math.prod(asked.own.z.shape[1:]) <= WIDEST:
        return None
    # Of few sentences a round would hold few draws: the same come over and over.
    inferred = asked.infer(asked.at(np.resize(asked.order, SENTENCES)))
    p, shape = inferred.p, shape_of(inferred.q)
    rounds = math.ceil(SENTENCES * DRAWS / shape[0])
    drawn = torch.cat([draw(p, _noise(asked, shape)).flatten(1).double() for _ in range(rounds)])
    spread = torch.cov(drawn.T).view(drawn.shape[1], -1) * WIDER**2
    factor, failed = torch.linalg.cholesky_ex(spread)
    if failed:
        return None
    r = MultivariateNormal(drawn.mean(0), scale_tril=factor, validate_args=False)
    near = _around(asked, drawn)
    ratios = []
    for turn in range(2 * rounds):
        noise = _noise(asked, shape).flatten(1).double()
        if turn % 2:
            part = torch.from_numpy(asked.rng.integers(len(near.mean), size=len(noise)))
            part = part.to(asked.device)
            z = near.mean[part] + near.stddev[part] * noise
        else:
            z = r.mean + noise @ factor.T
        half = torch.logaddexp(r.log_prob(z), _mixture(near, z)) - math.log(2)
        ratios.append(p.log_prob(z.to(inferred.z).view(shape)).double() - half)
    log_ratio = torch.cat(ratios)
    weight = (log_ratio - log_ratio.max()).exp()
    error = float(weight.std() / weight.mean()) / math.sqrt(len(weight))
    log_mass = float(weight.mean().log() + log_ratio.max())
    least = 1 - ERRORS * error
    if least <= 0 or log_mass + math.log(least) <= MASS:
        return None
    return (
        f"the prior's density does not integrate to 1: exp({log_mass:.2g}) of it was found, with an"
        f" error of {100 * error:.2g} %"
    )


def _around(asked: Asked, drawn: Tensor) -> Normal:
    """Normals [C, D] around some of the draws [M, D], each fitted to its nearest neighbours.

    A local scale is that of few draws, so its shape over the dimensions is common to all.
    """
    centre, scale = drawn.mean(0), drawn.std(0).clamp(min=1e-12)
    drawn = (drawn - centre) / scale
    chosen = torch.from_numpy(asked.rng.permutation(len(drawn))[:CENTRES]).to(asked.device)
    nearest = torch.cdist(drawn[chosen], drawn).topk(min(NEAREST, len(drawn)), largest=False)
    group = drawn[nearest.indices]  # [C, NEAREST, D]
    apart = group - group.mean(1, keepdim=True)
    width = apart.square().mean((1, 2)).sqrt().clamp(min=1e-12)
    shape = (apart / width[:, None, None]).square().mean((0, 1)).sqrt().clamp(min=1e-12)
    return Normal(
        centre + scale * group.mean(1), WIDER * scale * shape * width[:, None], validate_args=False
    )


def _mixture(parts: Normal, z: Tensor) -> Tensor:
    """log density [M] at z [M, D] of equal parts [C, D], as products of matrices."""
    precision = parts.stddev**-2
    square = z.square() @ precision.T - 2 * z @ (precision * parts.mean).T
    square = square + (precision * parts.mean.square()).sum(1)
    nats = -0.5 * square - parts.stddev.log().sum(1) - 0.5 * z.shape[1] * math.log(2 * math.pi)
    return nats.logsumexp(1) - math.log(len(parts.mean))


def _of_closed_rate(asked: Asked, q: Distribution, p: Distribution, rate: Tensor) -> str | None:
    """Rate [B] against the mean of log q/p over draws."""
    ratios = []
    for _ in range(DRAWS):
        z = draw(q, _noise(asked, shape_of(q)))
        ratios.append((q.log_prob(z) - p.log_prob(z)).double())
    off = (torch.stack(ratios) - rate.double()).flatten().cpu().numpy()
    mean, error = float(off.mean()), float(off.std()) / math.sqrt(off.size)
    closed = float(rate.double().mean())
    if not np.isfinite(off).all():  # told by the array that it ends in
        return None
    if abs(mean) <= ERRORS * error + 1e-3 + 1e-4 * abs(closed):
        return None
    apart = f", {abs(mean) / error:.0f} standard errors apart" if error else ""
    return (
        "the posterior's density is not that of its draws: the mean of log q/p is"
        f" {closed + mean:.3g} nats and the closed rate {closed:.3g}{apart}"
    )


def _of_flow(asked: Asked, prior: bool) -> str | None:
    """The density of posterior or prior against the change of variables from a draw's noise."""
    inferred = asked.infer(asked.at(asked.order[:FLOWS]))
    q = inferred.p if prior else inferred.q
    shape = shape_of(inferred.q)
    if math.prod(shape[1:]) > WIDEST:
        return None
    noise = _noise(asked, shape)
    with torch.enable_grad():
        noise.requires_grad_()
        z = draw(q, noise).flatten(1)
        if not z.requires_grad:
            return None
        rows = [
            torch.autograd.grad(z[:, d].sum(), noise, retain_graph=True, allow_unused=True)[0]
            for d in range(z.shape[1])
        ]
    if any(row is None for row in rows):
        return None
    jacobian = torch.stack([row.flatten(1) for row in rows], dim=1).double().cpu().nan_to_num()
    regular = torch.linalg.cond(jacobian) < CONDITION
    log_noise = torch.distributions.Normal(0.0, 1.0).log_prob(noise.detach().double().cpu())
    of_draw = log_noise.flatten(1).sum(1) - torch.linalg.slogdet(jacobian).logabsdet
    claimed = q.log_prob(z.detach().view(shape)).double().cpu()
    short = (of_draw - claimed)[regular]
    allowed = (JACOBIAN + 1e-3 * of_draw.abs())[regular]
    if not (short > allowed).any():
        return None
    name, letter = ("prior", "p") if prior else ("posterior", "q")
    return (
        f"the {name}'s density is not that of its draws: log {letter} of a draw is up to"
        f" {float(short.max()):.2g} nats below what the change of variables gives"
    )


def _noise(asked: Asked, shape: torch.Size) -> Tensor:
    drawn = asked.rng.standard_normal(tuple(shape), dtype=np.float32)
    return torch.from_numpy(drawn).to(asked.device)
