"""``python -m jobs.assign_texts`` from a checkout, also in a submitted job: the same as ``covey assign``."""

import sys

from clustering.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["assign", *sys.argv[1:]]))
