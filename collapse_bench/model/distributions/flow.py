"""A distribution pushed through invertible maps (Rezende and Mohamed 2015).

z = f_m(...f_1(y)) with y from a base has log q(z) = log q(y) - sum_i log |det df_i / dy_(i-1)|.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Distribution, Transform, constraints
from torch.nn import functional as F

from collapse_bench.model.distributions.family import draw

PAIRS = 64
"""Antithetic pairs of draws that a mean is taken over, always of the same noise."""


class Flow(Distribution):
    """A base distribution of B sentences pushed through maps, one event a sentence.

    What a map takes from the encoder has the shape [B, ...] and is broadcast against [M, B, ...].
    The maps that a draw has gone through are kept with it, so that its own log-density takes no
    inversion; any other z is inverted.

    Args:
        source: the base, [B, D] or [B, n, d]: a diagonal normal, or what offers `from_noise`.
        transforms: invertible maps in the order in which they are applied, each over single
            coordinates or over up to all of an event's axes.
    """

    family = "flow"

    def __init__(self, source: Distribution, *transforms: Transform) -> None:
        super().__init__(source.batch_shape, source.event_shape, validate_args=False)
        self.source = source
        self.transforms = transforms
        self._mean: Tensor | None = None
        self._drawn: tuple[Tensor, Tensor] | None = None

    @property
    def mean(self) -> Tensor:
        """Mean over `PAIRS` fixed antithetic pairs of draws, of the shape of z.

        The noise is the same for all sentences, so that means differ only where posteriors do.
        """
        if self._mean is None:
            generator = torch.Generator().manual_seed(0)
            half = torch.randn(PAIRS, 1, *self.event_shape, generator=generator)
            noise = torch.cat([half, -half]).expand(-1, *self.batch_shape, *self.event_shape)
            y = draw(self.source, noise)
            self._mean = self._pushed(y)[0].mean(0)
        return self._mean

    def from_noise(self, noise: Tensor) -> Tensor:
        """z [..., B, D] from standard normal noise of that shape; gradients pass to all parts."""
        y = draw(self.source, noise)
        z, log_det = self._pushed(y)
        self._drawn = z, self.source.log_prob(y) - log_det
        return z

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density of z [..., D] against [B] to [..., B], nats.

        Where the inverse overflows, as it may at other sentences' draws, the density is 0 and the
        result -inf; z that is no number itself has none.
        """
        if self._drawn is not None and z is self._drawn[0]:
            return self._drawn[1]
        event = len(self.event_shape)
        shape = torch.broadcast_shapes(z.shape[: z.dim() - event], self.batch_shape)
        given = y = z.expand(shape + self.event_shape)
        log_det = z.new_zeros(shape)
        for transform in reversed(self.transforms):
            before = transform.inv(y)
            log_det = log_det + self._log_det(transform, before, y)
            y = before
        nats = self.source.log_prob(y) - log_det
        lost = nats.isnan() | ~y.flatten(len(shape)).isfinite().all(-1)
        return nats.masked_fill(lost & given.flatten(len(shape)).isfinite().all(-1), -torch.inf)

    def _pushed(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """z and the log of the determinant on the way there."""
        log_det = y.new_zeros(y.shape[: y.dim() - len(self.event_shape)])
        for transform in self.transforms:
            after = transform(y)
            log_det = log_det + self._log_det(transform, y, after)
            y = after
        return y, log_det

    def _log_det(self, transform: Transform, before: Tensor, after: Tensor) -> Tensor:
        """log |det| of one map, [...]; a map over single coordinates has one for each."""
        log_det: Tensor = transform.log_abs_det_jacobian(before, after)
        batch = before.dim() - len(self.event_shape)
        return log_det.flatten(batch).sum(-1) if log_det.dim() > batch else log_det


class AutoregressiveAffine(Transform):
    """The gated affine map of inverse autoregressive flow (Kingma et al. 2016, equations 11 to 14).

        z_i = g_i y_i + (1 - g_i) m_i,  g_i = sigmoid(s_i),  (m, s) = conditioner(y) by y_<i.

    One pass forwards, D passes backwards.

    Args:
        conditioner: y [..., D] to m and s, each [..., D], the i-th of which depend on y_<i only.
        axes: of an event; two are taken as one, [n, d] as [n d].
        backwards: whether the last coordinate comes first.
    """

    bijective = True

    def __init__(
        self,
        conditioner: Callable[[Tensor], tuple[Tensor, Tensor]],
        axes: int = 1,
        backwards: bool = False,
    ) -> None:
        super().__init__()
        self.conditioner = conditioner
        self.axes = axes
        self.backwards = backwards
        self.domain = self.codomain = constraints.independent(constraints.real, axes)
        self._mapped: Tensor | None = None  # the last y, and its sum_i log g_i
        self._log_gates: Tensor | None = None

    def _call(self, y: Tensor) -> Tensor:
        row = _row(y, self.axes, self.backwards)
        shift, gate = self.conditioner(row)
        self._mapped, self._log_gates = y, F.logsigmoid(gate).sum(-1)
        return _event(torch.lerp(shift, row, gate.sigmoid()), y, self.backwards)

    def _inverse(self, z: Tensor) -> Tensor:
        row = _row(z, self.axes, self.backwards)
        y = torch.zeros_like(row)
        for i in range(row.shape[-1]):
            shift, gate = (part[..., i] for part in self.conditioner(y))
            # (z - (1 - g) m) / g without the ratio of two numbers near 0.
            value = row[..., i] + (row[..., i] - shift) * torch.exp(-gate)
            y = torch.cat([y[..., :i], value[..., None], y[..., i + 1 :]], dim=-1)
        return _event(y, z, self.backwards)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """sum_i log g_i at x, which is mapped to y, [..., D] to [...], nats."""
        if self._log_gates is not None and x is self._mapped:
            return self._log_gates
        return F.logsigmoid(self.conditioner(_row(x, self.axes, self.backwards))[1]).sum(-1)


class MaskedAffine(Transform):
    """The affine map of masked autoregressive flow (Papamakarios et al. 2017, equation 3).

        z_i = y_i exp(a_i) + m_i,  (m, a) = conditioner(z) by z_<i.

    D passes forwards, as for a draw, one pass backwards, as for a density: a map for priors, whose
    density is wanted in every step of a training.

    Args:
        conditioner: z [..., D] to m and a, each [..., D], the i-th of which depend on z_<i only.
        axes: of an event; two are taken as one, [n, d] as [n d].
        backwards: whether the last coordinate comes first.
        at_once: coordinates of a group, none of which depends on another of its own; a draw takes
            a pass for each group.
    """

    bijective = True

    def __init__(
        self,
        conditioner: Callable[[Tensor], tuple[Tensor, Tensor]],
        axes: int = 1,
        backwards: bool = False,
        at_once: int = 1,
    ) -> None:
        super().__init__()
        self.conditioner = conditioner
        self.axes = axes
        self.backwards = backwards
        self.at_once = at_once
        self.domain = self.codomain = constraints.independent(constraints.real, axes)
        self._inverted: Tensor | None = None  # the last z, and its sum_i a_i
        self._log_scale: Tensor | None = None

    def _call(self, y: Tensor) -> Tensor:
        row = _row(y, self.axes, self.backwards)
        z = torch.zeros_like(row)
        for i in range(0, row.shape[-1], self.at_once):
            end = i + self.at_once
            shift, log_scale = (part[..., i:end] for part in self.conditioner(z))
            value = row[..., i:end] * log_scale.exp() + shift
            z = torch.cat([z[..., :i], value, z[..., end:]], dim=-1)
        return _event(z, y, self.backwards)

    def _inverse(self, z: Tensor) -> Tensor:
        row = _row(z, self.axes, self.backwards)
        shift, log_scale = self.conditioner(row)
        self._inverted, self._log_scale = z, log_scale.sum(-1)
        return _event((row - shift) * torch.exp(-log_scale), z, self.backwards)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """sum_i a_i at y, which x is mapped to, [..., D] to [...], nats."""
        if self._log_scale is not None and y is self._inverted:
            return self._log_scale
        return self.conditioner(_row(y, self.axes, self.backwards))[1].sum(-1)


def _row(event: Tensor, axes: int, backwards: bool) -> Tensor:
    """The coordinates of an event of so many axes, in the order in which they depend on each
    other."""
    row = event.flatten(-axes)
    return row.flip(-1) if backwards else row


def _event(row: Tensor, like: Tensor, backwards: bool) -> Tensor:
    """The way back from `_row`."""
    return (row.flip(-1) if backwards else row).view(like.shape)
