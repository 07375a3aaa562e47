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
