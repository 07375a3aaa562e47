"""The command line ``covey``; here, the arguments that several commands share."""

from __future__ import annotations

from argparse import ArgumentParser


def add_run(parser: ArgumentParser) -> None:
    parser.add_argument("--run", required=True, help="directory of a finished run, or its s3:// or gs:// URI")


def add_config(parser: ArgumentParser) -> None:
    parser.add_argument("--config", help="YAML file, or the name of a ready configuration: laptop, gpu, tutorial")
    words = "files, folders or URIs to cluster; and settings, which covey keys lists"
    add_overrides(parser, "FILE | section.key=value", words)


def add_trust(parser: ArgumentParser, meant: str, why: str) -> None:
    """meant : what of a run directory is used only when the user says so"""
    parser.add_argument("--config", help=f"the run's configuration file, {why}")
    parser.add_argument("--trust", action="store_true", help=f"use the {meant} that the run directory names")


def add_overrides(parser: ArgumentParser, form: str, purpose: str) -> None:
    parser.add_argument("overrides", nargs="*", metavar=form, help=purpose)
