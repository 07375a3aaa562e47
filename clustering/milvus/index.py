"""A collection with all its rows in; the same one flushed, indexed, merged and loaded out, each step waited for."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from typing import Any

from pymilvus import MilvusClient
from pymilvus.grpc_gen import common_pb2, milvus_pb2

from clustering.config.sections import StoreSection
from clustering.errors import StoreError
from clustering.milvus.channel import Channel, default_nlist, server_version
from clustering.milvus.endpoint import Endpoint
from clustering.milvus.protocol import VECTOR
from clustering.milvus.retry import retry
from clustering.monitoring.progress import current_stage

log = logging.getLogger("covey")
POLL_S = 0.3
DONE = 1 << 62  # more than any goal
FORCE_MERGE = (2, 6, 14)  # the first server that merges segments to a size it is given


class StalledError(StoreError):
    """What a server works on does not move."""


def make_searchable(client: MilvusClient, channel: Channel, store: StoreSection, n_vectors: int) -> int | None:
    """Flush once, build the index, merge small segments, load; return the number of segments where it is known.

    Raises: StoreError, also where one of them does not move for ``store.stall_s``.
    """
    flush(channel)
    retry(channel.endpoint, lambda _: _build_index(client, channel, store, n_vectors))
    wait_until(channel.endpoint, "rows indexed", lambda: _index_progress(channel), n_vectors)
    if not store.embedded:
        merge_segments(client, channel)
        wait_until(channel.endpoint, "rows indexed", lambda: _index_progress(channel), n_vectors)
    load_collection(channel)
    return None if store.embedded else len(list_segments(channel))


def flush(channel: Channel) -> None:
    """Have all that was written put into segments."""
    place = {"db_name": channel.endpoint.db_name or ""}
    name = channel.endpoint.collection
    request = milvus_pb2.FlushRequest(collection_names=[name], **place)
    reply, _ = retry(channel.endpoint, lambda _: channel.call("Flush", request, _long(channel.endpoint)))
    segments, at = reply.coll_segIDs[name].data, reply.coll_flush_ts[name]
    if not segments and not at:  # the embedded one has nothing to wait for
        return
    asked = milvus_pb2.GetFlushStateRequest(segmentIDs=segments, flush_ts=at, collection_name=name, **place)
    wait_until(channel.endpoint, "writes flushed", lambda: int(channel.call("GetFlushState", asked).flushed), 1)


def _build_index(client: MilvusClient, channel: Channel, store: StoreSection, n_vectors: int) -> None:
    name, endpoint = channel.endpoint.collection, channel.endpoint
    if client.list_indexes(name):
        return
    params = json.dumps(index_params(store, n_vectors))
    words = {"index_type": store.index_type, "metric_type": store.metric, "params": params}
    request = milvus_pb2.CreateIndexRequest(
        collection_name=name, db_name=endpoint.db_name or "", field_name=VECTOR,
        extra_params=[common_pb2.KeyValuePair(key=key, value=value) for key, value in words.items()],
    )  # fmt: skip
    channel.call("CreateIndex", request, _long(endpoint))


def _long(endpoint: Endpoint) -> float:
    """How long to wait for what a server only takes note of, and the embedded one does before it answers."""
    return max(endpoint.request_s, endpoint.stall_s) if endpoint.embedded else endpoint.request_s


def index_params(store: StoreSection, n_vectors: int) -> dict[str, Any]:
    """The index's parameters: the configuration's over the usual ones."""
    usual: dict[str, dict[str, Any]] = {
        "HNSW": {"M": 16, "efConstruction": 200},
        "IVF_FLAT": {"nlist": default_nlist(n_vectors)},
        "IVF_SQ8": {"nlist": default_nlist(n_vectors)},
        "GPU_CAGRA": {"intermediate_graph_degree": 64, "graph_degree": 32},
    }
    return {**usual.get(store.index_type, {}), **store.params}


def _index_progress(channel: Channel) -> int:
    """Rows with an index; DONE when all have one."""
    name = channel.endpoint.collection
    request = milvus_pb2.DescribeIndexRequest(
        collection_name=name, field_name=VECTOR, db_name=channel.endpoint.db_name or ""
    )
    (index,) = channel.call("DescribeIndex", request).index_descriptions
    if index.state == common_pb2.Failed:
        raise StoreError(f"the index of {name} failed: {index.index_state_fail_reason or 'no reason given'}")
    if index.state == common_pb2.Finished and index.pending_index_rows <= 0:
        return DONE
    return int(index.indexed_rows)


def list_segments(channel: Channel) -> list[tuple[int, int]]:
    """Id and rows of the collection's flushed segments."""
    request = milvus_pb2.GetPersistentSegmentInfoRequest(
        collectionName=channel.endpoint.collection, dbName=channel.endpoint.db_name or ""
    )
    reply, _ = retry(channel.endpoint, lambda _: channel.call("GetPersistentSegmentInfo", request))
    return [(info.segmentID, info.num_rows) for info in reply.infos]


