"""A command line in, its exit status out; every command runs here, and its errors become messages."""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import clustering
from clustering.cli.commands import assign, evaluate, export, keys, open, plan, recluster, run, sample, show, status
from clustering.errors import ConfigError, CoveyError
from clustering.kernels.printable import printable
from clustering.workers import process

log = logging.getLogger("covey")

COMMANDS = {
    "run": run,
    "show": show,
    "open": open,
    "recluster": recluster,
    "assign": assign,
    "evaluate": evaluate,
    "export": export,
    "plan": plan,
    "status": status,
    "keys": keys,
    "sample": sample,
}


def main(argv: list[str] | None = None) -> int:
    """Run a command; return its exit status."""
    args = parse_words(argv)
    command = COMMANDS[args.command]
    return run_command(
        lambda: command.execute(args), getattr(args, "log_format", "text"), getattr(args, "verbose", False)
    )


def parse_words(argv: list[str] | None) -> argparse.Namespace:
    """The command and its arguments; it ends the process where they are wrong, as argparse does."""
    parser = argparse.ArgumentParser(prog="covey", description="Clusters millions of short texts on Ray and Milvus.",
                                     epilog="Start: covey run news.csv. Settings: covey keys.")  # fmt: skip
    parser.add_argument("--version", action="version", version=f"covey {clustering.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        purpose = " ".join((command.__doc__ or "").split())
        command.add_arguments(commands.add_parser(name, description=purpose, help=purpose))
    args, others = parser.parse_known_args(argv)
    # argparse takes words once: others, behind an option that came after the first of them, are left over.
    while others and hasattr(args, "overrides") and not others[0].startswith("-"):
        args.overrides.append(others.pop(0))
    if others:
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    return args


class Lines(logging.Formatter):
    """The message without control characters of a text, which a terminal would obey."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


class JsonLines(logging.Formatter):
    """A JSON object a line: time (seconds since 1970), level, message, and the fields that a record carries."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def run_command(work: Callable[[], None], log_format: str = "text", verbose: bool = False) -> int:
    """Run a command's body and return its exit status; an error is printed as a message.

    0: done. 1: the run failed. 2: the configuration or the input is wrong. 130, 143: an interrupt or SIGTERM ended it.
    141: nobody reads the output any more.

    log_format : text for people, json for a line of JSON each; the last line of a failed command is its cause
    verbose : log the plan and the figures of each stage, too
    """
    process.set_environment()
    _start_logging(log_format, verbose)
    process.owns_process = True
    status, problems = 0, []
    terminated = False

    def terminate(*_: object) -> None:  # a scheduler, Kubernetes or ``ray job stop`` wants the job to end
        nonlocal terminated
        terminated = True
        sys.exit(signal.SIGTERM)  # as Ray's own handler does, which is there while Ray starts

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        _load_env_file()
        _keep_ray_local()
        work()
    except BrokenPipeError:  # who reads the output, such as head, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the last flush fails, too
        status = 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        status, problems = process.SIGNAL_EXITS[signal.SIGINT][0], [process.SIGNAL_EXITS[signal.SIGINT][1]]
    except (SystemExit, Exception) as error:
        if terminated or (isinstance(error, SystemExit) and error.code == signal.SIGTERM):
            # ray.get turns our exit into an exit with 1.
            signal.alarm(0)  # Ray's handler sets it, and aborts the process when it rings
            status, problems = process.SIGNAL_EXITS[signal.SIGTERM][0], [process.SIGNAL_EXITS[signal.SIGTERM][1]]
        elif isinstance(error, ConfigError):
            status, problems = 2, [f"error: {problem}" for problem in error.problems]
        elif isinstance(error, CoveyError):
            status, problems = 1, [f"error: {error}"]
        elif isinstance(error, SystemExit):
            raise
        else:
            log.exception("the run failed; the same command goes on from the last finished part")
            cause = [line for line in str(error).splitlines() if line.strip()][-1:] or [""]
            status, problems = 1, [f"error: {type(error).__name__}: {cause[0].strip()}"]
    finally:
        signal.signal(signal.SIGTERM, before)
    for problem in problems:
        if log_format == "json":
            log.error(problem, extra={"fields": {"event": "failed", "status": status}})
        else:
            print(printable(problem), file=sys.stderr)
    return status


def _start_logging(log_format: str, verbose: bool) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr, force=True)
    log.setLevel(logging.DEBUG if verbose or log_format == "json" else logging.INFO)
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # its exceptions become errors of Covey
    for handler in logging.getLogger().handlers:
        handler.setFormatter(JsonLines() if log_format == "json" else Lines("%(message)s"))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a character that the locale lacks ends no command


def _keep_ray_local() -> None:
    """Let a Ray that this command starts for itself listen on the loopback address only.

    Ray reads the variable when it is imported; its name does not say so.
    """
    if os.environ.get("RAY_ADDRESS", "") in ("", "local") and "ray" not in sys.modules:
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")


def _load_env_file() -> None:
    """Set the variables that ``.env`` in the working directory adds to the environment, if the file is the user's own.

    Raises: ConfigError when it cannot be read.
    """
    from dotenv import dotenv_values

    path = Path.cwd() / ".env"
    try:
        owner = path.stat().st_uid
        if owner != os.getuid():
            log.warning("%s is not read: it belongs to another user (uid %d)", path, owner)
            return
        found = dotenv_values(path, encoding="utf-8")
    except FileNotFoundError:
        return
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8, or move it away"]) from None
    except OSError as error:
        raise ConfigError([f"{path} cannot be read: {error.strerror}; fix that, or move it away"]) from None
    taken = {name: value for name, value in found.items() if value is not None and name not in os.environ}
    os.environ.update(taken)
    if taken:
        log.info("%s: taken from it: %s", path, ", ".join(sorted(taken)))


if __name__ == "__main__":
    sys.exit(main())
