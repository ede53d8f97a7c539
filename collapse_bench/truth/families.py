"""Exactly solvable models whose posteriors are not normal, one of each kind."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from collapse_bench.model.distributions.codes import autoregressive, uniform
from collapse_bench.model.distributions.power_spherical import PowerSpherical
from collapse_bench.model.distributions.spherical_cauchy import SphericalCauchy
from collapse_bench.truth.codes import coded
from collapse_bench.truth.flow import Pushed, bent
from collapse_bench.truth.linear import linear_vae
from collapse_bench.truth.sphere import spherical
from collapse_bench.truth.words import LinearWords


def other_families(seed: int) -> dict[str, Any]:
    """Models on the sphere, of codes and behind a flow, by name.

    Args:
        seed: of what in them is random.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    circle = spherical(LinearWords(normal(4, 4), 2 * normal(4, 4, 2)))
    sphere = spherical(LinearWords(normal(4, 4), 2 * normal(4, 4, 3)))
    one = LinearWords(normal(5, 4), 2 * normal(5, 4, 2))
    # Each code has words of its own, which say clearly enough what it is for the few draws from the
    # prior to find what is left of p(x) beside the codes that the posterior is certain of.
    compass = torch.tensor([[1, 0], [0, 1], [-1, 0], [0, -1]], dtype=torch.float64)
    vectors, several = compass + 0.2 * normal(4, 2), compass + 0.2 * normal(3, 4, 2)
    # The third code nearly follows from the others: 64 of equal use are too many to count.
    codes = torch.arange(4)
    follows = (codes[:, None, None] + codes[:, None] - codes) % 4 == 0
    learned = normal(4, 4, 4) - torch.where(follows, 0.0, 12.0)

    def words(n: int) -> LinearWords:
        own = torch.eye(n, dtype=torch.float64).repeat_interleave(2, dim=0)
        slope = 4 * torch.einsum("tp,vd->tvpd", own, compass).flatten(2)
        return LinearWords(0.5 * normal(2 * n, 4), slope + 0.5 * normal(2 * n, 4, 2 * n))

    spectrum = torch.tensor([6.0, 3.0, 2.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    return {
        "circle": circle,
        "sphere": sphere,
        "sphere, mis-set": replace(
            sphere,
            direction=sphere.direction + 0.3 * normal(*sphere.direction.shape),
            concentration=1.5 * sphere.concentration,
        ),
        "sphere, a concentration for each": replace(
            sphere,
            concentration=sphere.concentration
            * torch.linspace(0.5, 1.5, len(sphere.direction), dtype=torch.float64),
        ),
        "sphere, power spherical": spherical(sphere.decoder, PowerSpherical),
        "sphere, spherical Cauchy": spherical(sphere.decoder, SphericalCauchy),
        "one code, uniform prior": coded(one, vectors, uniform(vectors)),
        "two codes, uniform prior": coded(words(2), several[:2], uniform(several[:2])),
        "three codes, learned prior": coded(words(3), several, autoregressive(learned)),
        "flow of the linear VAE": Pushed(linear_vae(spectrum, 3), bent(normal(3, 3))),
    }
