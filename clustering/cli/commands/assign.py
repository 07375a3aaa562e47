"""Place new texts in the clusters of a finished run; the run itself is not changed."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from clustering.cli import add_overrides, add_run, add_trust


def add_arguments(parser: ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument("--input", required=True, nargs="+", metavar="FILE", help="files with the run's text columns")
    parser.add_argument(
        "--output", metavar="FILE", help="Parquet file (default: assigned.parquet in the run directory)"
    )
    add_trust(parser, "model and server", "which names its model, and the server with its vectors")
    place = "where the model or the server is now: embed.KEY=..., store.uri=..., store.server.KEY=..."
    add_overrides(parser, "section.key=value", f"{place}; put these before --input")


def execute(args: Namespace) -> None:
    """Assign and print how many texts lie in a cluster."""
    from clustering.finished.assign import assign_texts
    from clustering.preflight import require_gpus
    from clustering.runs.directory import RunDir
    from clustering.runs.saved_config import load_run_config, with_trusted_addresses
    from clustering.workers.session import ray_session

    run = RunDir(args.run)
    config = with_trusted_addresses(load_run_config(run), args.overrides, args.config, args.trust, run.path)
    output = str(run / "assigned.parquet") if args.output is None else args.output
    with ray_session(), run.naming_missing_artefacts():
        require_gpus(config)
        figures = assign_texts(run, config, args.input, output)
    print(
        f"{figures['assigned']:,} of {figures['records']:,} texts lie in a cluster "
        f"({figures['empty']:,} empty): {output}"
    )
