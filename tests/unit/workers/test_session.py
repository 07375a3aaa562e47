"""session.py: what a run raises comes out as it is; only where Ray is gone does its end take the place."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from clustering.errors import ConfigError, CoveyError, StageError, StoreError
from clustering.workers import session


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A Ray whose parts are gone as soon as something is in this list, such as its end on purpose."""
    ended: list[str] = []
    monkeypatch.setattr(session, "CHECK_EVERY_S", 0.01)
    monkeypatch.setattr(session, "LOST_AFTER_S", {"own": 0.05})
    monkeypatch.setattr(session, "_health_check", lambda _: lambda: "Ray's head is gone" if ended else "")
    monkeypatch.setattr(session._thread, "interrupt_main", lambda: ended.append("interrupted"))

    def shutdown() -> None:
        ended.append("shut down")
        time.sleep(0.3)  # as on a busy machine

    monkeypatch.setattr(session.ray, "shutdown", shutdown)
    return ended


@pytest.mark.parametrize("error", [ConfigError(["mine"]), StageError("mine"), StoreError("mine")])
def test_an_error_of_the_work_comes_out_as_it_is(error: CoveyError, ended: list[str]) -> None:
    with pytest.raises(CoveyError) as raised, session._watching_ray("own"):
        raise error
    assert raised.value is error
    assert ended == ["shut down"]


def test_the_end_of_ray_on_purpose_is_no_loss(ended: list[str]) -> None:
    with session._watching_ray("own"):
        pass
    assert ended == ["shut down"]


@pytest.mark.parametrize("raised", [StageError("a task was lost"), KeyboardInterrupt()])
def test_an_error_where_ray_is_gone_says_so(raised: BaseException, ended: list[str]) -> None:
    def work() -> None:
        ended.append("killed")
        deadline = time.monotonic() + 10
        while "interrupted" not in ended:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        raise raised

    with pytest.raises(StageError, match="Ray's head is gone"), session._watching_ray("own"):
        work()
    assert ended == ["killed", "interrupted", "shut down"]


@pytest.mark.parametrize("failures", [0, 2, 10**9])
def test_a_node_that_is_late_is_started_again(failures: int, monkeypatch: pytest.MonkeyPatch) -> None:
    late, folders = f"The current node {session.LATE_NODE}.", []

    def init(_temp_dir: str, **_: Any) -> None:
        folders.append(_temp_dir)
        assert os.environ["TMPDIR"] == _temp_dir
        assert os.path.isdir(_temp_dir)
        if len(folders) <= failures:
            raise Exception(late)

    monkeypatch.setattr(session.ray, "init", init)
    monkeypatch.setattr(session, "START_TIMEOUT_S", 60 if failures < 10 else 0)
    if failures < 10:
        with session._own_node():
            assert len(set(folders)) == failures + 1
            assert [os.path.isdir(folder) for folder in folders] == [False] * failures + [True]
    else:
        with pytest.raises(Exception, match=late), session._own_node():
            pass
        assert len(folders) == 1
    assert not any(map(os.path.isdir, folders))


def test_any_other_error_of_a_start_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[Any] = []

    def init(**options: Any) -> None:
        starts.append(options)
        raise ValueError("no such option")

    monkeypatch.setattr(session.ray, "init", init)
    with (
        pytest.raises(StageError, match="Ray did not start: no such option"),
        session._explaining_start_errors(None),
        session._own_node(),
    ):
        pass
    assert len(starts) == 1


def test_ray_still_says_so_of_a_node_that_is_late() -> None:
    assert session.LATE_NODE in (Path(session.ray.__file__).parent / "_private/node.py").read_text(encoding="utf-8")
