"""session.py: what a run raises comes out as it is; only where Ray is gone does its end take the place."""

from __future__ import annotations

import time

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


@pytest.mark.parametrize(("failures", "timeout_s"), [(3, 60), (10**9, 0.3)])
def test_a_node_may_take_longer_to_register_than_ray_waits(
    failures: int, timeout_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def get_node(gcs_address: str, node_id: str) -> str:
        asked.append(node_id)
        if len(asked) <= failures:
            raise RuntimeError("no node info")
        return f"node {node_id}"

    monkeypatch.setattr(session.services, "get_node", get_node)
    monkeypatch.setattr(session, "START_TIMEOUT_S", timeout_s)
    with session._waiting_for_node():
        if failures == 3:
            assert session.services.get_node("127.0.0.1:6379", "a1") == "node a1"
            assert asked == ["a1"] * 4
        else:
            with pytest.raises(RuntimeError, match="no node info"):
                session.services.get_node("127.0.0.1:6379", "a1")
    assert session.services.get_node is get_node
