"""What a user can do wrong: errors that are shown as text, never as a traceback."""

from collections.abc import Sequence


class UserError(Exception):
    """A mistake that the user can mend; the message says what, where, and the way out."""

    exit_code = 2


class SuiteError(UserError):
    """Everything that is wrong with a suite, one line a problem."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(problems))


class DamagedError(UserError):
    """A file of a cell that is not what was written: cut short, decayed or edited."""


class CorpusMissing(UserError):
    """A corpus that is not on this machine, with the places that were searched."""

    exit_code = 3


class DiskError(UserError):
    """A file that the system refuses to write, with what it said and how much room there is."""

    exit_code = 5
