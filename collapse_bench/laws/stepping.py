"""Laws of a remedy's step: how it calls the one inside, and where it keeps what must last."""

import copy
import json
import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from collapse_bench.laws.bench import Built
from collapse_bench.laws.law import DoesNotApply, LawBroken, Subject
from collapse_bench.laws.training import Spy
from collapse_bench.model import GENERATIVE, INFERENCE, SLOTS, Forward, plain
from collapse_bench.training import BudgetSpentError, TrainingRun

CHOICES = (INFERENCE, GENERATIVE, ("decoder",))

BUDGETS = (2400, 4800, 9600, 19200)
"""Decoded tokens of a run that is cut: two epochs and more, so that sentences come again, and
progress and learning rate come to their ends; more where a step takes too much of fewer."""

CUTS = ((0.0, 0.5), (0.75, 0.95))
"""Between which shares of the budget."""


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
    draw = random.Random(f"{subject.name} {subject.architecture}")
    cuts = [draw.uniform(*each) for each in CUTS]
    for budget in BUDGETS:
        built = subject.make()
        run, kept = _trained(subject, built, budget, cuts=cuts)
        if len(kept) == len(cuts):
            break
    else:
        raise DoesNotApply(f"a step decodes too much of {budget:,} tokens to be cut between")
    ended = run.state_dict()
    for spent, state in kept.items():
        fresh = subject.make()
        names = differing(built.model, fresh.model)
        resumed, _ = _trained(subject, fresh, budget, state)
        if not equal(ended, resumed.state_dict()):
            where = f": {', '.join(names)}" if names else ", in a closure or a global"
            raise LawBroken(
                f"training depends on what is kept elsewhere{where}, or `step` begins anew when it"
                f" is called again; it was cut after {spent:.0%} of the budget"
            )


def _trained(
    subject: Subject, built: Built, budget: int, state: Any = None, cuts: Sequence[float] = ()
) -> tuple[TrainingRun, dict[float, Any]]:
    """A run to its end, from what was kept of one or from the beginning; and what is to be kept of
    it, by the share of the budget that was spent, at the first step after each of some shares."""
    run, kept, left = built.run(subject.corpus, budget), {}, sorted(cuts)
    step = run.start(state)
    with suppress(BudgetSpentError):
        while run.spent < 1:
            step(run.draw())
            run.steps += 1
            check_state(subject, run.state)
            if left and left[0] <= run.spent < 1:
                kept[run.spent] = copy.deepcopy(run.state_dict())
                left = [cut for cut in left if cut > run.spent]
    return run, kept


def check_state(subject: Subject, state: dict[str, Any]) -> None:
    """Raise `LawBroken` unless `run.state` has the remedy's name alone and comes back from JSON as
    it is."""
    if strange := state.keys() - {subject.name}:
        raise LawBroken(f"run.state has {', '.join(map(repr, strange))}")
    try:
        text = json.dumps(state, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise LawBroken(f"run.state is not what JSON knows: {error}") from None
    if repr(json.loads(text)) != repr(state):
        raise LawBroken(
            "run.state does not come back from JSON as it is: keys are texts, tuples become lists,"
            " and numbers are Python's own"
        )


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
    """Whether two plain values are the same, numbers to the bit."""
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        same = one.shape == other.shape and one.dtype == other.dtype
        return same and torch.equal(*(each.reshape(-1).view(torch.uint8) for each in (one, other)))
    if isinstance(one, np.ndarray):
        same = one.shape == other.shape and one.dtype == other.dtype
        return bool(same and one.tobytes() == other.tobytes())
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)
