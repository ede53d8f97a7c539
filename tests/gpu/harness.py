"""Steps one after the other, each in a process of its own, with a time limit of its own.

What fails, hangs or breaks the GPU's context is reported and takes no other step along.
"""

import importlib
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

PRELOADED = ["collapse_bench.cell", "collapse_bench.runner", "torch._dynamo", "torch.profiler"]
"""Imported once for all processes; none of them touches a GPU."""


@dataclass(frozen=True)
class Step:
    """One step: a module beside this one, whose `run(setting, tell)` does it.

    Attributes:
        name: of the module.
        question: what it answers, for the report.
        limit: seconds after which it is ended; what it has told until then is kept.
    """

    name: str
    question: str
    limit: float


@dataclass
class Found:
    """What a step has told: facts by name, and the rows of its table."""

    step: Step
    status: str = "running"
    seconds: float = 0.0
    error: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def take(self, told: tuple[str, Any]) -> None:
        """A fact, a row, or how it has ended and why."""
        kind, content = told
        if kind == "fact":
            self.facts |= content
        elif kind == "row":
            self.rows.append(content)
        else:
            self.status, self.error = kind, content


class Tell:
    """What a step calls as soon as it knows something, so that a cut-off does not lose it."""

    def __init__(self, send: Callable[[tuple[str, Any]], None]) -> None:
        self.send = send

    def fact(self, name: str, value: Any) -> None:
        """A single figure or word."""
        self.send(("fact", {name: value}))

    def row(self, **cells: Any) -> None:
        """A row of the step's table."""
        self.send(("row", cells))


def run_steps(
    steps: Sequence[Step],
    setting: Any,
    seconds: float,
    after: Callable[[list[Found]], None],
    *,
    apart: bool = True,
) -> list[Found]:
    """Run all steps, in order, until the time is over.

    Args:
        steps: the more important first.
        setting: given to each.
        seconds: for all of them; a step that begins late has what is left, and at the end none.
        after: called after each step with all that has been found.
        apart: whether each has a process of its own. A rehearsal does without, and so without
            limits: what starts processes can then share one that has loaded torch.
    """
    ends = time.monotonic() + seconds
    found = []
    for step in steps:
        left = ends - time.monotonic()
        found.append(Found(step))
        if left > 0 and apart:
            _run(found[-1], setting, min(step.limit, left))
        elif left > 0:
            _run_here(found[-1], setting)
        else:
            found[-1].status = "not reached"
        after(found)
    return found


def _run(found: Found, setting: Any, limit: float) -> None:
    context = get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    receive, send = context.Pipe(duplex=False)
    began = time.monotonic()
    process = context.Process(target=_work, args=(found.step.name, setting, send))
    process.start()
    send.close()
    try:
        while found.status == "running":
            if receive.poll(max(0.0, began + limit - time.monotonic())):
                found.take(receive.recv())
            else:
                found.take(("cut off", f"after its limit of {limit:.0f} s"))
    except EOFError:
        process.join()
        found.take(("failed", f"its process ended with {process.exitcode}"))
    process.kill()
    process.join()
    found.seconds = time.monotonic() - began


def _run_here(found: Found, setting: Any) -> None:
    began = time.monotonic()
    _do(found.step.name, setting, found.take)
    found.seconds = time.monotonic() - began


def _work(name: str, setting: Any, pipe: Connection) -> None:
    """The process of a step."""
    _do(name, setting, pipe.send)


def _do(name: str, setting: Any, send: Callable[[tuple[str, Any]], None]) -> None:
    try:
        importlib.import_module(name).run(setting, Tell(send))
        send(("done", None))
    except Exception:
        send(("failed", traceback.format_exc()))
