"""New labels, names and report from a finished run's stored graph, in seconds; nothing is embedded or searched."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from clustering.cli import add_overrides, add_run, add_trust


def add_arguments(parser: ArgumentParser) -> None:
    add_run(parser)
    add_trust(parser, "endpoint", "where titles are written by an endpoint")
    add_overrides(parser, "cluster.key=value", "also describe., plot. and graph. keys")


def execute(args: Namespace) -> None:
    """Cluster again with other settings, in the same directory."""
    from clustering.finished.recluster import recluster_run
    from clustering.runs.directory import RunDir

    run = RunDir(args.run)
    with run.naming_missing_artefacts():
        recluster_run(run, args.overrides, args.config, args.trust)
    clusters = run.report["clusters"]
    print(
        f"{clusters['count']:,} clusters, {clusters['noise_share']:.1%} noise, "
        f"largest {clusters['largest_share']:.1%}: {run / 'report.html'}"
    )
