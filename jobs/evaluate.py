"""``python -m jobs.evaluate`` from a checkout, also in a submitted job: the same as ``covey evaluate``."""

import sys

from clustering.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
