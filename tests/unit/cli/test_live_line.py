"""live_line.py: how far the stages are, on the last line of a terminal."""

from __future__ import annotations

import io
import logging
import time

import pytest

from clustering.cli import live_line
from clustering.cli.live_line import CLEAR, LiveLine, describe_stage
from clustering.cli.live_line import live_line as live

PROGRESS = {"stage": "search", "started": 100.0, "updated": 112.0, "what": "", "waits": "", "done": 3, "total": 12,
            "rows_per_second": 1480.4, "left_s": 36.0, "run_left_s": 50.0}  # fmt: skip


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_stage_is_a_bar_with_share_speed_and_time() -> None:
    assert describe_stage(PROGRESS) == f"search {'━' * 5}{'─' * 15} 25% 1,480 rows/s 12 s"
    assert describe_stage({**PROGRESS, "total": 0, "rows_per_second": None}) == "search 12 s"
    assert describe_stage({**PROGRESS, "waits": "waits for 8 GiB"}) == "search: waits for 8 GiB"


def test_the_time_left_follows_new_estimates_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    line = LiveLine()
    assert line._steady(100) == 100
    now[0] = 1.0
    assert line._steady(300) == pytest.approx(99 + (300 - 99) * (1 - 3**-0.1)), "a jump is smoothed"
    for second in range(2, 200):
        now[0] = float(second)
        shown = line._steady(30)
    assert shown == pytest.approx(30, abs=10), "and in the end it is what is estimated"


def test_log_lines_go_above_the_line_and_nothing_of_it_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(live_line, "stages_at_work", lambda: [PROGRESS, {**PROGRESS, "stage": "project", "total": 0}])
    root, log = logging.getLogger(), logging.getLogger("covey")
    handler = logging.StreamHandler(screen)
    monkeypatch.setattr(root, "handlers", [handler])
    monkeypatch.setattr(log, "level", logging.INFO)
    with live():
        deadline = time.monotonic() + 30
        while "search" not in screen.getvalue() and time.monotonic() < deadline:
            time.sleep(0.01)
        log.warning("a stage is done")
    drawn = screen.getvalue()
    assert f"{CLEAR}search ━━━━━─" in drawn
    assert "project 12 s · about 50 s to go" in drawn
    assert f"{CLEAR}a stage is done\n" in drawn
    assert drawn.endswith((CLEAR, "done\n"))
    assert handler.filters == []


def test_without_a_terminal_nothing_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setattr(live_line, "stages_at_work", lambda: [PROGRESS])
    with live():
        time.sleep(2 * live_line.EVERY_S)
    assert stream.getvalue() == ""
