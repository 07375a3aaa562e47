"""Generate headlines with planted stories, for trying out and for scale tests."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--texts", type=int, metavar="N", default=3000, help="how many headlines (default: 3000)")
    columns = "columns id, title, story (-1: none), time, source, url"
    parser.add_argument("--output", required=True, metavar="FILE", help=f".csv or .parquet; {columns}")
    parser.add_argument(
        "--seed", type=int, metavar="N", default=0, help="the same seed gives the same file (default: 0)"
    )


def execute(args: Namespace) -> None:
    """Write the sample and print what it holds."""
    from clustering.sample import write_sample

    figures = write_sample(args.output, args.texts, args.seed)
    print(f"{figures['records']:,} headlines, {figures['stories']:,} stories: {args.output}")
