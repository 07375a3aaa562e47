"""``python -m jobs.cluster_texts`` from a checkout, also in a submitted job: the same as ``covey run``."""

import sys

from clustering.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))
