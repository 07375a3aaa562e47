"""``python -m jobs.evaluate`` from a checkout, also in a submitted job: the same as ``covey evaluate``."""

import sys

from clustering.cli.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
