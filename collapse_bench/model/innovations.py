"""An autoregressive normal by what is new at each step of it: z_t = m_t + s_t e_t."""

import torch
from torch import Tensor, nn

from collapse_bench.model.autoregressive_flow import FLAT, MaskedLinear, bounded
from collapse_bench.model.code_priors import WIDTH


class Innovations(nn.Module):
    """Standard normal e to z with p(z_t | z_<t) = N(m_t, s_t^2), m_t and s_t by an LSTM from z_<t.

    One cell after the other: a vector has to be there before the next is.

    Args:
        width: d, numbers of a vector.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(width, WIDTH)
        self.out = MaskedLinear(torch.ones(2 * width, WIDTH), FLAT)

    def forward(self, e: Tensor) -> Tensor:
        """e [B, T, d] to z [B, T, d]; z_t depends on e up to t."""
        # In full precision also where the products of the training are not: errors would add up.
        with torch.autocast(e.device.type, enabled=False):
            e = e.to(self.out.weight.dtype)
            z = torch.zeros_like(e[:, 0])
            state = None
            steps = []
            for each in e.unbind(1):
                state = self.cell(z, state)
                mean, log_scale = self.out(state[0]).chunk(2, dim=-1)
                z = mean + bounded(log_scale).exp() * each
                steps.append(z)
        return torch.stack(steps, dim=1)
