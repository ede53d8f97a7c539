"""A posterior that trusts its sentence less, for importance sampling beside posterior and prior.

Weights are bounded by nothing where the posterior is narrower than the true one, or off it, and the
prior's draws meet the true one too seldom to help. A factorised posterior is too narrow by design:
the best one has the diagonal of the true precision (Bishop 2006, section 10.1.2) and none of the
prior's correlations. So the precision is taken apart. Its diagonal less the prior's is the
*evidence*, what the sentence told; the widened posterior has the same mean, the prior's whole
precision and the share `EVIDENCE` of the evidence. At the floor of a delta-VAE there is no evidence
and it is the prior, moved to the posterior's mean.
"""

import math

import torch
from torch.distributions import Distribution, Normal

from collapse_bench.model.distributions.autoregressive import AutoregressiveNormal, MarkovNormal
from collapse_bench.model.distributions.family import base
from collapse_bench.model.distributions.normal import diagonal_normal
from collapse_bench.model.distributions.power_spherical import PowerSpherical
from collapse_bench.model.distributions.sphere import UniformOnSphere, VonMisesFisher
from collapse_bench.model.distributions.spherical_cauchy import SphericalCauchy

EVIDENCE = 1 / 3
"""Share of a posterior's evidence that the widened one keeps. A half does better where
correlations are all that a posterior lacks, a quarter where it is half as wide as the true one or
less: see docs/nll.md."""


def widened(q: Distribution, p: Distribution) -> Distribution | None:
    """The widened posterior of B sentences, or None where the pair has none.

    A normal posterior has one under a diagonal or autoregressive normal prior, and one on the
    sphere under the uniform, where all of its concentration is evidence. Codes and flows, whose
    precision is not known, have none, nor has a posterior under a prior of another kind.

    Args:
        q: posterior, over z [B, D] or [B, n, d].
        p: prior of the same sentences.
    """
    of_q, of_p = base(q), base(p)
    if isinstance(of_p, UniformOnSphere) and isinstance(
        of_q, VonMisesFisher | PowerSpherical | SphericalCauchy
    ):
        return of_q.softened(EVIDENCE)
    if type(of_q) is not Normal:
        return None
    if isinstance(of_p, AutoregressiveNormal):
        diagonal, beside = of_p.precision()
        diagonal = diagonal.to(of_q.stddev.device)[:, None]
        evidence = (of_q.stddev.double() ** -2 - diagonal).clamp(min=0)
        return MarkovNormal(of_q.mean, diagonal + EVIDENCE * evidence, beside)
    if type(of_p) is Normal:
        narrow = torch.minimum(of_q.stddev, of_p.stddev)
        # (EVIDENCE / narrow^2 + (1 - EVIDENCE) / prior^2)^(-1/2), and no square of a small number.
        shares = math.sqrt(EVIDENCE), math.sqrt(1 - EVIDENCE)
        root = torch.hypot(shares[0] * of_p.stddev, shares[1] * narrow)
        return diagonal_normal(of_q.mean, narrow * of_p.stddev / root)
    return None
