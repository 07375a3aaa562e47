"""Do the whole run: texts in, clusters, map and report out."""

from __future__ import annotations

import json
import time
from argparse import ArgumentParser, Namespace
from typing import Any

from clustering.cli import add_config
from clustering.kernels.printable import printable


def add_arguments(parser: ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument("--log-format", choices=("text", "json"), default="text", help="json: one JSON object a line")
    parser.add_argument("-v", "--verbose", action="store_true", help="log the plan and the figures of each stage, too")


def execute(args: Namespace) -> None:
    """Run the pipeline and print where its results lie."""
    from clustering.cli.commands.show import table_lines
    from clustering.cli.configuration import build_from_words
    from clustering.cli.live_line import live_line

    config = build_from_words(args.config, args.overrides)
    from clustering.pipeline import run_pipeline  # takes a second

    with live_line():
        run = run_pipeline(config)
    figures = run.report
    clusters = figures["clusters"]
    print_result(
        f"{figures['counts']['texts']:,} texts, {clusters['count']:,} clusters, {clusters['noise_share']:.1%} noise, "
        f"largest {clusters['largest_share']:.1%}",
        args.log_format, event="finished", run=str(run.path), counts=figures["counts"],
        clusters={name: value for name, value in clusters.items() if name != "layers"},
    )  # fmt: skip
    if args.log_format == "text" and clusters["count"]:
        for line in table_lines(run):
            print(printable(line))
    for warning in figures["warnings"]:
        print_result(f"warning: {warning}", args.log_format, event="warning")
    for name in ("report.html", "map.html", "labels.parquet", "clusters.csv", "report.json"):
        if (run / name).exists():
            print_result(f"  {run / name}", args.log_format, event="artefact", path=str(run / name))


def print_result(line: str, log_format: str, **fields: Any) -> None:
    """Print a line for people, or JSON with the fields in place of it."""
    if log_format == "json":
        print(json.dumps({"time": round(time.time(), 3), "level": "info", "message": line, **fields}))
    else:
        print(printable(line))
