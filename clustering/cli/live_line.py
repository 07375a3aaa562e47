"""The stages at work in; a line on the terminal that shows how far they are, beneath what is logged, out."""

from __future__ import annotations

import logging
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from clustering.kernels.printable import printable
from clustering.monitoring.progress import format_duration, stages_at_work
from clustering.schema import Figures

EVERY_S = 0.25
BAR, FULL, EMPTY = 20, "━", "─"
CLEAR = "\r\x1b[K"  # the line
STEADY_S = 10.0  # in which the time left follows a new estimate by two thirds


class LiveLine:
    """The last line of a terminal, drawn anew four times a second; log lines go above it."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.left: tuple[float, float] | None = None  # shown last: seconds left, and when
        self.shown = False

    def draw(self, figures: list[Figures]) -> None:
        """Show the stages at work. figures : of each, as progress.json has them"""
        line = " · ".join(map(describe_stage, figures))
        estimates = [one["run_left_s"] for one in figures if one.get("run_left_s") is not None]
        if estimates:
            line += f" · about {format_duration(self._steady(max(estimates)))} to go"
        width = shutil.get_terminal_size((80, 24)).columns - 1
        with self.lock:
            sys.stderr.write(CLEAR + printable(line)[:width])
            sys.stderr.flush()
            self.shown = bool(line)

    def clear(self) -> None:
        with self.lock:
            if self.shown:
                sys.stderr.write(CLEAR)
                sys.stderr.flush()
                self.shown = False

    def _steady(self, estimate: float) -> float:
        """The time left, which falls with the clock and follows new estimates slowly."""
        now = time.monotonic()
        if self.left is not None:
            before, when = self.left
            weight = 1 - 3 ** -((now - when) / STEADY_S)
            estimate = max(0.0, before - (now - when)) * (1 - weight) + estimate * weight
        self.left = estimate, now
        return estimate


def describe_stage(progress: Figures) -> str:
    """One stage, its bar, and its speed. progress : the content of progress.json"""
    if progress.get("waits"):
        return f"{progress['stage']}: {progress['waits']}"
    spent = format_duration(progress["updated"] - progress["started"])
    if not progress["total"]:
        return f"{progress['stage']} {spent}"
    share = progress["done"] / progress["total"]
    bar = (FULL * round(share * BAR)).ljust(BAR, EMPTY)
    speed = f" {progress['rows_per_second']:,.0f} rows/s" if progress["rows_per_second"] else ""
    return f"{progress['stage']} {bar} {share:.0%}{speed} {spent}"


@contextmanager
def live_line() -> Iterator[None]:
    """Draw the stages at work while the block runs, where the error stream is a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    line, ended = LiveLine(), threading.Event()

    def keep_drawing() -> None:
        while not ended.wait(EVERY_S):
            line.draw(stages_at_work())

    handlers = logging.getLogger().handlers

    def make_room(_: logging.LogRecord) -> bool:
        line.clear()
        return True

    thread = threading.Thread(target=keep_drawing, daemon=True)
    for handler in handlers:
        handler.addFilter(make_room)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        line.clear()
        for handler in handlers:
            handler.removeFilter(make_room)
