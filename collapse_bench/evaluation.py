"""A model on held-out sentences: per-sentence arrays, by the same code for every entry.

Dropout and word dropout are off and the objective is the plain one, whatever the training was.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Distribution, Normal

from collapse_bench.corpus import Batch, Split, evaluation_batches
from collapse_bench.metrics.likelihood import monte_carlo_error, proposal_draws
from collapse_bench.model import Noise, SequenceVAE
from collapse_bench.model.latent import base, draw, rate
from collapse_bench.precision import products_in

FIRST_ROUND = 8
"""Draws that every sentence gets, where their number depends on the error."""


@contextmanager
def evaluating(model: SequenceVAE) -> Iterator[None]:
    """No gradients and eval mode inside; every part in the mode it was in afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def evaluate(
    model: SequenceVAE,
    split: Split,
    *,
    samples: int,
    batch: int,
    seed: int,
    standard_error: float = 0.0,
    precision: str = "float32",
) -> dict[str, NDArray[Any]]:
    """Score every sentence of a split, in the split's order.

    The noise belongs to the sentence, not to the batch: the batch size changes nothing.

    Args:
        model: on any device; its mode and weights are as before afterwards.
        split: N sentences.
        samples: S, most draws for a sentence, from the posterior and the prior as `proposal_draws`
            tells; 0 leaves the decoder out.
        batch: sentences decoded at once.
        seed: of the noise.
        standard_error: nats; a sentence whose NLL has a smaller Monte-Carlo error gets no further
            draws. They come in rounds, each doubling their number, the first of `FIRST_ROUND`.
            With 0 there is one round, of S. The error is itself an estimate, which cannot see a
            large weight that no draw has hit.
        precision: of the decoder's products; posteriors are in float32 whatever it is.

    Returns:
        `tokens` [N] (EOS counted), `kl` [N, K], `posterior_mean`, `posterior_scale` and
        `posterior_sample` [N, D] and, unless `samples` is 0, `distortion` [N] (mean over the
        posterior's draws in the first round), `log_weights` [N, S], those of posterior draws first,
        -inf where nothing was drawn, and `draws` [N], how many were. Nats, float32; a latent
        sequence is flattened.

    Raises:
        TypeError: the posterior is not a diagonal normal.
    """
    device = next(model.parameters()).device
    noise = SentenceNoise(len(split), seed)

    def log_likelihood(sentences: Batch, z: Tensor) -> Tensor:
        with products_in(precision, device.type):
            return model.log_likelihood(sentences, z)

    parts: list[dict[str, Tensor]] = []
    with evaluating(model):
        for sentences in evaluation_batches(split, batch):
            sentences = sentences.to(device)
            q = model.posterior(sentences, noise.of(sentences, -1))
            if not isinstance(base(q), Normal):
                raise TypeError(
                    f"the posterior is a {type(base(q)).__name__}: mutual information and active "
                    f"units are defined here for diagonal normals, as model.diagonal_normal makes "
                    f"them"
                )
            p: Distribution = model.prior(q, sentences)
            z = draw(q, noise.of(sentences, 0)(q.mean))
            arrays = {
                "index": sentences.index,
                "tokens": sentences.lengths,
                "kl": rate(q, p, z),
                "posterior_mean": q.mean.flatten(1),
                "posterior_scale": q.stddev.flatten(1),
                "posterior_sample": z.flatten(1),
            }
            if samples:
                arrays |= _importance_weights(
                    log_likelihood,
                    sentences,
                    q,
                    p,
                    noise,
                    samples=samples,
                    standard_error=standard_error,
                    at_once=batch,
                )
            parts.append({name: array.cpu() for name, array in arrays.items()})
    order = torch.cat([part.pop("index") for part in parts]).argsort()
    return {name: torch.cat([part[name] for part in parts])[order].numpy() for name in parts[0]}


class SentenceNoise:
    """Standard normal noise that depends on the seed, the draw and the sentence only."""

    def __init__(self, sentences: int, seed: int) -> None:
        self.sentences = sentences
        self.seed = seed
        self.drawn: dict[tuple[int, torch.Size], Tensor] = {}

    def of(self, batch: Batch, draw: int) -> Noise:
        """The noise of a batch for the draw of that number; -1 is what a refining head uses."""

        def noise(mean: Tensor) -> Tensor:
            key = (draw, mean.shape[1:])
            if key not in self.drawn:
                generator = torch.Generator().manual_seed(self.seed * 1_000_003 + draw + 1)
                shape = (self.sentences, *mean.shape[1:])
                self.drawn[key] = torch.randn(shape, generator=generator)
            return self.drawn[key][batch.index.cpu()].to(mean)

        return noise


def _importance_weights(
    log_likelihood: Callable[[Batch, Tensor], Tensor],
    batch: Batch,
    q: Distribution,
    p: Distribution,
    noise: SentenceNoise,
    *,
    samples: int,
    standard_error: float,
    at_once: int,
) -> dict[str, Tensor]:
    """`distortion`, `log_weights` and `draws` of B sentences that have been encoded."""
    most_q, _ = proposal_draws(samples)
    sentences, device = len(batch.lengths), batch.lengths.device
    of_q = torch.zeros(sentences, samples, dtype=q.mean.dtype, device=device)
    of_p = torch.zeros_like(of_q)
    likelihood, log_weights = (torch.full_like(of_q, -math.inf) for _ in range(2))
    draws = torch.zeros_like(batch.lengths)
    going_on = torch.arange(sentences, device=device)
    done_q = done_p = 0
    for total in rounds_of_draws(samples, standard_error):
        from_q, from_p = proposal_draws(total)
        new = [*range(done_q, from_q), *range(most_q + done_p, most_q + from_p)]
        z = torch.stack(
            [draw(q if n < most_q else p, noise.of(batch, n)(q.mean)) for n in new]
        )  # [new, B, D] or [new, B, n, D]
        of_q[:, new] = torch.stack([q.log_prob(each) for each in z], dim=1)
        of_p[:, new] = torch.stack([p.log_prob(each) for each in z], dim=1)
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
        error = monte_carlo_error(
            log_weights[going_on, :from_q].cpu().numpy(),
            log_weights[going_on, most_q : most_q + from_p].cpu().numpy(),
        )
        going_on = going_on[torch.from_numpy(~(error <= standard_error)).to(device)]
        if not len(going_on):
            break
        done_q, done_p = from_q, from_p
    return {"distortion": distortion, "log_weights": log_weights, "draws": draws}


def rounds_of_draws(samples: int, standard_error: float) -> list[int]:
    """How many draws a sentence has had after each round: 8, 16, 32 and so on up to S, or S."""
    totals = []
    if standard_error > 0:
        total = FIRST_ROUND
        while total < samples:
            totals.append(total)
            total *= 2
    return [*totals, samples]


def negative_elbo(arrays: dict[str, NDArray[Any]]) -> float:
    """Mean of distortion + rate, nats a sentence: what checkpoints are selected by."""
    return float(np.mean(arrays["distortion"] + arrays["kl"].sum(1), dtype=np.float64))
