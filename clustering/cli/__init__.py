"""The command line ``covey``; here, the arguments that several commands share."""

from __future__ import annotations

from argparse import ArgumentParser


def add_run(parser: ArgumentParser, which: str = "a finished run") -> None:
    parser.add_argument("--run", required=True, metavar="DIR", help=f"directory of {which}, or its s3:// or gs:// URI")


def add_config(parser: ArgumentParser, files: str = "files, folders or URIs to cluster") -> None:
    ready = "YAML file, or the name of a ready configuration: laptop (default), gpu, tutorial"
    parser.add_argument("--config", metavar="FILE", help=ready)
    add_overrides(parser, "FILE | section.key=value", f"{files}; and settings, which covey keys lists")


def add_trust(parser: ArgumentParser, meant: str, why: str) -> None:
    """meant : what of a run directory is used only when the user says so"""
    parser.add_argument("--config", metavar="FILE", help=f"the run's configuration file, {why}")
    parser.add_argument("--trust", action="store_true", help=f"use the {meant} that the run directory names")


def add_overrides(parser: ArgumentParser, form: str, purpose: str) -> None:
    parser.add_argument("overrides", nargs="*", metavar=form, help=purpose)
