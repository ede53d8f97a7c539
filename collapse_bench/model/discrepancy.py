"""Maximum mean discrepancy of aggregate posterior and prior (Gretton et al. 2012, lemma 6)."""

from typing import Literal

from torch import Tensor

from collapse_bench.model.recent import Densities

Kernel = Literal["rbf", "imq"]


def kernel(x: Tensor, y: Tensor, form: Kernel) -> Tensor:
    """k(x, y) of all pairs, x [A, D] and y [B, D] to [A, B].

    With C = 2 D, the expected squared distance of two draws of a standard normal, `imq` is
    C / (C + |x - y|^2) (Tolstikhin, Bousquet, Gelly and Schoelkopf 2018, section 4), and `rbf` is
    exp(-|x - y|^2 / C); Zhao et al. (2019) have D^2 for C in their code.
    """
    squares = (x[:, None] - y).square().sum(-1) / (2 * x.shape[-1])
    return (-squares).exp() if form == "rbf" else 1 / (1 + squares)


def discrepancy(q: Densities, prior: Tensor, form: Kernel) -> Tensor:
    """Terms of MMD^2 = E k(z, z') - 2 E k(z, y) + E k(y, y'), one for each draw z of q, [B].

    Their mean and its gradient are unbiased. MMD^2 is between 0 and 2, and no nats.

    Args:
        q: draws z, one of each posterior, and the others, of which z' are drawn here.
        prior: draws y of the prior, [B, D].
        form: of the kernel.
    """
    like = (kernel(q.z, q.others.sample(), form) * q.there).sum(1) / q.there.sum(1).clamp(min=1)
    among, count = kernel(prior, prior, form), len(prior)
    spread = (among.sum() - among.diagonal().sum()) / max(count * (count - 1), 1)
    # The gradient comes by z alone and is that of z and z', which are the same to the mean.
    return 2 * like - like.detach() - 2 * kernel(q.z, prior, form).mean(1) + spread
