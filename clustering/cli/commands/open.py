"""Open a run's report, or its map, in the browser."""

from __future__ import annotations

import webbrowser
from argparse import ArgumentParser, Namespace
from pathlib import Path

from clustering.kernels.printable import printable


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("run", metavar="DIR", help="directory of a finished run")
    parser.add_argument("--map", action="store_true", help="the map instead of the report")


def execute(args: Namespace) -> None:
    """Open the page; without a browser, say where it lies."""
    from clustering.errors import ConfigError
    from clustering.runs.directory import RunDir
    from clustering.runs.storage import locate

    name, run = "map.html" if args.map else "report.html", RunDir(args.run)
    page = run / name if isinstance(locate(args.run), Path) else None
    if not isinstance(page, Path):
        raise ConfigError([f"{args.run} lies in an object store; copy {name} to this machine to look at it"])
    if not page.exists() and run.is_complete and not run.report["counts"]["texts"]:
        raise ConfigError([f"{args.run} has no {name}: the run has no texts"])
    if not page.exists():
        raise ConfigError([f"{args.run} has no {name}; covey status --run {args.run} says how far the run is"])
    opened = webbrowser.open(page.resolve().as_uri())
    print(printable(f"{'opened' if opened else 'no browser was found; open it by hand:'} {page}"))
