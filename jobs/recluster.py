"""``python -m jobs.recluster`` from a checkout, also in a submitted job: the same as ``covey recluster``."""

import sys

from clustering.cli.recluster import main

if __name__ == "__main__":
    sys.exit(main())
