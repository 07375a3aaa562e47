"""What only a command may do, whose process is its own: end at once."""

from __future__ import annotations

import logging
import os
import signal
import sys

log = logging.getLogger("covey")
owns_process = False  # set by a command; a program of others that calls Covey is not to be ended
SIGNAL_EXITS = {
    signal.SIGTERM: (143, "terminated; the same command goes on from here"),
    signal.SIGINT: (130, "interrupted; the same command goes on from here"),
}


def exit_now(status: int, words: str) -> None:
    """End this process at once, with words as its last line; the kernel ends what Ray has started with it."""
    log.error(words, extra={"fields": {"event": "failed", "status": status}})
    sys.stderr.flush()
    os._exit(status)
