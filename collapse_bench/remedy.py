"""The contract of a remedy: three levers, all optional, and the chain that combines remedies."""

import ast
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Protocol

from torch import nn

from collapse_bench import settings
from collapse_bench.corpus import Batch
from collapse_bench.description import no_setting
from collapse_bench.errors import UserError
from collapse_bench.importing import definition_of, import_file, unannotated
from collapse_bench.model import ARCHITECTURES, SLOTS, Forward, Objective, SequenceVAE, plain
from collapse_bench.model.contract import (
    ContractError,
    check_callable,
    check_parts,
    check_tensor,
    told,
)
from collapse_bench.plugins import BUILT_IN, LEVERS, class_name, not_for


class Step(Protocol):
    """One training step on a batch."""

    def __call__(
        self, batch: Batch, *, only: tuple[str, ...] = SLOTS, then: Objective = plain
    ) -> Forward:
        """Update the slots in `only` once; `then` is applied after every other objective.

        A further part of a remedy is updated with every call, whatever `only` says.

        Returns:
            The forward pass that was updated on.
        """
        ...


class Run(Protocol):
    """What a remedy's step may ask of the training run it is part of."""

    model: SequenceVAE
    """The model that is being trained."""
    epoch: int
    """Passes over the training sentences that have been completed, inner draws included."""
    state: dict[str, Any]
    """What a remedy has to remember between steps, under its own name; checkpoints and the record
    have it."""

    @property
    def progress(self) -> float:
        """Share of the budget that is spent, 0 to 1, counted from `begin` to `end`, as in
        `Forward`."""
        ...

    @property
    def sentences(self) -> int:
        """Sentences of the training split."""
        ...

    def begin(self) -> None:
        """Count progress from here: schedules chained with a pre-training start anew.

        The learning rate goes on as it was.
        """
        ...

    def end(self, share: float) -> None:
        """Count progress up to this share of the budget: schedules are over when a last stage
        begins.

        The learning rate goes on as it was.
        """
        ...

    def scale_learning_rate(self, slots: tuple[str, ...], factor: float) -> None:
        """From now on these slots learn at the suite's rate times `factor`.

        Said again, the last factor holds; the schedule of the rate goes on.
        """
        ...

    def draw(self) -> Batch:
        """The next training batch."""
        ...

    def measure(self, metric: str) -> float:
        """`kl`, `mutual_information` or `active_units` on the validation split, nats or units."""
        ...

    def reset(self, slot: str) -> None:
        """Draw the weights of a slot anew and forget what the optimiser knew of them."""
        ...

    def forget(self, slots: tuple[str, ...]) -> None:
        """Forget what the optimiser knows of these slots: a stage begins with a new one."""
        ...


@dataclass(frozen=True)
class Remedy:
    """A remedy is a frozen dataclass; its fields are its settings, with the paper's defaults.

    Override the levers that it uses. Wrap a remedy or a part to change it; only this class is
    there to be subclassed. What must last between steps is in buffers of a part or in `run.state`.

    Attributes:
        by_construction: metrics that say nothing of what was learned, since this remedy sets or
            moves them whatever the model learns; the leaderboard marks them.
        neutral: settings under which it is the plain VAE to the bit; None where there are none.
        small: settings for the tiny sizes that laws are tried on, where the defaults do not fit.
        architectures: those that it is for, where it cannot be built into all of them.
        values: whether it is for real-valued sequences only.
        signature: what becomes of a tiny LSTM with it, by task, as measured for every seed that was
            tried: see `laws.signature`.
        dial: the setting that training ignores, so that one training serves all of its values; the
            cell of the default trains, the others are its model at another value.
    """

    by_construction: ClassVar[tuple[str, ...]] = ()
    neutral: ClassVar[Mapping[str, Any] | None] = None
    small: ClassVar[Mapping[str, Any]] = {}
    architectures: ClassVar[tuple[str, ...]] = tuple(ARCHITECTURES)
    values: ClassVar[bool] = False
    signature: ClassVar[Mapping[str, str]] = {}
    dial: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        settings.check(self)

    def build(self, model: SequenceVAE) -> Mapping[str, nn.Module]:
        """What the model is: the parts to install, by slot, replacing or wrapping the present.

        A part that fills no slot goes under the remedy's own name: it is `model.further[name]`,
        trains in every update and has an optimiser of its own.
        """
        return {}

    def objective(self, forward: Forward) -> Forward:
        """How much each term counts: a forward pass with other terms."""
        return forward

    def step(self, step: Step, run: Run) -> Step:
        """When which part is updated: a step around the given one.

        Called for some slots only, it makes exactly one update of these, and still does to that
        update whatever it does to each: a controller weighs and learns on every call. `then` acts
        on every update that a call makes.
        """
        return step


