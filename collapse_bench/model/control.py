"""What remedies share that weigh a term by what they have seen of it: controllers of the rate."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from collapse_bench.corpus import Batch
from collapse_bench.model.distributions import rate
from collapse_bench.model.vae import SLOTS, Forward, Objective, plain


class Memory(nn.Module):
    """Numbers that last from one update to the next, as buffers of those names.

    On the model's device, so that a GPU is not waited for; changed in place, so that captured
    passes stay valid; saved with the weights.
    """

    def __init__(self, **numbers: float) -> None:
        super().__init__()
        for name, number in numbers.items():
            self.register_buffer(name, torch.tensor(float(number)))


class RunningMean(Memory):
    """The exponential moving average of a number; the first one counts in full.

    Args:
        decay: what is left of the mean when a further number comes; 0 keeps the last one alone.
    """

    mean: Tensor
    started: Tensor

    def __init__(self, decay: float) -> None:
        super().__init__(mean=0.0, started=0.0)
        self.decay = decay

    def after(self, number: Tensor) -> Tensor:
        """The mean [] with one more number []; nothing is changed."""
        return self.mean.lerp(number, 1 - self.decay * self.started)

    def learn(self, number: Tensor) -> None:
        """Take in one more number []."""
        self.mean.copy_(self.after(number))
        self.started.fill_(1)


def rate_of(forward: Forward) -> Tensor:
    """KL(q || p) of each sentence, [B] nats, whatever remedies have made of `forward.kl`.

    A target is one of this rate. In a chain `forward.kl` may have been scaled or cut off, and a
    controller that looked at it would hold what is left in place of the rate.
    """
    return rate(forward.q, forward.p, forward.z).sum(1)


def controlled(
    step: Callable[..., Forward], weigh: Objective, learn: Callable[[Forward], None]
) -> Callable[..., Forward]:
    """A step that weighs every update that it makes, and learns once from each call.

    Around another remedy's inner loop that is once for the whole loop; inside of it, earlier in the
    chain, it is once for each update.

    Args:
        step: the one inside.
        weigh: an objective that acts after those of all remedies.
        learn: what to make of the pass as `weigh` met it, after the update; without gradients.
    """

    def controlled_step(
        batch: Batch, *, only: tuple[str, ...] = SLOTS, then: Objective = plain
    ) -> Forward:
        met: list[Forward] = []

        def weighed(forward: Forward) -> Forward:
            met[:] = [forward]  # a head that refines asks more than once, at last for the update
            return then(weigh(forward))

        updated = step(batch, only=only, then=weighed)
        with torch.no_grad():
            learn(met[0])
        return updated

    return controlled_step
