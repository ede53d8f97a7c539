"""Associative Compression Networks (Graves, Menick and van den Oord 2018): a neighbour's prior."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from collapse_bench.corpus import Batch
from collapse_bench.errors import UserError
from collapse_bench.model import SequenceVAE, diagonal_normal
from collapse_bench.model.distributions import as_normal, shape_of
from collapse_bench.model.distributions.mixture import MixtureOfNeighbours
from collapse_bench.model.stored_means import StoredMeans
from collapse_bench.remedy import Remedy
from collapse_bench.settings import AtLeast


class Network(nn.Module):
    """A stored mean c [..., D] to mean and scale [..., D] of p(z|c).

    Each of three layers of hyperbolic tangents sees c and the layer before, the last one all three.
    """

    def __init__(self, latent: int, hidden: int) -> None:
        super().__init__()
        widths = [latent, *[latent + hidden] * 2]
        self.layers = nn.ModuleList(nn.Linear(width, hidden) for width in widths)
        self.last = nn.Linear(3 * hidden, 2 * latent)

    def forward(self, c: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and scale."""
        seen: list[Tensor] = []
        with torch.autocast(c.device.type, enabled=False):  # it is a density
            for layer in self.layers:
                seen.append(layer(torch.cat([c, *seen[-1:]], -1)).tanh())
            mean, log_scale = self.last(torch.cat(seen, -1)).chunk(2, -1)
        return mean, log_scale.exp()


class AssociativePrior(nn.Module):
    """Prior: in training given a neighbour, in evaluation the mixture over all stored means."""

    def __init__(self, network: Network, stored: StoredMeans, neighbours: int) -> None:
        super().__init__()
        self.network, self.stored, self.neighbours = network, stored, neighbours

    def forward(self, q: Distribution, batch: Batch) -> Distribution:
        """A prior over z, [B, D] or [B, n, d], for each of the B sentences.

        Raises:
            UserError: it is asked for the posteriors of other things than sentences.
        """
        shape, means = shape_of(q), as_normal(q).mean.detach().flatten(1)
        if len(means) != len(batch.index):
            raise UserError(
                f"acn: has one stored mean a sentence and is asked for {len(means)} posteriors of"
                f" {len(batch.index)} sentences, as twr_vae does for every token; leave one of the"
                f" two remedies out"
            )
        if self.training:
            near = self.stored.nearest(means, self.neighbours, batch.index)
            which = torch.randint(self.neighbours, (len(near), 1), device=near.device)
            c = self.stored.values[near.gather(1, which)[:, 0]]
            self.stored.write(batch.index, means)
            mean, scale = self.network(c)
            return diagonal_normal(mean.view(shape), scale.view(shape))
        mean, scale = (each.view(-1, *shape[1:]) for each in self.network(self.stored.values))
        return MixtureOfNeighbours(mean, scale, shape[0], self._near)

    def _near(self, means: Tensor) -> Tensor:
        return self.stored.nearest(means, self.neighbours)


@dataclass(frozen=True)
class Acn(Remedy):
    """A sentence's rate is counted from p(z|c), c being the stored mean of one that is near.

    The posterior means of the training sentences are stored; c is drawn from the K that are nearest
    to the sentence's own mean, which is never among them, and a network makes a diagonal normal of
    it. What the sentence has in common with its neighbours then costs nothing. The price is that
    KL(q || p(z|c)) is no term of a bound on -log p(x): which neighbour it is was never told. So the
    evaluation has the true marginal, p(z) = (1/N) sum_n p(z|c_n) over all N stored means, the same
    for all sentences. Its rate is above the paper's, whose number, with the mean over the K nearest
    stored means, is `negative_elbo_given_neighbours`. It guarantees nothing.

    The paper's posterior has unit variance (`fixed_variance` at 1 before this one); here it is the
    head's own, whose mean and scale must be those of a normal. A mean is replaced whenever training
    comes by its sentence. Training knows KL(q || p(z|c)) in closed form; validated is the marginal.

    Positive case (`suites/positive.yaml`): NLL 7.97, R 1.05, beyond 1.02; the number given
    neighbours is 6.94, where the entropy of the text is 7.98. With a posterior of unit variance R
    0.58, beyond 0.56; with an annealing it ends collapsed, as it does on newswire's easy level.

    Attributes:
        neighbours: K; the paper's for MNIST. Fewer where the training split has no more others.
        hidden: width of the network's three layers; the paper has 512 for images.
    """

    # Such a prior fixes no scale of z, which active units are counted by.
    by_construction: ClassVar[tuple[str, ...]] = ("active_units",)

    # On `hard` seeds disagree. Stored means are as old as an epoch, here half of the training, and
    # what the encoder has since become is elsewhere.
    signature: ClassVar[Mapping[str, str]] = {"nothing": "rate without use", "easy": "collapsed"}

    neighbours: Annotated[int, AtLeast(1)] = 5
    hidden: Annotated[int, AtLeast(1)] = 128

    def build(self, model: SequenceVAE) -> Mapping[str, nn.Module]:
        """Replace the prior."""
        sizes = model.dimensions
        if sizes.sentences < 2:
            raise UserError(
                f"acn: a sentence's neighbours are other training sentences, and this corpus has"
                f" {sizes.sentences}: train on two or more, or leave acn out"
            )
        stored = StoredMeans(sizes.sentences, sizes.latent)
        neighbours = min(self.neighbours, sizes.sentences - 1)
        return {"prior": AssociativePrior(Network(sizes.latent, self.hidden), stored, neighbours)}
