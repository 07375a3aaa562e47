"""Make new labels, names and report from a finished run's stored neighbors; nothing is embedded or searched."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from clustering.cli import add_overrides, add_run, add_trust
from clustering.kernels.printable import printable


def add_arguments(parser: ArgumentParser) -> None:
    add_run(parser)
    add_trust(parser, "endpoint", "where titles are written by an endpoint")
    views = parser.add_mutually_exclusive_group()
    views.add_argument(
        "--into", metavar="NAME", help="leave the run as it is; the new clusters lie beside it, in DIR-NAME"
    )
    views.add_argument(
        "--sweep", metavar="KEY=A,B,C", help="try several values of a key of cluster, each beside the run"
    )
    add_overrides(parser, "section.key=value", "keys of cluster, graph, describe, project and plot")


def execute(args: Namespace) -> None:
    """Cluster again with other settings, in the same directory or in another view of the run."""
    from clustering.finished.recluster import recluster_run
    from clustering.finished.views import draw_sweep, recluster_view, sweep
    from clustering.runs.directory import RunDir

    run = RunDir(args.run)
    if args.sweep is not None:
        with run.naming_missing_artefacts():
            found = sweep(run, args.sweep, args.overrides, args.config, args.trust)
        for line in found.lines():
            print(printable(line))
        picture = Path(f"{run.path}-{found.key}.png")
        draw_sweep(found, picture)
        print(printable(f"  {picture}"))
        return
    with run.naming_missing_artefacts():
        if args.into is not None:
            run = recluster_view(run, args.into, args.overrides, args.config, args.trust)
        else:
            recluster_run(run, args.overrides, args.config, args.trust)
    clusters = run.report["clusters"]
    print(
        f"{clusters['count']:,} clusters, {clusters['noise_share']:.1%} noise, "
        f"largest {clusters['largest_share']:.1%}: {run / 'report.html'}"
    )
