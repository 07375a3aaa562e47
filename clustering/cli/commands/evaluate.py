"""Compare a finished run with a truth, and a small run of plain HDBSCAN with exact HDBSCAN; repeat its recall."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace

from clustering.cli import add_run


def add_arguments(parser: ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument("--truth", metavar="FILE", help="file with a true label for each record")
    parser.add_argument(
        "--truth-column", metavar="COLUMN", default="label", help="its column of labels (default: label); -1 is none"
    )
    parser.add_argument("--id-column", metavar="COLUMN", help="its column of ids (default: the run's read.id_column)")


def execute(args: Namespace) -> None:
    """Evaluate and print the figures, which also go into report.json."""
    from clustering.finished.evaluate import evaluate_run
    from clustering.runs.directory import RunDir
    from clustering.runs.saved_config import load_run_config
    from clustering.workers.session import ray_session

    run = RunDir(args.run)
    config = load_run_config(run)
    with ray_session(), run.naming_missing_artefacts():
        figures = evaluate_run(run, config, args.truth, args.truth_column, args.id_column)
    print(json.dumps(figures, indent=1))
