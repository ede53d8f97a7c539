"""An optimiser with a bound on the norm of its gradient, and a look at whether that is finite."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn


class DivergedError(ArithmeticError):
    """The loss or a gradient is no longer finite."""


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,  # Kingma and Ba 2015
    "sgd": torch.optim.SGD,
}


class ClippedOptimizer:
    """Adam, or plain SGD, on gradients whose norm over all of its parameters is bounded.

    Args:
        name: a key of `OPTIMIZERS`.
        parameters: what it updates.
        learning_rate: of the first step.
        clip: largest norm.
        broken: [] on their device, 1 once a gradient was not finite: it then does nothing.
    """

    def __init__(
        self,
        name: str,
        parameters: Iterable[nn.Parameter],
        learning_rate: float,
        clip: float,
        broken: Tensor,
    ) -> None:
        self.parameters = list(parameters)
        self.clip = clip
        self.broken = broken
        self.norm: Tensor | None = None
        # An optimiser of nothing is an error to torch.
        self.inner = OPTIMIZERS[name](
            [{"params": self.parameters, "factor": 1.0}], lr=learning_rate, fused=True
        )

    def look(self) -> None:
        """Measure the gradient; what is not finite breaks all optimisers that share `broken`."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        self.norm = nn.utils.get_total_norm(gradients) if gradients else None
        if self.norm is not None:
            broken = self.norm.isfinite().logical_not().float()
            torch.maximum(self.broken, broken, out=self.broken)

    def step(self, learning_rate: float) -> None:
        """One update by the gradients that have been looked at."""
        if self.norm is None:
            return
        # The fused optimiser divides by the one as it reads the gradient, and does nothing where
        # the other is 1: no second pass over the gradient, and no wait for a GPU.
        self.inner.grad_scale = (self.norm / self.clip).clamp(min=1)  # type: ignore[attr-defined]
        self.inner.found_inf = self.broken  # type: ignore[attr-defined]
        for group in self.inner.param_groups:
            group["lr"] = learning_rate * group["factor"]
        self.inner.step()

    def scale(self, parameters: Iterable[nn.Parameter], factor: float) -> None:
        """From now on these parameters have that factor of the learning rate; 0 keeps them."""
        factors = dict(zip(self.parameters, self.factors, strict=True))
        factors |= {each: factor for each in parameters if each in factors}
        self.factors = list(factors.values())

    @property
    def factors(self) -> list[float]:
        """What each parameter has of the learning rate."""
        return [group["factor"] for group in self.inner.param_groups for _ in group["params"]]

    @factors.setter
    def factors(self, factors: Sequence[float]) -> None:
        # Neighbours that have the same are one group: the fused optimiser is called once for each.
        of_parameter = zip(self.parameters, factors, strict=True)
        self.inner.param_groups = [
            self.inner.param_groups[0] | {"params": [p for p, _ in group], "factor": factor}
            for factor, group in groupby(of_parameter, key=itemgetter(1))
        ]

    def forget(self, parameters: Iterable[nn.Parameter]) -> None:
        """Drop what it knows of these parameters."""
        for parameter in parameters:
            self.inner.state.pop(parameter, None)

    def state_dict(self) -> dict[int, Any]:
        """What it knows of each parameter that has had a gradient, by the parameter's place."""
        known = self.inner.state
        return {i: dict(known[p]) for i, p in enumerate(self.parameters) if p in known}

    def load_state_dict(self, state: Mapping[int, Any]) -> None:
        """Know what a `state_dict` tells, and nothing else."""
        self.inner.state.clear()
        for i, known in state.items():
            parameter = self.parameters[i]
            moved = {name: value.to(parameter.device) for name, value in known.items()}
            self.inner.state[parameter] = moved
