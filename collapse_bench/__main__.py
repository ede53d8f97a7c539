"""`python -m collapse_bench`, and the command `collapse-bench`."""

import sys

from collapse_bench.cli import main
from collapse_bench.interruption import end_on_signals


def run() -> None:
    """Run one verb, and end this process with its exit code."""
    end_on_signals()
    sys.exit(main())


if __name__ == "__main__":
    run()
