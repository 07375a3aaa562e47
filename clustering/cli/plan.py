"""What a run of so many texts will need: memory, disk, hours and money, told by the run's configuration and by
finished runs; nothing is started."""

from __future__ import annotations

import argparse

from clustering.cli.main import run_command
from clustering.kernels.printable import printable


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Parse the command line and plan; return the exit status."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    parser.add_argument("--config", required=True, help="YAML file, for instance cluster_configs/gpu.yaml")
    parser.add_argument("--texts", type=int, required=True, help="how many texts the run will have")
    parser.add_argument("--run", action="append", help="a finished run to tell the hours from, also several times "
                        "(default: those beside run.dir)")  # fmt: skip
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="laid over the file")
    words = parser.parse_args(argv)
    return run_command(lambda: plan_run(words.config, words.texts, words.run, words.overrides))


def plan_run(config_path: str, n_texts: int, runs: list[str] | None, overrides: list[str]) -> None:
    """Print a line a stage, and the sums."""
    from clustering.config.loading import load_config
    from clustering.monitoring.status import plan_lines

    for line in plan_lines(load_config(config_path, overrides), n_texts, runs):
        print(printable(line))
