"""nodes.Wish: what the autoscaler is asked for."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from clustering.workers.nodes import Wish, log


def test_an_autoscaler_that_cannot_be_asked_ends_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[dict[str, float]]] = []
    told: list[str] = []

    class Told(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append(record.getMessage())

    def refuse(bundles: Any) -> None:
        asked.append(bundles)
        raise AttributeError("no client")

    monkeypatch.setattr("ray.autoscaler.sdk.request_resources", refuse)
    handler = Told()
    log.addHandler(handler)
    try:
        wish = Wish({"CPU": 2.0})
        wish.ask(2)
        wish.ask(2)
        wish.ask(0)
    finally:
        log.removeHandler(handler)
    assert asked == [[{"CPU": 2.0}] * 2, []]
    assert told == ["the autoscaler cannot be asked for nodes (no client); those that are up do the work"] * 2
