"""Place new texts in the clusters of a finished run; the run itself is not changed."""

from __future__ import annotations

import argparse

from clustering.cli.main import run_command


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Parse the command line and assign; return the exit status."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    parser.add_argument("--run", required=True, help="directory of a finished run")
    parser.add_argument("--input", required=True, nargs="+", help="files with the run's text columns")
    parser.add_argument("--output", help="Parquet file (default: assigned.parquet in the run directory)")
    parser.add_argument("--config", help="the run's configuration file, where its encoder is none of Covey's own")
    parser.add_argument("--trust", action="store_true", help="load the model that the run directory names")
    parser.add_argument(
        "overrides", nargs="*", metavar="embed.key=value", help="before --input: where the model lies now, for instance"
    )
    words = parser.parse_args(argv)
    return run_command(lambda: assign(words.run, words.input, words.output, words.overrides, words.config, words.trust))


def assign(
    run_dir: str,
    inputs: list[str],
    output: str | None = None,
    overrides: list[str] | None = None,
    config_file: str | None = None,
    trusted: bool = False,
) -> None:
    """Assign and say how many found a cluster."""
    from clustering.finished.assign import assign_texts
    from clustering.preflight import require_gpus
    from clustering.runs.directory import RunDir
    from clustering.runs.saved_config import load_run_config, with_trusted_encoder
    from clustering.workers.session import ray_session

    run = RunDir(run_dir)
    config = with_trusted_encoder(load_run_config(run), overrides or [], config_file, trusted, run.path)
    target = str(run / "assigned.parquet") if output is None else output
    with ray_session(), run.naming_missing_artefacts():
        require_gpus(config)
        figures = assign_texts(run, config, inputs, target)
    print(
        f"{figures['assigned']:,} of {figures['records']:,} texts lie in a cluster "
        f"({figures['empty']:,} empty): {target}"
    )
