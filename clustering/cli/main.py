"""``covey`` and its commands; also what the commands share."""

from __future__ import annotations

import argparse
import importlib
import io
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clustering.kernels.printable import printable

COMMANDS = {
    "run": "clustering.cli.run",
    "recluster": "clustering.cli.recluster",
    "assign": "clustering.cli.assign",
    "evaluate": "clustering.cli.evaluate",
    "sample": "clustering.cli.sample",
    "plan": "clustering.cli.plan",
    "status": "clustering.cli.status",
}


def main(argv: list[str] | None = None) -> int:
    """Run a subcommand; return its exit status."""
    words = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog="covey", description="Clusters millions of short texts on Ray and Milvus.")
    parser.add_argument("command", choices=list(COMMANDS), help="covey COMMAND --help tells more")
    parser.add_argument("words", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    given = parser.parse_args(words)
    module = importlib.import_module(COMMANDS[given.command])
    return int(module.main(given.words, prog=f"covey {given.command}"))


class Lines(logging.Formatter):
    """The message, without characters of somebody's text that a terminal would obey."""

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


def run_command(work: Callable[[], None], log_format: str = "text") -> int:
    """Run a job's body: 0 done, 1 the run failed, 2 the configuration or the input is wrong; errors in words.

    130 and 143 say that an interrupt or SIGTERM ended it.

    log_format : text for people, json for a line of JSON each; a failed job's last line is its cause in either
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a batch job of somebody else's data calls nobody
    os.environ.setdefault("RAY_worker_niceness", "0")  # at Ray's 15 a worker starves beside anything else that is busy
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # leave the workers' view of GPUs alone
    os.environ.setdefault("RAY_task_oom_retries", "2")  # a task that runs out of memory is begun again for ever else
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr, force=True)
    log = logging.getLogger("covey")
    log.setLevel(logging.INFO)
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # what it raises is said once, by us
    for handler in logging.getLogger().handlers:
        handler.setFormatter(JsonLines() if log_format == "json" else Lines("%(message)s"))
    if log_format == "json":
        log.setLevel(logging.DEBUG)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a locale that lacks a character ends no command
    from clustering.errors import ConfigError, CoveyError
    from clustering.workers import process

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
    except KeyboardInterrupt:
        status, problems = process.SIGNAL_EXITS[signal.SIGINT][0], [process.SIGNAL_EXITS[signal.SIGINT][1]]
    except (SystemExit, Exception) as error:
        if terminated or (isinstance(error, SystemExit) and error.code == signal.SIGTERM):
            # Whatever became of our exit: out of ray.get it comes as an exit with 1.
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


def _keep_ray_local() -> None:
    """Let a Ray that this command starts for itself listen on the loopback address only: no Ray but a cluster's needs
    more. Ray reads the variable, whose name says little of this, when it is imported."""
    if os.environ.get("RAY_ADDRESS", "") in ("", "local") and "ray" not in sys.modules:
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")


def _load_env_file() -> None:
    """Take variables that the environment lacks from ``.env`` in the working directory, if it is the user's own.

    Raises: ConfigError when it cannot be read.
    """
    from dotenv import dotenv_values

    from clustering.errors import ConfigError

    log, path = logging.getLogger("covey"), Path.cwd() / ".env"
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
        raise ConfigError([f"{path} cannot be read: {error.strerror}; mend that, or move it away"]) from None
    taken = {name: value for name, value in found.items() if value is not None and name not in os.environ}
    os.environ.update(taken)
    if taken:
        log.info("%s: taken from it: %s", path, ", ".join(sorted(taken)))


def say(line: str, log_format: str, **fields: Any) -> None:
    """A result: a line on the standard output for people, the fields as JSON in place of it."""
    if log_format == "json":
        print(json.dumps({"time": round(time.time(), 3), "level": "info", "message": line, **fields}))
    else:
        print(printable(line))


if __name__ == "__main__":
    sys.exit(main())
