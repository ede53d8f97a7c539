"""The command line: `main` runs one verb, `parser` reads it, `verbs` does it."""

import io
import os
import signal
import sys
from collections.abc import Sequence

from collapse_bench.cli.parser import build_parser
from collapse_bench.errors import UserError

__all__ = ["build_parser", "main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb.

    Returns:
        0 all is well; 1 cells failed, or numbers do not agree; 2 bad suite or usage; 3 corpus
        missing; 5 a file cannot be written; 128 + n on signal n.
    """
    _survive_the_terminal()
    parser = build_parser()
    if not (sys.argv[1:] if arguments is None else arguments):
        parser.print_help(sys.stderr)
        return 2
    options = parser.parse_args(arguments)
    try:
        code: int = options.verb(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return code


def _survive_the_terminal() -> None:
    """Show `?` for a character that a terminal cannot write: no result dies of a plus-minus."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
