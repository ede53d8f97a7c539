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
from collapse_bench.writing import flush_or_give_up

__all__ = ["build_parser", "main"]


NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""What the system says of nothing but a file that is to be written."""


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
    code, said = _code_of(parser.parse_args(arguments))
    lost = flush_or_give_up(sys.stdout)
    if isinstance(lost, BrokenPipeError):  # the reader, such as `head`, has seen enough
        code, said = 128 + signal.SIGPIPE, ""
    elif lost is not None and code == 0:
        code, said = DiskError.exit_code, f"error: standard output: {lost.strerror}"
    if said:
        with suppress(OSError):
            print(said, file=sys.stderr)
    flush_or_give_up(sys.stderr)
    return code


def _code_of(options: argparse.Namespace) -> tuple[int, str]:
    """How a verb has ended, and what is to be said of it."""
    try:
        return options.verb(options), ""
    except UserError as error:
        return error.exit_code, f"error: {error}"
    except BrokenPipeError:
        return 128 + signal.SIGPIPE, ""
    except OSError as error:
        nameless = error.filename is None  # as standard output is
        if error.errno not in NO_ROOM and not (nameless and error.errno == errno.EIO):
            return 2, f"error: {error}"
        where = "what is printed, or a file without a name," if nameless else error.filename
        return DiskError.exit_code, f"error: {where} cannot be written: {error.strerror}"
    except KeyboardInterrupt:
        return 130, "interrupted"


def _survive_the_terminal() -> None:
    """Show `?` for a character that a terminal cannot write, and nothing where a stream is closed:
    no result dies of a plus-minus."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
