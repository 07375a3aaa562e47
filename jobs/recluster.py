"""``python -m jobs.recluster`` from a checkout, also in a submitted job: the same as ``covey recluster``."""

import sys

from clustering.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["recluster", *sys.argv[1:]]))
