"""How far a run is, from another shell: which stage, how fast, what is left; nothing is changed."""

from __future__ import annotations

import argparse

from clustering.cli.main import run_command
from clustering.kernels.printable import printable


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Parse the command line and show; return the exit status."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    parser.add_argument("--run", required=True, help="directory of a run, or its s3:// or gs:// URI")
    words = parser.parse_args(argv)
    return run_command(lambda: show_status(words.run))


def show_status(run_dir: str) -> None:
    """Print a line for the run and one for each stage."""
    from clustering.monitoring.status import status_lines
    from clustering.runs.directory import RunDir

    for line in status_lines(RunDir(run_dir)):
        print(printable(line))
