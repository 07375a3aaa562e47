"""Estimate the memory, disk, hours and money of a run of so many texts from its configuration and from finished runs;
nothing is started."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from clustering.cli import add_config
from clustering.kernels.printable import printable


def add_arguments(parser: ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument("--texts", type=int, required=True, help="how many texts the run will have")
    parser.add_argument(
        "--run",
        action="append",
        help="a finished run to estimate the hours from, also several times (default: those beside run.dir)",
    )


def execute(args: Namespace) -> None:
    """Print a line a stage, and the sums."""
    from clustering.config.loading import load_config
    from clustering.monitoring.plan import plan_lines

    for line in plan_lines(load_config(args.config, args.overrides), args.texts, args.run):
        print(printable(line))
