"""An exit status and a message in; the end of a process that belongs to a command."""

from __future__ import annotations

import logging
import os
import signal
import sys

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
