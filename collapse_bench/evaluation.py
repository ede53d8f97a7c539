"""A model on held-out sentences: per-sentence arrays, by the same code for every entry.

Dropout and word dropout are off and the objective is the plain one, whatever the training was.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Distribution, Normal

from collapse_bench.corpus import Batch, Split, evaluation_batches
from collapse_bench.metrics.likelihood import proposal_draws
from collapse_bench.model import Noise, SequenceVAE
from collapse_bench.model.latent import base, draw, rate


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
    model: SequenceVAE, split: Split, *, samples: int, batch: int, seed: int
) -> dict[str, NDArray[Any]]:
    """Score every sentence of a split, in the split's order.

    The noise belongs to the sentence, not to the batch: the batch size changes nothing.

    Args:
        model: on any device; its mode and weights are as before afterwards.
        split: N sentences.
        samples: S, draws for each sentence, from the posterior and the prior as `proposal_draws`
            tells; 0 leaves the decoder out.
        batch: sentences decoded at once.
        seed: of the noise.

    Returns:
        `tokens` [N] (EOS counted), `kl` [N, K], `posterior_mean`, `posterior_scale` and
        `posterior_sample` [N, D] and, unless `samples` is 0, `distortion` [N] (mean over the
        posterior's draws) and `log_weights` [N, S]. Nats, float32; a latent sequence is flattened.

    Raises:
        TypeError: the posterior is not a diagonal normal.
    """
    device = next(model.parameters()).device
    noise = SentenceNoise(len(split), seed)
    parts: list[dict[str, Tensor]] = []
    with evaluating(model):
        for sentences in evaluation_batches(split, batch):
            sentences = sentences.to(device)
            parts.append(_evaluate_batch(model, sentences, noise, samples))
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


def _evaluate_batch(
    model: SequenceVAE, batch: Batch, noise: SentenceNoise, samples: int
) -> dict[str, Tensor]:
    q = model.posterior(batch, noise.of(batch, -1))
    if not isinstance(base(q), Normal):
        raise TypeError(
            f"the posterior is a {type(base(q)).__name__}: mutual information and active units are "
            f"defined here for diagonal normals, as model.diagonal_normal makes them"
        )
    p: Distribution = model.prior(q, batch)
    from_q, from_p = proposal_draws(max(samples, 1))
    draws = [
        draw(d, noise.of(batch, number)(q.mean))
        for number, d in enumerate([q] * from_q + [p] * from_p)
    ]
    arrays = {
        "index": batch.index,
        "tokens": batch.lengths,
        "kl": rate(q, p, draws[0]),
        "posterior_mean": q.mean.flatten(1),
        "posterior_scale": q.stddev.flatten(1),
        "posterior_sample": draws[0].flatten(1),
    }
    if samples:
        likelihood = torch.stack([model.log_likelihood(batch, z) for z in draws], dim=1)  # [B, S]
        prior, posterior = (torch.stack([d.log_prob(z) for z in draws], dim=1) for d in (p, q))
        share = torch.tensor([from_q, from_p], device=prior.device).div(samples).log()
        proposal = torch.logaddexp(posterior + share[0], prior + share[1])
        arrays["distortion"] = -likelihood[:, :from_q].mean(1)
        arrays["log_weights"] = likelihood + prior - proposal
    return {name: array.cpu() for name, array in arrays.items()}


def negative_elbo(arrays: dict[str, NDArray[Any]]) -> float:
    """Mean of distortion + rate, nats a sentence: what checkpoints are selected by."""
    return float(np.mean(arrays["distortion"] + arrays["kl"].sum(1), dtype=np.float64))
