"""Recall, fidelity to exact HDBSCAN, and agreement with a truth, measured on a finished run."""

from __future__ import annotations

import argparse
import json

from clustering.cli.main import run_command


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Parse the command line and evaluate; return the exit status."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    parser.add_argument("--run", required=True, help="directory of a finished run")
    parser.add_argument("--truth", help="file with a true label for each record")
    parser.add_argument("--truth-column", default="label", help="its column of labels (default: label)")
    parser.add_argument("--id-column", help="its column of ids (default: the run's read.id_column)")
    words = parser.parse_args(argv)
    return run_command(lambda: evaluate(words.run, words.truth, words.truth_column, words.id_column))


def evaluate(run_dir: str, truth: str | None, truth_column: str, id_column: str | None) -> None:
    """Evaluate and print the figures, which also go into report.json."""
    from clustering.finished.evaluate import evaluate_run
    from clustering.runs.directory import RunDir
    from clustering.runs.saved_config import load_run_config
    from clustering.workers.session import ray_session

    run = RunDir(run_dir)
    config = load_run_config(run)
    with ray_session(), run.naming_missing_artefacts():
        figures = evaluate_run(run, config, truth, truth_column, id_column)
    print(json.dumps(figures, indent=1))