def merge_segments(client: MilvusClient, channel: Channel) -> bool:
    """Merge segments, because each is searched on its own; to the largest size where the server takes one.

    Servers merge only what has an index, so this comes after it. A merge that does not move is left to the server, with
    a warning: a search of many segments is slower, but not wrong. Returns whether anything was merged.
    """
    name, endpoint = channel.endpoint.collection, channel.endpoint
    before = {segment for segment, _ in list_segments(channel)}
    if len(before) < 2:
        return False
    size = {"target_size": (1 << 63) - 1} if server_version(client) >= FORCE_MERGE else {}
    job, _ = retry(endpoint, lambda _: client.compact(name, **size))
    asked = milvus_pb2.GetCompactionStateRequest(compactionID=job)
    merged = 0

    def merges() -> int:
        nonlocal merged
        reply = channel.call("GetCompactionState", asked)
        merged = reply.completedPlanNo
        return DONE if reply.state == common_pb2.Completed else merged

    try:
        wait_until(endpoint, "merges", merges, len(before))
        if merged:  # counted once the merged segment has taken the place of those that it was made of
            wait_until(
                endpoint, "merged segments", lambda: int({one for one, _ in list_segments(channel)} != before), 1
            )
    except StalledError as error:
        log.warning("%s. The search goes on with the segments as they are", error)
    return merged > 0


def load_collection(channel: Channel) -> None:
    """Have the collection held in the memory of the nodes that search; that it is there already does no harm."""
    place = {"collection_name": channel.endpoint.collection, "db_name": channel.endpoint.db_name or ""}
    request = milvus_pb2.LoadCollectionRequest(replica_number=1, **place)
    retry(channel.endpoint, lambda _: channel.call("LoadCollection", request, _long(channel.endpoint)))
    wait_until(channel.endpoint, "percent loaded", lambda: _load_progress(channel), 100)


def is_loaded(channel: Channel) -> bool:
    """Whether the collection is held in memory, or about to be."""
    return _load_state(channel) in (common_pb2.LoadStateLoaded, common_pb2.LoadStateLoading)


def _load_state(channel: Channel) -> int:
    place = {"collection_name": channel.endpoint.collection, "db_name": channel.endpoint.db_name or ""}
    return int(channel.call("GetLoadState", milvus_pb2.GetLoadStateRequest(**place)).state)


def _load_progress(channel: Channel) -> int:
    if _load_state(channel) == common_pb2.LoadStateLoaded:
        return DONE
    place = {"collection_name": channel.endpoint.collection, "db_name": channel.endpoint.db_name or ""}
    return int(channel.call("GetLoadingProgress", milvus_pb2.GetLoadingProgressRequest(**place)).progress)


def release_collection(channel: Channel) -> None:
    """Give back the memory that a loaded collection takes; its data and its index stay."""
    place = {"collection_name": channel.endpoint.collection, "db_name": channel.endpoint.db_name or ""}
    request = milvus_pb2.ReleaseCollectionRequest(**place)
    retry(channel.endpoint, lambda _: channel.call("ReleaseCollection", request))


def wait_until(endpoint: Endpoint, what: str, progress: Callable[[], int], goal: int) -> None:
    """Wait until progress reaches the goal; who watches is told how far it is.

    Raises: StalledError when it stands still for ``address.stall_s``.
    """
    seen, best, moved = current_stage(), -1, time.monotonic()
    while True:
        done, _ = retry(endpoint, lambda _: progress())
        if done >= goal:
            return
        now = time.monotonic()
        if done != best:  # less than before counts, too: the server has begun anew
            best, moved = done, now
        if now - moved >= endpoint.stall_s:
            raise StalledError(
                f"{endpoint}: {what} stand at {done:,} of {goal:,} for "
                f"{endpoint.stall_s:g} s (store.stall_s). Look at the server's own log; when it goes on, the same "
                f"command does, too"
            )
        if seen:
            seen.step(what, done, goal)
        time.sleep(POLL_S)
