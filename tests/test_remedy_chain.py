"""How remedies act on each other: the first first on the objective, the last outermost."""

from dataclasses import dataclass, field, replace

import torch
from conftest import make

from collapse_bench.remedies.objective.kl_annealing import KlAnnealing
from collapse_bench.remedies.prior.delta_vae import DeltaVae
from collapse_bench.remedies.training.aggressive_inference import AggressiveInference
from collapse_bench.remedy import Remedy, chain, levers_of


@dataclass(frozen=True)
class Spy(Remedy):
    """Writes down when it acts."""

    name: str = "spy"
    log: tuple = field(default=(), compare=False)

    def __post_init__(self):
        object.__setattr__(self, "log", self.log[0])

    def objective(self, forward):
        self.log.append(f"objective {self.name}")
        return replace(forward, extra={**forward.extra, self.name: forward.distortion})

    def step(self, step, run):
        def spied(batch, **keywords):
            self.log.append(f"before {self.name}")
            forward = step(batch, **keywords)
            self.log.append(f"after {self.name}")
            return forward

        return spied


def test_the_first_acts_first_on_the_objective_and_the_last_is_outermost(batch, corpus):
    log = []
    built = make("lstm")
    built.remedies = [Spy("a", (log,)), Spy("b", (log,))]
    run = built.run(corpus)
    forward = built.remedy.step(run.update, run)(batch)
    assert log == ["before b", "before a", "objective a", "objective b", "after a", "after b"]
    assert list(forward.extra) == ["a", "b"]
    torch.testing.assert_close(
        forward.per_sentence(), 3 * forward.distortion + forward.kl.sum(1)
    )  # fmt: skip


def test_a_chain_of_none_is_the_plain_vae():
    model = make("lstm").model
    assert chain([]).build(model) is model
    assert chain([]).objective(model) is model
    assert levers_of([]) == []
    assert levers_of([AggressiveInference(), KlAnnealing(), DeltaVae()]) == [
        "build", "objective", "step",
    ]  # fmt: skip
