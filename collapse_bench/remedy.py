"""The contract of a remedy: three levers, all optional, and the chain that combines remedies."""

import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from torch import nn

from collapse_bench import settings
from collapse_bench.corpus import Batch
from collapse_bench.errors import UserError
from collapse_bench.model import SLOTS, Forward, Objective, SequenceVAE, plain
from collapse_bench.plugins import BUILT_IN, class_name

LEVERS = ("build", "objective", "step")


class Step(Protocol):
    """One training step on a batch."""

    def __call__(
        self, batch: Batch, *, only: tuple[str, ...] = SLOTS, then: Objective = plain
    ) -> Forward:
        """Update the slots in `only` once; `then` is applied after every other objective.

        Returns:
            The forward pass that was updated on.
        """
        ...


class Run(Protocol):
    """What a remedy's step may ask of the training run it is part of."""

    epoch: int
    """Passes over the training sentences that have been completed, inner draws included."""
    state: dict[str, Any]
    """What a remedy has to remember between steps, under its own name; it goes into the record."""

    def draw(self) -> Batch:
        """The next training batch."""
        ...

    def measure(self, metric: str) -> float:
        """`kl`, `mutual_information` or `active_units` on the validation split, nats or units."""
        ...

    def reset(self, slot: str) -> None:
        """Draw the weights of a slot anew and forget what the optimiser knew of them."""
        ...


@dataclass(frozen=True)
class Remedy:
    """A remedy is a frozen dataclass; its fields are its settings, with the paper's defaults.

    Override the levers that it uses. Wrap a remedy or a part to change it; only this class is
    there to be subclassed.

    Attributes:
        by_construction: metrics that say nothing of what was learned, since this remedy sets or
            moves them whatever the model learns; the leaderboard marks them.
    """

    by_construction: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        settings.check(self)

    def build(self, model: SequenceVAE) -> Mapping[str, nn.Module]:
        """What the model is: the parts to install, by slot, replacing or wrapping the present."""
        return {}

    def objective(self, forward: Forward) -> Forward:
        """How much each term counts: a forward pass with other terms."""
        return forward

    def step(self, step: Step, run: Run) -> Step:
        """When which part is updated: a step around the given one.

        A step that is called with keywords is an inner update and passes straight through.
        """
        return step


@dataclass(frozen=True)
class Chain(Remedy):
    """Remedies applied from left to right, the last being the outermost around the step."""

    remedies: tuple[Remedy, ...] = ()

    def __post_init__(self) -> None:
        pass  # each remedy has checked its own settings

    def build(self, model: SequenceVAE) -> Mapping[str, nn.Module]:
        """The parts of all remedies.

        Raises:
            UserError: a part throws away what an earlier remedy put into the same slot.
        """
        parts: dict[str, nn.Module] = {}
        owner: dict[str, Remedy] = {}
        for remedy in self.remedies:
            for slot, part in remedy.build(model).items():
                if slot in parts and parts[slot] not in set(part.modules()):
                    raise UserError(
                        f"{name_of(remedy)} replaces the {slot} that {name_of(owner[slot])} "
                        f"installed: a part may wrap what is there but not discard it; "
                        f"put {name_of(remedy)} first, or leave one of the two out"
                    )
                parts[slot], owner[slot] = part, remedy
            model = model.with_parts(parts)
        return parts

    def objective(self, forward: Forward) -> Forward:
        """The objectives of all remedies, the first acting first."""
        for remedy in self.remedies:
            forward = remedy.objective(forward)
        return forward

    def step(self, step: Step, run: Run) -> Step:
        """The steps of all remedies, the first being the innermost."""
        for remedy in self.remedies:
            step = remedy.step(step, run)
        return step


def chain(remedies: Sequence[Remedy]) -> Remedy:
    """One remedy that applies these in order; of none, the plain VAE."""
    return remedies[0] if len(remedies) == 1 else Chain(tuple(remedies))


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


def load_remedy(name: str, values: Mapping[str, Any], files: Mapping[str, Path]) -> Remedy:
    """A remedy by name, with its settings.

    Args:
        name: a key of `files`.
        values: settings that differ from the defaults.
        files: where each remedy is, from `plugins.remedy_files`.

    Raises:
        UserError: the file cannot be imported, does not define the remedy, or refuses a setting.
    """
    return find_class(name, files[name])(**values)


def find_class(name: str, path: Path) -> Callable[..., Remedy]:
    """The remedy class that a file defines.

    Raises:
        UserError: the file cannot be imported or holds no remedy of the name it should.
    """
    inside = path.relative_to(BUILT_IN).parent.parts if path.is_relative_to(BUILT_IN) else ()
    module_name = ".".join(["collapse_bench.remedies", *inside, name])
    module = sys.modules.get(module_name)
    if module is None or Path(module.__file__ or "") != path:
        spec = importlib.util.spec_from_file_location(module_name, path)
        if spec is None or spec.loader is None:
            raise UserError(f"{path}: not a Python file; a remedy is a .py file named after it")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[spec.name]
            raise UserError(
                f"{path}: cannot be imported: {type(error).__name__}: {error}"
            ) from error
    remedy: Any = getattr(module, class_name(name), None)
    if not (isinstance(remedy, type) and issubclass(remedy, Remedy)):
        raise UserError(
            f"{path}: a remedy's file defines a subclass of collapse_bench.remedy.Remedy that is "
            f"named after the file; expected class {class_name(name)}"
        )
    return remedy
