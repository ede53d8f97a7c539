"""The bound of posteriors that each sentence's own descent under the frozen decoder has refined.

Remedies that refine report it as theirs (Kim et al. 2018): here every entry has it alike, from the
posterior that its head hands out; one that refines has had its own steps before these.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from collapse_bench.evaluation.noise import SentenceNoise, Sentences
from collapse_bench.model.distributions import draw, family_of, rate, shape_of
from collapse_bench.model.refinement import Descent, normal_of, parameters_of

STEP_SIZE, MOMENTUM, CLIP = 1 / 32, 0.5, 28.0
"""Of the descent: those of Kim et al. (2018), for a sentence by itself."""


def refined_terms(
    log_likelihood: Callable[[Any, Tensor], Tensor],
    sentences: Sentences,
    q: Distribution,
    p: Distribution,
    noise: SentenceNoise,
    *,
    steps: int,
    draws: int,
) -> dict[str, Tensor]:
    """`refined_distortion` [B] and `refined_kl` [B, K], nats; nothing if q is no diagonal normal.

    What measures is other noise than what the descent has seen, and the same as measures q: the
    difference of the two is known better than either.

    Args:
        log_likelihood: of sentences and z, nats, [B].
        sentences: B of them.
        q: their posterior, where the descent starts.
        p: their prior.
        noise: of all draws.
        steps: of the descent.
        draws: of each refined posterior, numbers 0 and on.
    """
    if family_of(q) != "normal":
        return {}
    of_step = noise.of_refinement(sentences)

    def energy(posterior: Distribution) -> Tensor:
        z = draw(posterior, of_step(shape_of(q)))
        return rate(posterior, p, z).sum(1) - log_likelihood(sentences, z)

    descent = Descent(steps, STEP_SIZE, MOMENTUM, CLIP)
    refined = normal_of(descent(parameters_of(q), energy))
    drawn = [draw(refined, noise.of(sentences, n)(shape_of(q))) for n in range(draws)]
    return {
        "refined_distortion": -torch.stack([log_likelihood(sentences, z) for z in drawn]).mean(0),
        "refined_kl": torch.stack([rate(refined, p, z) for z in drawn]).mean(0),
    }
