"""``covey``: the jobs as subcommands; also what the jobs share."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Callable

COMMANDS = {
    "run": "jobs.cluster_texts",
    "recluster": "jobs.recluster",
    "assign": "jobs.assign_texts",
    "evaluate": "jobs.evaluate",
    "sample": "jobs.make_sample",
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


def run_command(work: Callable[[], None]) -> int:
    """Run a job's body: 0 done, 1 the run failed, 2 the configuration or the input is wrong; errors in words."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a batch job of somebody else's data calls nobody
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # leave the workers' view of GPUs alone
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr, force=True)
    logging.getLogger("covey").setLevel(logging.INFO)
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # what it raises is said once, by us
    from dotenv import find_dotenv, load_dotenv

    from clustering.errors import ConfigError, CoveyError

    load_dotenv(find_dotenv(usecwd=True))
    try:
        work()
    except ConfigError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        return 2
    except CoveyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except Exception as error:
        logging.getLogger("covey").exception("the run failed; the same command goes on from the last finished part")
        cause = [line for line in str(error).splitlines() if line.strip()][-1:] or [""]
        print(f"error: {type(error).__name__}: {cause[0].strip()}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
