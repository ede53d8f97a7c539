"""The diagonal normal, the posterior of the plain VAE."""

from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from collapse_bench.errors import UserError
from collapse_bench.model.distributions.family import base


def diagonal_normal(mean: Tensor, scale: Tensor) -> Distribution:
    """A normal with diagonal covariance whose every axis but the first is one event.

    Args:
        mean: [B, D] or [B, n, D].
        scale: standard deviations, same shape, positive.
    """
    return Independent(Normal(mean, scale, validate_args=False), mean.dim() - 1, False)


def as_normal(distribution: Distribution) -> Normal:
    """The normal of single dimensions that a diagonal normal is made of.

    Raises:
        UserError: it is of another family, so what is built on its mean and scale does not apply.
    """
    part = base(distribution)
    if type(part) is not Normal:
        raise UserError(
            f"needs a diagonal normal, got a {type(part).__name__}: what changes mean or scale of a"
            f" posterior goes with normal posteriors only; leave one of the two remedies out"
        )
    return part
