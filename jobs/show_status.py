"""``python -m jobs.show_status`` from a checkout, also in a submitted job: the same as ``covey status``."""

import sys

from clustering.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["status", *sys.argv[1:]]))
