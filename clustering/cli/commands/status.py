"""Tell from another shell how far a run is: which stage, how fast, what is left; nothing is changed."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from clustering.cli import add_run
from clustering.kernels.printable import printable


def add_arguments(parser: ArgumentParser) -> None:
    add_run(parser, "a run")


def execute(args: Namespace) -> None:
    """Print a line for the run and one for each stage."""
    from clustering.monitoring.status import status_lines
    from clustering.runs.directory import RunDir

    for line in status_lines(RunDir(args.run)):
        print(printable(line))
