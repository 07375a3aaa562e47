"""Write a finished run's tables as Embedding Atlas, DataMapPlot, spreadsheets or plotly take them."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from clustering.cli import add_run
from clustering.kernels.printable import printable

FORMS = ("atlas", "datamapplot", "csv", "xlsx", "plotly")  # those of ``finished.export``, whose import takes long


def add_arguments(parser: ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument("--to", required=True, choices=FORMS, help="the program, or the kind of file")
    parser.add_argument(
        "--output", metavar="FOLDER", help="folder for the files (default: export/ and --to in the run directory)"
    )


def execute(args: Namespace) -> None:
    """Write the files and print their names, and how they are opened."""
    from clustering.finished.export import export_run
    from clustering.runs.directory import RunDir

    run = RunDir(args.run)
    with run.naming_missing_artefacts():
        for line in export_run(run, args.to, args.output):
            print(printable(line))
