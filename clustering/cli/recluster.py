"""New labels, names and report from a finished run's stored graph, in seconds; nothing is embedded or searched."""

from __future__ import annotations

import argparse

from clustering.cli.main import run_command


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Parse the command line and recluster; return the exit status."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    parser.add_argument("--run", required=True, help="directory of a finished run")
    parser.add_argument("--config", help="the run's configuration file, where titles are written by an endpoint")
    parser.add_argument("--trust", action="store_true", help="use the endpoint that the run directory names")
    parser.add_argument(
        "overrides", nargs="*", metavar="cluster.key=value", help="also describe., plot. and graph. keys"
    )
    words = parser.parse_args(argv)
    return run_command(lambda: recluster(words.run, words.overrides, words.config, words.trust))


def recluster(run_dir: str, overrides: list[str], config_file: str | None = None, trusted: bool = False) -> None:
    """Cluster again with other settings, in the same directory."""
    from clustering.finished.recluster import recluster_run
    from clustering.runs.directory import RunDir

    run = RunDir(run_dir)
    with run.naming_missing_artefacts():
        recluster_run(run, overrides, config_file, trusted)
    clusters = run.report["clusters"]
    print(
        f"{clusters['count']:,} clusters, {clusters['noise_share']:.1%} noise, "
        f"largest {clusters['largest_share']:.1%}: {run / 'report.html'}"
    )