@dataclass(frozen=True)
class Chain:
    """Remedies applied from left to right, the last being the outermost around the step."""

    remedies: tuple[Remedy, ...] = ()

    def build(self, model: SequenceVAE) -> SequenceVAE:
        """The model with the parts of all remedies built in.

        Raises:
            UserError: a part is not what the contract allows, or throws away what an earlier remedy
                put into the same slot.
        """
        for remedy in self.remedies:
            name = name_of(remedy)
            parts = check_parts(name, remedy.build(model), SLOTS)
            for slot, part in parts.items():
                owner = model.owners.get(slot)
                if owner and getattr(model, slot) not in set(part.modules()):
                    raise UserError(
                        f"{name} replaces the {slot} that {owner} installed: a part may wrap what"
                        f" is there but not discard it; put {name} first, or leave one of the two"
                        f" out"
                    )
            model = model.with_parts(parts, name)
        return model

    def objective(self, forward: Forward) -> Forward:
        """The objectives of all remedies, the first acting first.

        Raises:
            UserError: one returns what is no forward pass, or a term of another shape.
        """
        for remedy in self.remedies:
            forward = checked(name_of(remedy), "objective", remedy.objective(forward))
        return forward

    def step(self, step: Step, run: Run) -> Step:
        """The steps of all remedies, the first being the innermost."""
        for remedy in self.remedies:
            if type(remedy).step is not Remedy.step:
                step = _checking(name_of(remedy), remedy.step(step, run))
        return step


def checked(name: str, lever: str, forward: Any) -> Forward:
    """The forward pass that a lever returned, its terms held against their shapes.

    Args:
        name: of the remedy, or of who calls.
        lever: what returned it.
        forward: what came.

    Raises:
        UserError: it is no forward pass, or a term is not one number a sentence.
    """
    if not isinstance(forward, Forward):
        raise UserError(
            f"{name}: {lever} must return a Forward, not {told(forward)}; change terms with"
            f" dataclasses.replace(forward, kl=...) or add one to forward.extra"
        )
    sentences = len(forward.batch.lengths)
    check_tensor(name, "distortion", forward.distortion, (sentences,))
    check_tensor(name, "kl", forward.kl, (sentences, "K"))
    for term, value in forward.extra.items():
        check_tensor(name, f"extra {term}", value, (sentences,))
    return forward


def _checking(name: str, step: Any) -> Step:
    """A remedy's step that tells whose it is where it returns what is no forward pass."""
    made = check_callable(name, "step", step)
    try:
        inspect.signature(made).bind(None, only=SLOTS, then=plain)
    except TypeError as error:
        raise ContractError(
            f"{name}: step must return a function of (batch, *, only=SLOTS, then=plain), and this"
            f" one cannot be called so: {error}"
        ) from error

    def checking(
        batch: Batch, *, only: tuple[str, ...] = SLOTS, then: Objective = plain
    ) -> Forward:
        return checked(name, "step", made(batch, only=only, then=then))

    return checking


def chain(remedies: Sequence[Remedy]) -> Chain:
    """These remedies as one, in order; none is the plain VAE."""
    return Chain(tuple(remedies))


def name_of(remedy: Remedy) -> str:
    """The name a suite calls the remedy by: that of its file."""
    return type(remedy).__module__.rsplit(".", 1)[-1]


def levers_of(remedies: Sequence[Remedy]) -> list[str]:
    """The levers that these remedies use, in the order of `LEVERS`."""
    return [
        lever
        for lever in LEVERS
        if any(getattr(type(remedy), lever) is not getattr(Remedy, lever) for remedy in remedies)
    ]


