"""Where cells are computed: the little that the schedule has to know of it."""

from dataclasses import dataclass
from typing import Any, Literal, Protocol

from collapse_bench.job import Job

Kind = Literal["recorded", "kept", "busy", "stopped", "disk", "killed", "failed"]


@dataclass(frozen=True)
class Outcome:
    """How an attempt at a cell ended.

    Attributes:
        kind: `recorded`: it left a record; `kept`: another run had made the attempt meanwhile;
            `busy`: another process works on the cell; `stopped`: it was asked to leave a
            checkpoint and end; `disk`: nothing can be written any more; `killed` or `failed`: it
            ended, and left nothing.
        why: in words, of the last four; who works on it, of a busy one.
    """

    kind: Kind
    why: str = ""


@dataclass(frozen=True)
class Reported:
    """A cell that is being computed has told something: see `cell.run_cell`, and `began`."""

    job: Job
    told: dict[str, Any]


@dataclass(frozen=True)
class Ended:
    """An attempt has ended, by itself or not."""

    job: Job
    outcome: Outcome


class Engine(Protocol):
    """Where `attempt` is called for jobs, in other processes.

    Attributes:
        queues: whether a cell that was submitted may have to wait before it begins.
    """

    queues: bool

    def room(self) -> bool:
        """Whether another cell may be submitted now."""
        ...

    def submit(self, job: Job) -> None:
        """Have a cell computed; it is told of by `events`, until it has ended."""
        ...

    def events(self, seconds: float) -> list[Reported | Ended]:
        """What has happened since the last call, waiting so long for the first of it."""
        ...

    def kill(self, job: Job) -> None:
        """End a cell at once; that it has ended is still told."""
        ...

    def close(self, grace: float) -> None:
        """End what still runs, after so many seconds to leave a checkpoint in; 0 is at once."""
        ...
