"""`python -m collapse_bench`."""

import sys

from collapse_bench.cli import main

if __name__ == "__main__":
    sys.exit(main())