def by_construction(remedies: Sequence[Remedy]) -> list[str]:
    """The metrics that hold by construction under any of these remedies, each once."""
    return list(dict.fromkeys(name for remedy in remedies for name in remedy.by_construction))


def check_architecture(remedies: Sequence[Remedy], architecture: str) -> None:
    """Hold an architecture against those that the remedies are for.

    Raises:
        UserError: one of them is not for it.
    """
    for remedy in remedies:
        if problem := not_for(name_of(remedy), remedy.architectures, architecture):
            raise UserError(problem)


def load_remedy(name: str, values: Mapping[str, Any], files: Mapping[str, Path]) -> Remedy:
    """A remedy by name, with its settings.

    Args:
        name: a key of `files`.
        values: settings that differ from the defaults.
        files: where each remedy is, from `plugins.remedy_files`.

    Raises:
        UserError: the file cannot be imported, does not define the remedy, or refuses a setting.
    """
    remedy: Remedy = find_class(name, files[name])(**values)
    return remedy


def find_class(name: str, path: Path) -> type[Any]:
    """The remedy class that a file defines.

    Raises:
        UserError: the file cannot be imported, or its class is not as a remedy has to be.
    """
    inside = path.relative_to(BUILT_IN).parent.parts if path.is_relative_to(BUILT_IN) else ()
    module = import_file(".".join(["collapse_bench.remedies", *inside, name]), path)
    expected = class_name(name)
    node = definition_of(path, expected)
    if node is None:
        raise UserError(
            f"{path}: a remedy's file defines a subclass of collapse_bench.remedy.Remedy that is"
            f" named after the file; expected class {expected}"
        )
    remedy: Any = getattr(module, expected, None)
    where = f"{path}:{node.lineno}: {expected}"
    if not (isinstance(remedy, type) and issubclass(remedy, Remedy)):
        raise UserError(f"{where} must be a subclass of collapse_bench.remedy.Remedy")
    others = [base.__name__ for base in remedy.__mro__[1:] if base not in Remedy.__mro__]
    if others:
        raise UserError(
            f"{where} must be a subclass of Remedy alone, not of {', '.join(others)}: chain the two"
            f" remedies in an entry, or wrap what the other one builds"
        )
    if "__dataclass_fields__" not in vars(remedy):
        raise UserError(f"{where} must be a frozen dataclass: write @dataclass(frozen=True) above")
    if found := unannotated(node, vars(Remedy)):
        raise UserError(no_setting(path, *found))
    _check_alone(module, path, remedy)
    _check_levers(node, path, remedy)
    named = remedy.architectures
    if not (isinstance(named, tuple) and named and set(named) <= set(ARCHITECTURES)):
        raise UserError(
            f"{where}: architectures must be a tuple of {', '.join(ARCHITECTURES)}, at least one,"
            f" not {named!r}"
        )
    return remedy


def _check_alone(module: ModuleType, path: Path, remedy: type[Any]) -> None:
    """A second remedy in a file could never be named.

    Raises:
        UserError: there is one.
    """
    for name, value in vars(module).items():
        mine = isinstance(value, type) and value.__module__ == module.__name__
        if mine and issubclass(value, Remedy) and value is not remedy:
            node = definition_of(path, name)
            raise UserError(
                f"{path}:{node.lineno if node else 1}: a file holds one remedy, here"
                f" {remedy.__name__}: move {name} into a file of its own"
            )


def _check_levers(node: ast.ClassDef, path: Path, remedy: type[Any]) -> None:
    """The levers that a remedy overrides can be called as they will be.

    Raises:
        UserError: one is no method, or takes other arguments.
    """
    lines = {each.name: each.lineno for each in node.body if isinstance(each, ast.FunctionDef)}
    instance = object.__new__(remedy)
    for lever in LEVERS:
        given = list(inspect.signature(getattr(Remedy, lever)).parameters)[1:]
        try:
            inspect.signature(getattr(instance, lever)).bind(*given)
        except (TypeError, ValueError) as error:
            raise UserError(
                f"{path}:{lines.get(lever, node.lineno)}: {lever} must be a method"
                f" {lever}(self, {', '.join(given)}), and this one cannot be called so: {error}"
            ) from None
