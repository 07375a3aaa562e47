"""List all settings with their defaults and meanings, or those in which words stand."""

from __future__ import annotations

import shutil
import textwrap
from argparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser) -> None:
    parser.epilog = (
        "The defaults hold with --config FILE. covey run FILE and --config NAME start from a ready configuration "
        "(laptop, where none is named), which sets some of them otherwise."
    )
    parser.add_argument("words", nargs="*", metavar="WORD", help="show the settings whose name or meaning holds these")


def execute(args: Namespace) -> None:
    """Print a setting a paragraph: section.key=default, and below it what it means."""
    from clustering.config.reference import list_keys
    from clustering.errors import ConfigError

    words = [word.casefold() for word in args.words]
    found = [key for key in list_keys() if all(word in f"{key.name} {key.meaning}".casefold() for word in words)]
    if not found:
        raise ConfigError([f"no setting's name or meaning holds {' and '.join(args.words)}; covey keys lists them all"])
    width = min(shutil.get_terminal_size((100, 24)).columns, 120)
    for key in found:
        print(f"{key.name}={key.default}")
        if key.meaning:
            print(textwrap.fill(key.meaning, width, initial_indent="    ", subsequent_indent="    "))
