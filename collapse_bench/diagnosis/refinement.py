"""The best diagonal normal for each sentence under a frozen decoder, and the gaps it splits.

What the encoder loses against it is the amortisation gap, what it loses itself the approximation
gap (Cremer, Li and Duvenaud 2018). An encoder that equals the prior beside a
decoder that could use z shows as a large amortisation gap: inference collapse (He et al. 2019).
"""

from dataclasses import dataclass
from typing import Any

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
from collapse_bench.model.distributions import diagonal_normal, draw, rate

Floats = NDArray[np.floating]

CHOOSING, TELLING = 8, 16
"""Draws by which the best candidate is chosen, and others that tell what it is worth. Were they the
same, the best of several would look better than it is."""

PRIOR_DRAWS = 64
"""Draws that tell the moments of a prior, whose mean and scale need not be known."""

MOMENTA = (0.7, 0.9)
"""Adam's decay rates: the usual ones remember longer than the whole ascent lasts."""

CANDIDATES = ("encoder", "from encoder", "from prior")
"""What may be kept: the encoder's posterior as it is, or what either start led to."""


@dataclass(frozen=True)
class Refined:
    """The encoder's posterior q and the refined q* of N sentences, by the same draws.

    Attributes:
        rate: KL(q || p), nats, [N].
        distortion: -E_q log p(x|z), nats, [N].
        refined_rate, refined_distortion: the same of q*, [N].
        mean, scale: of q*, [N, D]; a latent sequence is flattened.
        start: which of `CANDIDATES` q* is, [N].
    """

    rate: Floats
    distortion: Floats
    refined_rate: Floats
    refined_distortion: Floats
    mean: Floats
    scale: Floats
    start: NDArray[np.str_]

    @property
    def negative_elbo(self) -> Floats:
        """D + R of the encoder's posterior, [N]."""
        return self.distortion + self.rate

    @property
    def refined_negative_elbo(self) -> Floats:
        """D + R of the refined posterior, [N]."""
        return self.refined_distortion + self.refined_rate


@dataclass(frozen=True)
class Gaps:
    """Means over sentences and their standard errors, nats a sentence.

    Attributes:
        refined_rate: R of q*.
        refined_use: NLL - D of q*: what the decoder would gain from z if the encoder were better.
        amortisation: L(q*) - L(q).
        approximation: NLL below D + R of q*.
    """

    refined_rate: float
    refined_rate_error: float
    refined_use: float
    refined_use_error: float
    amortisation: float
    amortisation_error: float
    approximation: float
    approximation_error: float


def refine(
    log_likelihood: LogLikelihood,
    batch: Any,
    q: Distribution,
    p: Distribution,
    *,
    steps: int = 60,
    draws: int = 1,
    learning_rate: float = 0.5,
    seed: int = 0,
) -> Refined:
    """Raise the ELBO of each sentence by its own mean and scale (Kim et al. 2018).

    Adam from the encoder's posterior and from the prior; sentences and noise are independent, so
    the batch size changes nothing. The ascent follows the path derivative of
    log p(x|z) + log p(z) - log q(z) (Roeder, Wu and Duvenaud 2017), whose noise goes
    to zero as q approaches a posterior of its family; the rate is in closed form in what is
    reported. q* is the best that was found: the true gaps are at least as large for amortisation
    and at most as large for approximation.

    Args:
        log_likelihood: of a model in eval mode; its parameters need not be frozen.
        batch: B sentences.
        q: their posterior, a diagonal normal over z [B, D] or [B, n, D].
        p: their prior.
        steps: of the ascent, for both starts at once.
        draws: of z in each step.
        learning_rate: of the first step, about that far in units of z; it falls to zero as
            (1 - t / steps)^2.
        seed: of the noise, not negative.

    Raises:
        UserError: log_likelihood depends on z without a gradient.
    """
    mean, scale = q.mean.detach(), q.stddev.detach()
    streams = SentenceStreams(batch.index, seed)
    with gradients_of_latents():
        check_gradient(log_likelihood, batch, mean)
        means, scales = _ascend(
            log_likelihood, batch, p, streams, _starts(mean, scale, p, streams),
            steps=steps, draws=draws, learning_rate=learning_rate,
        )  # fmt: skip
    with torch.no_grad():
        means, scales = torch.cat([mean[None], means]), torch.cat([scale[None], scales])
        candidates = _rate_and_distortion(
            log_likelihood, batch, p, means, scales, streams.normal(CHOOSING, mean)
        )
        loss = candidates[0] + candidates[1]  # [C, B]
        best = loss.nan_to_num(nan=torch.inf).argmin(0)
        sentence = torch.arange(len(best), device=best.device)
        kept_mean, kept_scale = means[best, sentence], scales[best, sentence]
        rates, distortions = _rate_and_distortion(
            log_likelihood, batch, p, torch.stack([mean, kept_mean]),
            torch.stack([scale, kept_scale]), streams.normal(TELLING, mean),
        )  # fmt: skip
    return Refined(
        rate=_numbers(rates[0]),
        distortion=_numbers(distortions[0]),
        refined_rate=_numbers(rates[1]),
        refined_distortion=_numbers(distortions[1]),
        mean=_numbers(kept_mean.flatten(1)),
        scale=_numbers(kept_scale.flatten(1)),
        start=np.asarray(CANDIDATES)[best.cpu().numpy()],
    )


