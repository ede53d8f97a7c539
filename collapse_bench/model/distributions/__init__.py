"""Families of posteriors and priors, and what every family offers to the rest of the bench.

A family is a torch `Distribution` with one event a sentence: batch shape `[B]`, event shape `[D]`,
or `[n, d]` for a latent sequence. The diagonal normal is torch's own. Any other one offers

- `family`: `flow`, `sphere`, `codes` or `other`, which says what metrics it has;
- `from_noise(noise)`: a draw as a function of standard normal noise of z's shape, so that gradients
  pass and the same noise gives the same draw; the noise may be in float32, whatever the model is;
- `log_prob(z)`, which broadcasts `[M, 1, ...]` against its `B` sentences to `[M, B]`, in nats;
- `mean`, where it is known.
"""

from collapse_bench.model.distributions.family import (
    Noise,
    base,
    closed_rate,
    draw,
    family_of,
    rate,
    shape_of,
)
from collapse_bench.model.distributions.normal import as_normal, diagonal_normal
from collapse_bench.model.distributions.widened import widened

__all__ = [
    "Noise",
    "as_normal",
    "base",
    "closed_rate",
    "diagonal_normal",
    "draw",
    "family_of",
    "rate",
    "shape_of",
    "widened",
]
