"""The posterior mean of every training sentence, as training last saw it, and which are nearest."""

import torch
from torch import Tensor, nn

AT_ONCE = 2**22
"""Distances that are held at a time: 16 or 32 MiB, whatever the training split."""


class StoredMeans(nn.Module):
    """Means of the N posteriors, z flattened to [D].

    They are drawn from N(0, I) and then replaced as training comes by, so that none is older than
    an epoch.

    Args:
        sentences: N, of the training split.
        latent: D.
    """

    values: Tensor
    """[N, D]."""

    def __init__(self, sentences: int, latent: int) -> None:
        super().__init__()
        self.register_buffer("values", torch.empty(sentences, latent))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all of them anew."""
        nn.init.normal_(self.values)

    @torch.no_grad()
    def write(self, index: Tensor, means: Tensor) -> None:
        """Put the means [B, D] of training sentences, numbered [B] in their split, in place."""
        # A captured training knows a buffer by its memory.
        self.values[index] = means.to(self.values)

    @torch.no_grad()
    def nearest(self, means: Tensor, count: int, own: Tensor | None = None) -> Tensor:
        """Which `count` are nearest to each of the means [B, D], the nearest first, [B, count].

        Args:
            means: of any sentences.
            count: at most N, or N - 1 where some are left out.
            own: the numbers [B] of these sentences in the training split, whose own are left out;
                None of sentences of another one.
        """
        size, found = max(1, AT_ONCE // len(self.values)), []
        for start in range(0, len(means), size):
            apart = torch.cdist(means[start : start + size].to(self.values), self.values)
            if own is not None:
                apart.scatter_(1, own[start : start + size, None], torch.inf)
            found.append(apart.topk(count, largest=False).indices)
        return torch.cat(found)
