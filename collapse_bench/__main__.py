"""`python -m collapse_bench`."""

import sys

from collapse_bench.cli import main
from collapse_bench.interruption import end_on_signals

if __name__ == "__main__":
    end_on_signals()
    sys.exit(main())
