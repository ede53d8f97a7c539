"""A prior that another one takes the place of, once that is fitted."""

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from collapse_bench.corpus import Batch
from collapse_bench.model.autoregressive_flow import check_vectors


class SuccessivePrior(nn.Module):
    """Prior: the model's own, and once that is fitted a flow over it.

    Attributes:
        fitted: which of the two; saved with the weights.
    """

    fitted: bool

    def __init__(self, own: nn.Module, flow: nn.Module) -> None:
        super().__init__()
        self.own, self.flow = own, flow
        self.choose(False)

    def choose(self, fitted: bool) -> None:
        """Take one of the two; the flow learns only while it is the prior."""
        self.fitted = fitted
        self.flow.requires_grad_(fitted)

    def get_extra_state(self) -> Tensor:
        """`fitted` as a tensor: a buffer would be waited for by a GPU at every pass."""
        return torch.tensor(self.fitted)

    def set_extra_state(self, state: Tensor) -> None:
        """Take the one that was saved."""
        self.choose(bool(state))

    def forward(self, q: Distribution, batch: Batch) -> Distribution:
        """A prior over z for each of the B sentences.

        Raises:
            UserError: the own one is no density over all of z's space.
        """
        p = check_vectors("fitted_prior", self.own(q, batch))
        return self.flow(p) if self.fitted else p
