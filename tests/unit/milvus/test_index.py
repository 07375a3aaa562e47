"""index.py: each step is waited for as the server reports it, and a step without progress is named."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import pytest
from pymilvus.grpc_gen import common_pb2, milvus_pb2

from clustering.errors import StoreError
from clustering.milvus import index
from clustering.milvus.endpoint import Endpoint
from clustering.milvus.index import flush, load_collection, merge_segments, release_collection


class FakeChannel:
    """A server whose replies come one after the other, the last one again and again; what it was asked."""

    def __init__(self, **replies: list[Any]) -> None:
        self.endpoint = Endpoint("http://m:1", "texts", stall_s=30, db_name="news")
        self.replies, self.asked = replies, []

    def call(self, method: str, request: Any, timeout_s: float | None = None) -> Any:
        self.asked.append((method, request))
        left = self.replies[method]
        return left.pop(0) if len(left) > 1 else left[0]

    def methods(self) -> list[str]:
        return [method for method, _ in self.asked]


class Client:
    def get_server_version(self) -> str:
        return "v2.3.5"

    def compact(self, name: str) -> int:
        return 7


def segments(*ids: int) -> Any:
    infos = [milvus_pb2.PersistentSegmentInfo(segmentID=one, num_rows=10) for one in ids]
    return milvus_pb2.GetPersistentSegmentInfoResponse(infos=infos)


def merging(completed: int, executing: int = 0) -> Any:
    state = common_pb2.Executing if executing else common_pb2.Completed
    return milvus_pb2.GetCompactionStateResponse(state=state, completedPlanNo=completed, executingPlanNo=executing)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return now


@pytest.fixture
def warned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr(logging.getLogger("covey"), "warning", lambda text, *rest: said.append(text % rest))
    return said


def test_a_merge_is_done_when_the_merged_segment_is_counted() -> None:
    channel = FakeChannel(
        GetPersistentSegmentInfo=[segments(1, 2, 3, 4), segments(1, 2, 3, 4), segments(1, 2, 3, 4), segments(5, 6)],
        GetCompactionState=[merging(0, 2), merging(1, 1), merging(2)],
    )
    assert merge_segments(Client(), channel) is True
    assert channel.methods() == ["GetPersistentSegmentInfo", *3 * ["GetCompactionState"],
                              *3 * ["GetPersistentSegmentInfo"]]  # fmt: skip


def test_what_there_is_nothing_to_merge_of_is_not_waited_for() -> None:
    assert merge_segments(Client(), FakeChannel(GetPersistentSegmentInfo=[segments(1)])) is False
    channel = FakeChannel(GetPersistentSegmentInfo=[segments(1, 2)], GetCompactionState=[merging(0)])
    assert merge_segments(Client(), channel) is False
    assert channel.methods() == ["GetPersistentSegmentInfo", "GetCompactionState"]


def test_a_merge_that_stands_still_is_left_with_a_warning(clock: list[float], warned: list[str]) -> None:
    channel = FakeChannel(GetPersistentSegmentInfo=[segments(1, 2)], GetCompactionState=[merging(0, 1)])
    assert merge_segments(Client(), channel) is False
    (said,) = warned
    assert "merges stand at 0 of 2 for 30 s (store.stall_s)" in said
    assert said.endswith("The search goes on with the segments as they are")
    assert 30 <= clock[0] < 31


def test_a_flush_is_waited_for_by_the_servers_own_word() -> None:
    reply = milvus_pb2.FlushResponse(coll_flush_ts={"texts": 99})
    reply.coll_segIDs["texts"].data.extend([3, 4])
    states = [milvus_pb2.GetFlushStateResponse(flushed=done) for done in (False, False, True)]
    channel = FakeChannel(Flush=[reply], GetFlushState=states)
    flush(channel)
    asked = channel.asked[-1][1]
    assert (list(asked.segmentIDs), asked.flush_ts, asked.db_name) == ([3, 4], 99, "news")
    assert channel.methods() == ["Flush", *3 * ["GetFlushState"]]


@pytest.mark.parametrize(
    ("replies", "wait", "named"),
    [
        ({"Flush": [milvus_pb2.FlushResponse(coll_flush_ts={"texts": 9})],
          "GetFlushState": [milvus_pb2.GetFlushStateResponse()]}, flush, "writes flushed stand at 0 of 1"),
        ({"LoadCollection": [common_pb2.Status()],
          "GetLoadState": [milvus_pb2.GetLoadStateResponse(state=common_pb2.LoadStateLoading)],
          "GetLoadingProgress": [milvus_pb2.GetLoadingProgressResponse(progress=37)]},
         load_collection, "percent loaded stand at 37 of 100"),
    ],
    ids=["flush", "load"],
)  # fmt: skip
def test_what_stands_still_ends_the_stage(
    replies: dict[str, list[Any]], wait: Callable[[Any], None], named: str
) -> None:
    with pytest.raises(StoreError, match=rf"collection texts at http://m:1: {named} for 30 s \(store.stall_s\)"):
        wait(FakeChannel(**replies))


def test_an_index_that_failed_is_told_with_the_servers_reason() -> None:
    failed = milvus_pb2.IndexDescription(
        field_name="vector", state=common_pb2.Failed, index_state_fail_reason="no space left"
    )
    channel = FakeChannel(DescribeIndex=[milvus_pb2.DescribeIndexResponse(index_descriptions=[failed])])
    with pytest.raises(StoreError, match="the index of texts failed: no space left"):
        index._index_progress(channel)


@pytest.mark.parametrize(
    ("indexed", "pending", "done"), [(70, 30, 70), (100, 100, 0), (100, 0, index.DONE), (0, 100, 0)]
)
def test_rows_of_a_merged_segment_wait_for_its_index(indexed: int, pending: int, done: int) -> None:
    """A server counts those of the segments that it is made of as indexed."""
    state = common_pb2.Finished if indexed == 100 else common_pb2.InProgress
    told = milvus_pb2.IndexDescription(state=state, total_rows=100, indexed_rows=indexed, pending_index_rows=pending)
    channel = FakeChannel(DescribeIndex=[milvus_pb2.DescribeIndexResponse(index_descriptions=[told])])
    assert index._index_progress(channel) == done


def test_a_collection_is_released_by_its_name_and_database() -> None:
    channel = FakeChannel(ReleaseCollection=[common_pb2.Status()])
    release_collection(channel)
    ((_, request),) = channel.asked
    assert (request.collection_name, request.db_name) == ("texts", "news")
