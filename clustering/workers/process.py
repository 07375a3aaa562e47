"""What this process is: whether a command owns it, how it ends, and its environment within a block."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger("covey")
owns_process = False  # a command sets it; Covey never ends the process of another program
SIGNAL_EXITS = {
    signal.SIGTERM: (143, "terminated; the same command goes on from here"),
    signal.SIGINT: (130, "interrupted; the same command goes on from here"),
}

ENVIRONMENT = {  # of a job, unless the user has set it; the images set what a cluster's workers need of it
    "RAY_USAGE_STATS_ENABLED": "0",  # Ray sends no figures of this job to its makers
    "RAY_worker_niceness": "0",  # at Ray's 15 a worker starves beside any other busy process
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Ray leaves the workers' view of GPUs alone
    "RAY_task_oom_retries": "2",  # without a limit, Ray repeats a task that runs out of memory for ever
    "GRPC_VERBOSITY": "ERROR",
}


def set_environment() -> None:
    """Set what Ray reads before it starts; a command does it before it imports Ray, and a program's run before that."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def exit_now(status: int, message: str) -> None:
    """End this process at once, with the message as its last line; the kernel ends the Ray processes with it."""
    log.error(message, extra={"fields": {"event": "failed", "status": status}})
    sys.stderr.flush()
    os._exit(status)


@contextmanager
def environment(name: str, value: str) -> Iterator[None]:
    """Set an environment variable within the block, also for processes and libraries that start in it."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before
