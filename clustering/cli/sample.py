"""Generated headlines with planted stories, for trying out and for scale tests."""

from __future__ import annotations

import argparse

from clustering.cli.main import run_command


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Parse the command line and write the file; return the exit status."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    parser.add_argument("--texts", type=int, default=3000, help="how many headlines (default: 3000)")
    parser.add_argument("--output", required=True, help=".csv or .parquet; columns id, title, story (-1: none)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same file (default: 0)")
    words = parser.parse_args(argv)
    return run_command(lambda: make_sample(words.texts, words.output, words.seed))


def make_sample(n_texts: int, output: str, seed: int) -> None:
    """Write the sample and say what it holds."""
    from clustering.sample import write_sample

    figures = write_sample(output, n_texts, seed)
    print(f"{figures['records']:,} headlines, {figures['stories']:,} stories: {output}")
