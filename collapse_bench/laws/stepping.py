"""Laws of a remedy's step: how it calls the one inside, and where it keeps what must last."""

import copy
import json
import random
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from collapse_bench.laws.law import DoesNotApply, LawBroken, Subject
from collapse_bench.laws.training import Spy
from collapse_bench.model import GENERATIVE, INFERENCE, SLOTS, Forward, plain

CHOICES = (INFERENCE, GENERATIVE, ("decoder",))

STEPS, CUTS = 6, 2
"""Steps of a run, and at how many places between them it is cut."""


def a_call_for_some_slots_makes_exactly_one_update(subject: Subject) -> None:
    """A step that is called with `only` makes exactly one update of these slots, and does to it
    whatever it does to each: a controller weighs and learns on every call."""
    if "step" not in subject.levers:
        raise DoesNotApply("it leaves the step alone")
    built = subject.make()
    run = built.run(subject.corpus)
    spy = Spy(run)
    step = built.remedy.step(spy, run)
    step(run.draw())
    weighs = all(then is not plain for _, then in spy.calls)
    for only in CHOICES:
        spy.calls.clear()
        step(run.draw(), only=only)
        if len(spy.calls) != 1 or set(spy.calls[0][0]) != set(only):
            made = "; ".join(", ".join(slots) for slots, _ in spy.calls)
            raise LawBroken(
                f"called for {', '.join(only)} it makes {len(spy.calls)} updates"
                f"{f', of {made}' if made else ''}"
            )
        if weighs and spy.calls[0][1] is plain:
            raise LawBroken(
                f"its own objective acts on a whole step, and not when called for {', '.join(only)}"
            )


def an_objective_given_to_a_step_acts_on_every_update(subject: Subject) -> None:
    """`then` and the remedies' objectives act on every update that a call makes: `then` is handed
    on to the step inside, after what the remedy itself applies."""
    if "step" not in subject.levers:
        raise DoesNotApply("it leaves the step alone")
    built = subject.make()
    run = built.run(subject.corpus)
    spy = Spy(run)
    step = built.remedy.step(spy, run)
    acted = 0

    def then(forward: Forward) -> Forward:
        nonlocal acted
        acted += 1
        return replace(forward, extra={**forward.extra, "told": 0 * forward.distortion})

    for only in (SLOTS, *CHOICES):
        acted = 0
        spy.calls.clear()
        step(run.draw(), only=only, then=then)
        if acted < len(spy.calls):
            raise LawBroken(
                f"called for {', '.join(only)} with a `then`, it acts on {acted} of"
                f" {len(spy.calls)} updates"
            )


def what_lasts_is_in_buffers_or_in_its_state(subject: Subject) -> None:
    """What must last between steps is in buffers of a part or in `run.state` under the remedy's own
    name, as JSON knows it. A run that goes on in a new process from what was kept between any two
    of its steps ends the same to the bit."""
    corpus, built = subject.corpus, subject.make()
    run = built.run(corpus)
    kept = {}
    cuts = random.Random(f"{subject.name} {subject.architecture}").sample(range(1, STEPS), CUTS)
    step = run.start()
    while run.steps < STEPS:
        if run.steps in cuts:
            check_state(subject, run.state)
            kept[run.steps] = copy.deepcopy(run.state_dict())
        step(run.draw())
        run.steps += 1
    ended = run.state_dict()
    for cut, state in kept.items():
        fresh = subject.make()
        resumed = fresh.run(corpus)
        names = differing(built.model, fresh.model)
        step = resumed.start(state)
        while resumed.steps < STEPS:
            step(resumed.draw())
            resumed.steps += 1
        if not equal(ended, resumed.state_dict()):
            where = f": {', '.join(names)}" if names else ", in a closure or a global"
            raise LawBroken(
                f"training depends on what is kept elsewhere{where}, or `step` begins anew when it"
                f" is called again; it was cut after step {cut}"
            )


def check_state(subject: Subject, state: dict[str, Any]) -> None:
    """Raise `LawBroken` unless `run.state` has the remedy's name alone and goes into JSON."""
    if strange := state.keys() - {subject.name}:
        raise LawBroken(f"run.state has {', '.join(map(repr, strange))}")
    try:
        json.dumps(state, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise LawBroken(f"run.state is not what JSON knows: {error}") from None


def differing(model: nn.Module, fresh: nn.Module) -> list[str]:
    """The names of the plain attributes of all parts that are something else in a fresh model."""
    found = []
    news = dict(fresh.named_modules())
    for name, part in model.named_modules():
        if type(part).__module__.startswith("torch."):
            continue
        for key, value in vars(part).items():
            new = vars(news[name]).get(key)
            if key not in INTERNAL and is_plain(value) and is_plain(new) and not equal(value, new):
                found.append(f"{name}.{key}")
    return found


INTERNAL = frozenset(vars(nn.Module()))
"""What every module has; the mode is not the remedy's."""


def is_plain(value: Any) -> bool:
    """Whether a value is a number, text, tensor or container of such; weights are not."""
    if isinstance(value, dict):
        return all(map(is_plain, value.values()))
    if isinstance(value, list | tuple | set):
        return all(map(is_plain, value))
    if isinstance(value, nn.Parameter):
        return False
    return value is None or isinstance(value, bool | int | float | str | Tensor | np.ndarray)


def equal(one: Any, other: Any) -> bool:
    """Whether two plain values are the same."""
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        nothing = one.isnan() & other.isnan() if one.shape == other.shape else None
        return nothing is not None and bool(((one == other) | nothing).all())
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)
