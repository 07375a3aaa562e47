"""``python -m jobs.plan_run`` from a checkout, also in a submitted job: the same as ``covey plan``."""

import sys

from clustering.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["plan", *sys.argv[1:]]))
