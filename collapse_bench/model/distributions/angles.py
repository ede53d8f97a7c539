"""The angle between a draw on the sphere and the direction that a distribution is concentrated at.

    f(t) = sin(t)^(D - 2) exp(k s(t)) on [0, pi], without its constant,

is the density of the angle t of any distribution on the sphere in D dimensions whose log-density is
k s(t) and a constant. All that is needed of it is an integral over t, which Gauss-Legendre
quadrature gives to float64 for any D and k where s is smooth, or the inverse of one. Both have
gradients by k, so that concentrations may be learned: the quantile an implicit one (Figurnov,
Mohamed and Mnih 2018, equation 4).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

WIDTHS, CELLS, ORDER = 16.0, 32, 10
"""Integrals reach so many widths of the peak to either side, in cells of so many nodes."""

REACH = 9.0
"""Standard normal noise beyond which quantiles are those of it."""

ROUNDS, FEW_ROUNDS = {torch.float64: 5}, 3
"""Newton's steps to a quantile, by the dtype of the noise. Three are enough for 1e-7 of the
distance to the nearer end, and no other dtype holds more."""

LEAST = 1e-300
"""In place of a mass of 0, whose logarithm is asked for."""


class Statistic(NamedTuple):
    """What a family of distributions has its log-density proportional to.

    Attributes:
        value: s(t), 0 at t = 0.
        peak: D - 2 and k to where f is largest, and minus the second derivative of log f there.
    """

    value: Callable[[Tensor], Tensor]
    peak: Callable[[int, Tensor], tuple[Tensor, Tensor]]


class Angles:
    """The distribution of t for each of R concentrations.

    Args:
        dimension: D, at least 2.
        concentration: k, [R], above 0.
        statistic: s.

    Attributes:
        log_total: log of the integral of f, [R], float64.
        mean_statistic: E s(t), [R], float64.
    """

    def __init__(self, dimension: int, concentration: Tensor, statistic: Statistic) -> None:
        self._concentration = concentration.double()
        self._power, self._value = dimension - 2, statistic.value
        k = self._concentration[:, None]
        with torch.no_grad():
            peak, curvature = statistic.peak(self._power, k)
            reach = WIDTHS / curvature.sqrt()
            self._low = (peak - reach).clamp(min=0)
            self._high = (peak + reach).clamp(max=math.pi)
            self._largest = self._log_density(peak, k)
            self._step = (self._high - self._low) / CELLS
            start = self._low + self._step * torch.arange(CELLS, device=k.device)
        by_cell = self._integrals(start, start + self._step, k)
        total = by_cell[0].sum(1)
        self.log_total = total.log() + self._largest[:, 0]
        self.mean_statistic = by_cell[1].sum(1) / total
        # Masses from either end, where a small one has all its digits.
        self._before = [_cumulated(each.detach(), flipped) for flipped in (False, True)
                        for each in by_cell]  # fmt: skip

    def quantile(self, e: Tensor) -> Tensor:
        """t at Phi(-e), [..., R] or, of one concentration, [...]; of noise beyond `REACH` the last.

        Gradients pass to the noise and to the concentrations, once.
        """
        rows = e.double().reshape(-1, len(self._concentration)).T
        rounds = ROUNDS.get(e.dtype, FEW_ROUNDS)
        t: Tensor = _Quantile.apply(rows, self._concentration, self, rounds)  # type: ignore[no-untyped-call]
        return t.T.reshape(e.shape).to(e)

    def solve(self, e: Tensor, rounds: int) -> tuple[Tensor, Tensor, Tensor]:
        """Quantiles [R, M] of noise of that shape after so many of Newton's steps, and their
        derivatives by noise and k."""
        k, e = self._concentration.detach()[:, None], e.clamp(-REACH, REACH)
        total, flipped = self._before[0][:, -1:], e < 0
        wanted = (torch.special.ndtr(-e.abs()) * total).contiguous()

        def at(which: int, edge: Tensor) -> Tensor:
            """Integrals of f (0) or f s (1) from the end that is near to an edge."""
            low, high = self._before[which], self._before[which + 2]
            return torch.where(flipped, high.gather(1, edge), low.gather(1, edge))

        low, high = (torch.searchsorted(self._before[i], wanted, right=True) for i in (0, 2))
        cell = (torch.where(flipped, high, low) - 1).clamp(0, CELLS - 1)
        before, after = at(0, cell), at(0, cell + 1)
        # Distances from the near end: there masses are powers of them, so that logarithms of both
        # are what Newton's method is fast in.
        near, far = cell * self._step, (cell + 1) * self._step
        share = (wanted / after).log() / (before.clamp(min=LEAST) / after).log()
        distance = torch.where(
            cell == 0,
            far * (wanted / after) ** (1 / (self._power + 1)),
            far * (near.clamp(min=LEAST) / far) ** share,
        )

        def place(distance: Tensor) -> Tensor:
            return torch.where(flipped, self._high - distance, self._low + distance)

        for _ in range(rounds):
            [mass] = self._integrals(place(near), place(distance), k, both=False)
            mass = (before + mass).clamp(min=LEAST)
            density = self._density(place(distance), k).clamp(min=LEAST)
            change = (wanted / mass).log() * mass / (distance.clamp(min=LEAST) * density)
            distance = (distance * change.clamp(-40, 40).exp()).clamp(near, far)
        t = place(distance)
        density = self._density(t, k).clamp(min=LEAST)
        normal = torch.exp(-0.5 * e**2) / math.sqrt(2 * math.pi)
        parts = self._integrals(place(near), t, k)
        mass, of_s = (at(which, cell) + part for which, part in enumerate(parts))
        # d/dk of the mass between the end and t.
        moved = of_s - self.mean_statistic.detach()[:, None] * mass
        by_k = torch.where(flipped, moved, -moved) / density
        return t, -normal * total / density, by_k

    def _integrals(self, start: Tensor, end: Tensor, k: Tensor, both: bool = True) -> list[Tensor]:
        """Of f, and with `both` of f s, between angles of whatever order, each [R, ...]."""
        nodes, weights = (torch.from_numpy(each).to(k.device) for each in _LEGENDRE)
        half = (end - start) / 2
        t = ((start + end) / 2)[..., None] + half[..., None] * nodes
        density = self._density(t, k[..., None])
        found = [density, density * self._value(t)] if both else [density]
        return [half.abs() * (each @ weights) for each in found]

    def _density(self, t: Tensor, k: Tensor) -> Tensor:
        """f over its largest value."""
        largest = self._largest.view(-1, *[1] * (t.dim() - 1))
        return (self._log_density(t, k) - largest).exp()

    def _log_density(self, t: Tensor, k: Tensor) -> Tensor:
        log_density = k * self._value(t)
        if self._power:  # 0 log 0 is 0
            log_density = log_density + self._power * t.sin().abs().log()
        return log_density


_LEGENDRE = np.polynomial.legendre.leggauss(ORDER)


def _cumulated(masses: Tensor, flipped: bool) -> Tensor:
    """Masses of cells [R, CELLS] added up from the first or the last one, [R, CELLS + 1]."""
    masses = masses.flip(1) if flipped else masses
    return torch.cat([torch.zeros_like(masses[:, :1]), masses.cumsum(1)], dim=1).contiguous()


class _Quantile(torch.autograd.Function):
    """`Angles.solve` with its derivatives."""

    @staticmethod
    def forward(ctx: Any, e: Tensor, concentration: Tensor, angles: Angles, rounds: int) -> Tensor:
        t, by_noise, by_concentration = angles.solve(e, rounds)
        ctx.save_for_backward(by_noise, by_concentration)
        return t

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        by_noise, by_concentration = ctx.saved_tensors
        return gradient * by_noise, (gradient * by_concentration).sum(1), None, None