def gaps(nll: Floats, refined: Refined) -> Gaps:
    """The amortisation gap L(q*) - L(q) and the approximation gap D* + R* - NLL.

    They cannot see what neither the NLL nor the ascent has found: an NLL that is too high hides
    approximation gap, down to negative ones, and an ascent that is not done takes from the
    amortisation gap what it adds to the other.

    Args:
        nll: nats of each refined sentence, [N], or several such estimates, [M, N], each an upper
            bound in expectation, of which the smallest is taken sentence by sentence.
        refined: of the same sentences.
    """
    least = np.atleast_2d(np.asarray(nll, dtype=np.float64)).min(axis=0)
    # D + R of q* is an upper bound on the NLL, too.
    bound = np.minimum(least, refined.refined_negative_elbo)
    per_sentence = (
        refined.refined_rate,
        bound - refined.refined_distortion,
        refined.negative_elbo - refined.refined_negative_elbo,
        refined.refined_negative_elbo - least,
    )
    return Gaps(*(number for values in per_sentence for number in _mean_and_error(values)))


def _starts(
    mean: Tensor, scale: Tensor, p: Distribution, streams: SentenceStreams
) -> tuple[Tensor, Tensor]:
    """Means and scales to start from, [2, B, ...]: the encoder's and the prior's."""
    z = torch.stack([draw(p, noise) for noise in streams.normal(PRIOR_DRAWS, mean)]).detach()
    return torch.stack([mean, z.mean(0)]), torch.stack([scale, z.std(0)])


def _ascend(
    log_likelihood: LogLikelihood,
    batch: Any,
    p: Distribution,
    streams: SentenceStreams,
    starts: tuple[Tensor, Tensor],
    *,
    steps: int,
    draws: int,
    learning_rate: float,
) -> tuple[Tensor, Tensor]:
    """Means and scales at the end, [S, B, ...], for S starts."""
    mean = starts[0].clone().requires_grad_()
    log_scale = starts[1].log().requires_grad_()
    several = _repeated(batch, len(mean))
    optimizer = torch.optim.Adam([mean, log_scale], betas=MOMENTA)
    noise = torch.empty(0)
    for step in range(steps):
        # Every other step mirrors the noise of the one before: what is odd in it cancels.
        noise = -noise if step % 2 else streams.normal(draws, mean[0])
        optimizer.param_groups[0]["lr"] = learning_rate * (1 - step / steps) ** 2
        elbo = torch.zeros((), dtype=mean.dtype, device=mean.device)
        for each in noise:
            z = mean + log_scale.exp() * each  # [S, B, ...]
            path = diagonal_normal(
                mean.detach().flatten(0, 1), log_scale.detach().exp().flatten(0, 1)
            )
            prior = torch.stack([p.log_prob(of_start) for of_start in z])
            likelihood = log_likelihood(several, z.flatten(0, 1))
            elbo = elbo + (likelihood - path.log_prob(z.flatten(0, 1))).sum() + prior.sum()
        mean.grad, log_scale.grad = gradient(-elbo / draws, [mean, log_scale])
        optimizer.step()
    return mean.detach(), log_scale.detach().exp()


def _rate_and_distortion(
    log_likelihood: LogLikelihood,
    batch: Any,
    p: Distribution,
    means: Tensor,
    scales: Tensor,
    noise: Tensor,
) -> tuple[Tensor, Tensor]:
    """R and D of C candidates by the same noise [M, B, ...], [C, B] each."""
    several = _repeated(batch, len(means))
    rates, distortions = [], []
    for each in noise:
        z = means + scales * each  # [C, B, ...]
        nats = log_likelihood(several, z.flatten(0, 1))
        distortions.append(-nats.reshape(len(means), -1))
        candidates = zip(means, scales, z, strict=True)
        rates.append(
            torch.stack([rate(diagonal_normal(m, s), p, each).sum(1) for m, s, each in candidates])
        )
    return torch.stack(rates).mean(0), torch.stack(distortions).mean(0)


def _repeated(batch: Any, times: int) -> Any:
    """The sentences of a batch, all of them that many times."""
    return batch.rows(torch.arange(len(batch.index), device=batch.lengths.device).repeat(times))


def _numbers(tensor: Tensor) -> Floats:
    return np.asarray(tensor.cpu().double().numpy())


def _mean_and_error(values: Floats) -> tuple[float, float]:
    """Mean and its standard error, infinite where there is but one value."""
    n = len(values)
    return float(values.mean()), float(values.std(ddof=1) / n**0.5) if n > 1 else float("inf")
