"""retry.py and index.wait_until: the same size first, then halves, then the whole again; one clock for the patience."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import chain

import grpc
import numpy as np
import pytest

from clustering.errors import StoreError
from clustering.milvus import retry
from clustering.milvus.channel import Channel
from clustering.milvus.endpoint import Endpoint
from clustering.milvus.index import StalledError, wait_until
from clustering.milvus.loader import Loader
from clustering.milvus.query import NeighborQuery
from clustering.milvus.retry import GROW_AFTER, RequestSize, retry_in_halves
from tests.unit.milvus.test_endpoint import CallError


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that only sleeps and requests move."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return now


def server(clock: list[float], endpoint: Endpoint, slow: Callable[[int, int], bool]) -> tuple[list, Callable]:
    """What asks a server that leaves a request unanswered when ``slow(rows, how many requests before)``."""
    asked: list[tuple[int, int, bool]] = []

    def ask(some: slice, again: bool) -> list[int]:
        asked.append((some.start, some.stop, again))
        if slow(some.stop - some.start, len(asked) - 1):
            clock[0] += endpoint.request_s
            raise CallError("DEADLINE_EXCEEDED")
        clock[0] += 1
        return list(range(some.start, some.stop))

    return asked, ask


def test_a_request_is_first_sent_again_at_the_same_size(clock):
    endpoint, request_size = Endpoint("http://m:1", "texts"), RequestSize(1000)
    asked, ask = server(clock, endpoint, lambda rows, before: before == 0)
    replies, retries = retry_in_halves(endpoint, request_size, 1000, ask)
    assert asked == [(0, 1000, False), (0, 1000, True)]
    assert (list(chain(*replies)), retries, request_size.rows) == (list(range(1000)), 1, 1000)


def test_what_is_too_slow_twice_goes_on_in_halves_in_order(clock):
    endpoint, request_size = Endpoint("http://m:1", "texts"), RequestSize(1000)
    asked, ask = server(clock, endpoint, lambda rows, before: rows > 300)
    endpoint = Endpoint("http://m:1", "texts", patience_s=3000)
    replies, retries = retry_in_halves(endpoint, request_size, 1000, ask)
    assert list(chain(*replies)) == list(range(1000))
    assert asked[:3] == [(0, 1000, False), (0, 1000, True), (0, 500, True)]
    assert len(replies) == 4
    assert request_size.rows == 250
    assert retries == 2 + 2


def test_a_request_grows_back_after_some_that_work():
    request_size = RequestSize(1000)
    request_size.failed(1000)
    request_size.failed(1000)  # the other thread's, sent at the same time
    assert request_size.rows == 500
    for _ in range(2 * GROW_AFTER):
        assert request_size.rows == 500
        request_size.worked()
    assert request_size.rows == 1000
    for _ in range(100):
        request_size.worked()
    assert request_size.rows == 1000


def test_a_server_that_answers_nothing_is_told_after_the_patience(clock):
    """It was 26 minutes: each half had a patience of its own."""
    endpoint, request_size = Endpoint("http://m:1", "texts", patience_s=300), RequestSize(1000)
    _, ask = server(clock, endpoint, lambda rows, before: True)
    with pytest.raises(StoreError, match=r"DEADLINE_EXCEEDED.*tried \d times in 300 s, which is store.patience_s"):
        retry_in_halves(endpoint, request_size, 1000, ask)
    assert 300 <= clock[0] - 1000 <= 300 + endpoint.request_s + 5


@pytest.mark.parametrize("patience_s", [0.5, 30, 300, 5000])
def test_a_server_is_asked_three_times_within_the_patience_and_the_embedded_one_once(patience_s):
    endpoint = Endpoint("http://m:1", "texts", patience_s=patience_s)
    assert endpoint.request_s == min(120, patience_s / 3)
    assert Endpoint("http://127.0.0.1:1", "texts", patience_s=patience_s, home="/x").request_s == patience_s


def test_the_embedded_server_is_never_sent_what_it_still_works_on(clock):
    endpoint, request_size = Endpoint("http://127.0.0.1:1", "texts", patience_s=300, home="/x"), RequestSize(1000)
    asked, ask = server(clock, endpoint, lambda rows, before: True)
    with pytest.raises(StoreError, match=r"tried 1 times in 300 s.*|server.log"):
        retry_in_halves(endpoint, request_size, 1000, ask)
    assert len(asked) == 1


@pytest.mark.parametrize("status", ["DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"])
def test_a_write_that_is_too_large_for_a_server_goes_in_halves(monkeypatch, tmp_path, status):
    """A proxy that takes 4 MiB, as gRPC's own default is, refused a part for the whole patience."""
    sent: list[tuple[str, int]] = []

    def call(self: Channel, method: str, request, timeout_s=None) -> None:
        sent.append((method, request.num_rows))
        if request.ByteSize() > 4 << 20:
            raise CallError(status, "Received message larger than max")

    monkeypatch.setattr(Channel, "call", call)
    loader = Loader(tmp_path, Endpoint("http://m:1", "texts"))
    rows = np.arange(8192)
    assert loader.send(rows, np.ones((8192, 256), np.float32), False) == 2 + 2
    assert sent == [("Insert", 8192), ("Upsert", 8192), ("Upsert", 4096), ("Upsert", 4096)] + 4 * [("Upsert", 2048)]


def test_searches_of_the_embedded_store_are_kept_to_about_a_second():
    def queries(n_texts: int, dim: int, home: str | None = "/x", most: int = 1000) -> int:
        endpoint = Endpoint("http://127.0.0.1:1", "texts", home=home)
        return NeighborQuery(endpoint, "L2", {}, 50, n_texts, most).batch(dim)

    assert queries(3000, 256) == 1000
    assert queries(50_000, 256) == 167
    assert queries(50_000, 1024) == 41
    assert queries(10_000_000, 1024) == 16
    assert queries(50_000, 1024, most=10) == 10
    assert queries(50_000, 1024, home=None) == 1000


def test_what_stands_still_is_named(clock):
    endpoint = Endpoint("http://m:1", "texts", stall_s=60)
    with pytest.raises(StalledError, match=r"texts at http://m:1: rows indexed stand at 120,000 of 1,000,000 for 60 s"):
        wait_until(endpoint, "rows indexed", lambda: 120_000, 1_000_000)
    assert 60 <= clock[0] - 1000 < 62


def test_what_moves_is_waited_for(clock):
    endpoint, steps = Endpoint("http://m:1", "texts", stall_s=60), iter(range(100))

    def progress() -> int:
        clock[0] += 50
        return next(steps)

    wait_until(endpoint, "rows indexed", progress, 99)
    assert clock[0] - 1000 >= 5000


def test_what_is_too_large_is_known():
    assert grpc.StatusCode.RESOURCE_EXHAUSTED in retry.SPLIT_STATUS


def test_a_server_is_waited_for_as_long_as_the_patience_says(clock: list[float]) -> None:
    def attempt(failures: int) -> None:
        raise CallError("UNAVAILABLE")

    with pytest.raises(StoreError, match=r"it was tried 20\d\d times in 10000 s"):
        retry.retry(Endpoint("http://m:1", "texts", patience_s=10_000), attempt)
    assert 11_000 <= clock[0] < 11_010
