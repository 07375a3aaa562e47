"""The whole run: texts in, clusters, map and report out."""

from __future__ import annotations

import argparse

from clustering.cli.main import run_command, say


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Parse the command line and run; return the exit status."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    parser.add_argument("--config", required=True, help="YAML file, for instance cluster_configs/laptop.yaml")
    parser.add_argument("--log-format", choices=("text", "json"), default="text", help="json: a line of JSON each")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="laid over the file")
    words = parser.parse_args(argv)
    return run_command(lambda: cluster_texts(words.config, words.overrides, words.log_format), words.log_format)


def cluster_texts(config_path: str, overrides: list[str], log_format: str = "text") -> None:
    """Run the pipeline and say where its results lie."""
    from clustering.config.loading import load_config
    from clustering.pipeline import run_pipeline

    run = run_pipeline(load_config(config_path, overrides))
    figures = run.report
    clusters = figures["clusters"]
    say(
        f"{figures['counts']['texts']:,} texts, {clusters['count']:,} clusters, {clusters['noise_share']:.1%} noise, "
        f"largest {clusters['largest_share']:.1%}",
        log_format, event="finished", run=str(run.path), counts=figures["counts"],
        clusters={name: value for name, value in clusters.items() if name != "layers"},
    )  # fmt: skip
    for warning in figures["warnings"]:
        say(f"warning: {warning}", log_format, event="warning")
    for name in ("report.html", "map.html", "labels.parquet", "clusters.parquet", "report.json"):
        if (run / name).exists():
            say(f"  {run / name}", log_format, event="artefact", path=str(run / name))
