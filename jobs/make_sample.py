"""``python -m jobs.make_sample`` from a checkout, also in a submitted job: the same as ``covey sample``."""

import sys

from clustering.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["sample", *sys.argv[1:]]))
