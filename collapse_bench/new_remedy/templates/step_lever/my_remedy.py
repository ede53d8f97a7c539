"""My remedy (new)."""
# The first line names the method and where it is from: authors, year and equation, or (new).

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from collapse_bench.corpus import Batch
from collapse_bench.model import INFERENCE, SLOTS, Forward, Objective, plain
from collapse_bench.remedy import Remedy, Run, Step
from collapse_bench.settings import Above, AtLeast


@dataclass(frozen=True)
class MyRemedy(Remedy):
    """What it does, in a sentence.

    What it guarantees, and what it does not.

    Attributes:
        inner: further updates of the encoder before each of the whole model; 0 is the plain VAE.
        enough: rate of a batch, nats a sentence, with which that ends for good.
    """

    # Metrics that it sets or moves whatever the model learns; `list metrics` names all.
    by_construction: ClassVar[tuple[str, ...]] = ()
    # Settings with which it is the plain VAE to the bit; without any, remove these lines.
    neutral: ClassVar[Mapping[str, Any] | None] = {"inner": 0}

    # A setting has an annotation, which is its rule (AtLeast, Above, Between, Literal["a", "b"]),
    # and a literal as its default, the paper's.
    inner: Annotated[int, AtLeast(0)] = 2
    enough: Annotated[float, Above(0)] = 4.0

    def step(self, step: Step, run: Run) -> Step:
        """Update the encoder more often than the decoder."""
        # Called once, before training. What has to last between updates is plain values in
        # run.state, under the remedy's name. A schedule asks run.progress, 0 to 1, the share of
        # the budget that is spent; every update spends some of it.
        state = run.state.setdefault("my_remedy", {"ended": False})

        def mine(
            batch: Batch, *, only: tuple[str, ...] = SLOTS, then: Objective = plain
        ) -> Forward:
            # Called for every batch. A call with `only` makes exactly one update, of these slots.
            # `then` acts on every update: hand it on, alone or after changes to the terms, as
            # lambda forward: then(replace(forward, kl=...)).
            if only == SLOTS and not state["ended"]:
                for _ in range(self.inner):
                    step(run.draw(), only=INFERENCE, then=then)
            forward = step(batch, only=only, then=then)
            rate = float(forward.kl.detach().sum(1).mean())
            state["ended"] = state["ended"] or rate >= self.enough
            return forward

        return mine
