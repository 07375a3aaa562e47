"""nodes.Wish: what the autoscaler is asked for."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import ray

from clustering.workers import nodes
from clustering.workers.nodes import Wish, log, withdrawing_wishes

Bundles = list[dict[str, float]]


@pytest.fixture
def told() -> Iterator[list[str]]:
    found: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: found.append(record.getMessage())  # type: ignore[method-assign]
    log.addHandler(handler)
    yield found
    log.removeHandler(handler)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Bundles]:
    """What the autoscaler is asked for, where Ray is there and has two nodes."""
    found: list[Bundles] = []
    monkeypatch.setattr("ray.autoscaler.sdk.request_resources", lambda bundles: found.append(bundles))
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    return found


def test_an_autoscaler_that_cannot_be_asked_ends_no_run_and_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, told: list[str]
) -> None:
    asked: list[Bundles] = []

    def refuse(bundles: Any) -> None:
        asked.append(bundles)
        if len(asked) < 3:
            raise AttributeError("no client")

    monkeypatch.setattr("ray.autoscaler.sdk.request_resources", refuse)
    wish = Wish({"CPU": 2.0})
    for _ in range(4):
        wish.ask(2)
    wish.ask(0)
    assert asked == [[{"CPU": 2.0}] * 2] * 3 + [[]]
    assert told == ["the autoscaler cannot be asked for nodes (no client); those that are up do the work"]


def test_a_request_that_may_have_come_through_is_withdrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Bundles] = []

    def answer_late(bundles: Any) -> None:
        asked.append(bundles)
        raise TimeoutError

    monkeypatch.setattr("ray.autoscaler.sdk.request_resources", answer_late)
    wish = Wish({"CPU": 2.0})
    wish.ask(2)
    wish.ask(0)
    assert asked[-1] == []


def test_what_a_killed_task_has_asked_for_is_withdrawn_and_a_pools_wish_stays(asked: list[Bundles]) -> None:
    pool = Wish({"CPU": 1.0})
    pool.ask(3)
    with pytest.raises(KeyboardInterrupt), withdrawing_wishes():
        raise KeyboardInterrupt
    pool.ask(0)
    assert asked == [[{"CPU": 1.0}] * 3] * 2 + [[]]


def test_a_wish_is_sent_again_after_a_while(asked: list[Bundles], monkeypatch: pytest.MonkeyPatch) -> None:
    """Another job's request may have taken its place."""
    pool = Wish({"CPU": 1.0})
    for _ in range(3):
        pool.ask(1)
    monkeypatch.setattr(nodes, "RENEW_S", 0)
    pool.renewed = 0
    pool.ask(1)
    pool.ask(0)
    pool.ask(0)
    assert asked == [[{"CPU": 1.0}], [{"CPU": 1.0}], []]


def test_what_ends_well_asks_nobody(asked: list[Bundles], monkeypatch: pytest.MonkeyPatch) -> None:
    with withdrawing_wishes():
        pass
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(ValueError, match="no texts"), withdrawing_wishes():
        raise ValueError("no texts")
    assert asked == []
