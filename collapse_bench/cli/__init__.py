"""The command line: `main` runs one verb, `parser` reads it, `verbs` does it."""

import argparse
import errno
import io
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress

from collapse_bench.cli.parser import build_parser
from collapse_bench.errors import DiskError, UserError

__all__ = ["build_parser", "main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb.

    Returns:
        0 all is well; 1 cells failed, or numbers do not agree; 2 bad suite or usage; 3 corpus
        missing; 5 a file cannot be written, be it the one that is printed to; 128 + n on signal n.
    """
    _survive_the_terminal()
    parser = build_parser()
    if not (sys.argv[1:] if arguments is None else arguments):
        parser.print_help(sys.stderr)
        return 2
    options = parser.parse_args(arguments)
    code, said = _code_of(options)
    if said:
        with suppress(OSError):
            print(said, file=sys.stderr)
    _give_up_what_cannot_be_shown()
    return code


def _code_of(options: argparse.Namespace) -> tuple[int, str]:
    """How a verb has ended, and what is to be said of it."""
    try:
        code: int = options.verb(options)
        if code == 0:  # another one tells of what matters more
            sys.stdout.flush()
        return code, ""
    except UserError as error:
        return error.exit_code, f"error: {error}"
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        return 128 + signal.SIGPIPE, ""
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO)
        return DiskError.exit_code if full else 2, f"error: {error}"
    except KeyboardInterrupt:
        return 130, "interrupted"


def _give_up_what_cannot_be_shown() -> None:
    """The interpreter would try it once more as it ends, and end with a code of its own."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _survive_the_terminal() -> None:
    """Show `?` for a character that a terminal cannot write: no result dies of a plus-minus."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
