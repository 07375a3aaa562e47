"""``python -m jobs.export_run`` from a checkout, also in a submitted job: the same as ``covey export``."""

import sys

from clustering.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))
