"""How remedies act on each other: the first first on the objective, the last outermost."""

from dataclasses import dataclass, field, replace

import pytest
import torch
from conftest import make, noise_of

from collapse_bench.errors import UserError
from collapse_bench.remedies.objective.kl_annealing import KlAnnealing
from collapse_bench.remedies.prior.delta_vae import DeltaVae
from collapse_bench.remedies.training.aggressive_inference import AggressiveInference
from collapse_bench.remedy import Remedy, chain, levers_of, name_of


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


# Of five sentences under a latent of five, so that what has the wrong shape adds up all the same.
WRONG = {
    "extra mine must be a floating-point tensor [5], not a tensor [5, 5]": lambda f: {
        "extra": {"mine": f.kl}
    },
    "extra mine must be a floating-point tensor [5], not a tensor []": lambda f: {
        "extra": {"mine": f.kl.mean()}
    },
    "kl must be a floating-point tensor [5, K], not a tensor [5]": lambda f: {"kl": f.kl.mean(0)},
    "kl must be a floating-point tensor [5, K], not a tensor [1, 5]": lambda f: {"kl": f.kl[:1]},
    "distortion must be a floating-point tensor [5], not a tensor [5, 5]": lambda f: {
        "distortion": f.distortion + f.kl
    },
}


@pytest.mark.parametrize("told", WRONG)
def test_a_term_that_only_fits_by_chance_is_refused_by_remedy_and_name(told, batch):
    @dataclass(frozen=True)
    class Adds(Remedy):
        def objective(self, forward):
            return replace(forward, **WRONG[told](forward))

    model = make("lstm", latent=5).model
    assert len(batch.lengths) == model.dimensions.latent == 5
    with pytest.raises(UserError) as caught:
        model(batch, noise_of(1), objective=chain([Adds()]).objective)
    assert told in str(caught.value)
    assert str(caught.value).startswith(f"{name_of(Adds())}: ")
