"""Contrastive critic (Menon, Blei and Vondrick 2022, "Forget-me-not!").

Written from the abstract, a public reimplementation and memory.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from collapse_bench.model import Forward, SequenceVAE
from collapse_bench.remedy import Remedy
from collapse_bench.settings import AtLeast


class Critic(nn.Module):
    """Scores how well draws of z go with sentences: a product of what is made of each."""

    def __init__(self, latent: int, hidden: int) -> None:
        super().__init__()
        self.of_latent = nn.Sequential(
            nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, hidden)
        )
        # A bias at the end would add the same to all scores of a draw.
        self.of_sentence = nn.Sequential(
            nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, hidden, bias=False)
        )

    def forward(self, z: Tensor, features: Tensor) -> Tensor:
        """z [B, D] and features [B, H] to scores [B, B], a draw in each row."""
        with torch.autocast(z.device.type, enabled=False):  # small, as the head is
            scores: Tensor = self.of_latent(z) @ self.of_sentence(features.to(z.dtype)).T
        return scores


@dataclass(frozen=True)
class ContrastiveCritic(Remedy):
    """A critic has to find the sentence that z was drawn for among those of the batch.

    A sentence's term is -weight (log softmax over j of s(z_i, x_j), at j = i, + log B). The mean of
    what the weight is of is InfoNCE (van den Oord et al. 2018): a lower bound on the information
    that z has of the sentence, and at most log B. Nearly every batch is of one length, so that z
    tells the length does not help. The decoder has no part in it: rate and information rise whether
    it listens or not. As they are never less than InfoNCE, a weight of 1 or less cannot pay for the
    rate.

    Positive case (`suites/positive.yaml`): NLL 8.87, R 7.27, beyond 3.60.

    Attributes:
        critic: `network`, of z and the encoder's features, trained along (the reimplementation's
            reads the sentence by itself); `self`, whose score is the posterior's density
            log q(z_i|x_j).
        weight: of the term; 0 is the plain VAE. 10 is the reimplementation's for text.
    """

    by_construction: ClassVar[tuple[str, ...]] = (
        "kl",
        "mutual_information",
        "mutual_information_upper",
        "information_given_length",
        "information_given_length_upper",
        "active_units",
    )
    neutral: ClassVar[Mapping[str, Any] | None] = {"weight": 0.0}
    signature: ClassVar[Mapping[str, str]] = {"easy": "collapsed"}

    critic: Literal["network", "self"] = "network"
    weight: Annotated[float, AtLeast(0)] = 10.0

    def build(self, model: SequenceVAE) -> Mapping[str, nn.Module]:
        """The critic, where it is a network."""
        if self.weight == 0 or self.critic == "self":
            return {}
        sizes = model.dimensions
        return {"contrastive_critic": Critic(sizes.latent, sizes.hidden)}

    def scores(self, forward: Forward) -> Tensor:
        """How well each draw (row) goes with each sentence of the batch, [B, B]."""
        if self.critic == "self":
            return forward.q.log_prob(forward.z[:, None])
        features = forward.features if forward.features.dim() == 2 else forward.features.mean(1)
        critic = forward.model.further["contrastive_critic"]
        scores: Tensor = critic(forward.z.flatten(1), features)
        return scores

    def objective(self, forward: Forward) -> Forward:
        """Add the term."""
        if self.weight == 0:
            return forward
        nats = self.scores(forward).log_softmax(1).diagonal() + math.log(len(forward.z))
        extra = {**forward.extra, "contrastive_critic": -self.weight * nats}
        return replace(forward, extra=extra)
