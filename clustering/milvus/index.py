"""A filled collection in; the same one flushed, indexed, merged and loaded into memory out, each step waited for."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from pymilvus import MilvusClient
from pymilvus.grpc_gen import common_pb2, milvus_pb2

from clustering.config.sections import StoreSection
from clustering.errors import StoreError
from clustering.milvus.channel import Channel
from clustering.milvus.endpoint import Endpoint, server_version
from clustering.milvus.protocol import VECTOR
from clustering.milvus.retry import retry
from clustering.monitoring.progress import current_stage

log = logging.getLogger("covey")
POLL_S = 0.3
DONE = 1 << 62  # more than any goal
FLAT: Final = "FLAT"  # the index while segments are merged
FORCE_MERGE = (2, 6, 14)  # the first server that merges segments to a given size


class StalledError(StoreError):
    """The server's work on a collection makes no progress."""


def make_searchable(client: MilvusClient, channel: Channel, store: StoreSection, n_vectors: int) -> int | None:
    """Flush once, merge small segments, build the index, load; return the number of segments where it is known.

    Servers merge only what has an index. A flat one costs nothing, so that what is merged is indexed only once; some
    servers offer AUTOINDEX alone. Segments with the wanted index stay as they are: a server asked to merge them may
    write each of them anew, and index all again.

    Raises: StoreError, also where a step makes no progress for ``store.stall_s``.
    """
    flush(channel)
    if not store.embedded and not _has_index(client, channel, store) and len(list_segments(channel)) > 1:
        first = store if store.index_type == "AUTOINDEX" else replace(store, index=FLAT, params={})
        _index_and_wait(client, channel, first, n_vectors)
        merge_segments(client, channel)
    _index_and_wait(client, channel, store, n_vectors)
    load_collection(channel)
    return None if store.embedded else len(list_segments(channel))


def flush(channel: Channel) -> None:
    """Have all writes put into segments."""
    endpoint, name = channel.endpoint, channel.endpoint.collection
    request = milvus_pb2.FlushRequest(collection_names=[name], db_name=endpoint.db_name or "")
    reply, _ = retry(endpoint, lambda _: channel.call("Flush", request, _slow_call_s(endpoint)))
    segments, at = reply.coll_segIDs[name].data, reply.coll_flush_ts[name]
    if not segments and not at:  # the embedded server has nothing to wait for
        return
    state = milvus_pb2.GetFlushStateRequest(segmentIDs=segments, flush_ts=at, **endpoint.target)
    wait_until(endpoint, "writes flushed", lambda: int(channel.call("GetFlushState", state).flushed), 1)


def _index_and_wait(client: MilvusClient, channel: Channel, store: StoreSection, n_vectors: int) -> None:
    retry(channel.endpoint, lambda _: _build_index(client, channel, store, n_vectors))
    wait_until(channel.endpoint, "rows indexed", lambda: _index_progress(channel), n_vectors)


def _has_index(client: MilvusClient, channel: Channel, store: StoreSection) -> bool:
    """Whether the collection has the wanted index, which an earlier start has asked for."""
    name = channel.endpoint.collection

    def kinds() -> list[str]:
        return [client.describe_index(name, index)["index_type"] for index in client.list_indexes(name)]

    return store.index_type in retry(channel.endpoint, lambda _: kinds())[0]


def _build_index(client: MilvusClient, channel: Channel, store: StoreSection, n_vectors: int) -> None:
    """Ask for the index, unless there is one; that of the merging gives way."""
    name = channel.endpoint.collection
    for index in client.list_indexes(name):
        kind = client.describe_index(name, index)["index_type"]
        if kind == store.index_type or kind != FLAT:
            return
        client.release_collection(name)
        client.drop_index(name, index)
    params = json.dumps(index_params(store, n_vectors))
    options = {"index_type": store.index_type, "metric_type": store.metric, "params": params}
    request = milvus_pb2.CreateIndexRequest(
        field_name=VECTOR, **channel.endpoint.target,
        extra_params=[common_pb2.KeyValuePair(key=key, value=value) for key, value in options.items()],
    )  # fmt: skip
    channel.call("CreateIndex", request, _slow_call_s(channel.endpoint))


def _slow_call_s(endpoint: Endpoint) -> float:
    """Timeout of work that a server only takes note of, but that the embedded one finishes before it replies."""
    return max(endpoint.request_s, endpoint.stall_s) if endpoint.embedded else endpoint.request_s


def index_params(store: StoreSection, n_vectors: int) -> dict[str, Any]:
    """The index's parameters: the configuration's over the defaults."""
    defaults: dict[str, dict[str, Any]] = {
        "HNSW": {"M": 16, "efConstruction": 200},
        "HNSW_SQ": {"M": 16, "efConstruction": 200, "sq_type": "SQ8"},
        "IVF_FLAT": {"nlist": nlist_of(store, n_vectors)},
        "IVF_SQ8": {"nlist": nlist_of(store, n_vectors)},
        "GPU_CAGRA": {"intermediate_graph_degree": 64, "graph_degree": 32},
    }
    return {**defaults.get(store.index_type, {}), **store.params}


def nlist_of(store: StoreSection, n_vectors: int) -> int:
    """The configured number of an IVF index's lists; else 4 sqrt(n), as Milvus advises, within its bounds."""
    return int(store.params.get("nlist", min(max(4 * n_vectors**0.5, 16), 65_536)))


def _index_progress(channel: Channel) -> int:
    """Rows with an index, without those of merged segments that wait for theirs; DONE when all have one."""
    request = milvus_pb2.DescribeIndexRequest(field_name=VECTOR, **channel.endpoint.target)
    (index,) = channel.call("DescribeIndex", request).index_descriptions
    if index.state == common_pb2.Failed:
        reason = index.index_state_fail_reason or "no reason given"
        raise StoreError(f"the index of {channel.endpoint.collection} failed: {reason}")
    if index.state == common_pb2.Finished and index.pending_index_rows <= 0:
        return DONE
    return int(min(index.indexed_rows, index.total_rows - index.pending_index_rows))


def list_segments(channel: Channel) -> set[int]:
    """The ids of the collection's flushed segments."""
    request = milvus_pb2.GetPersistentSegmentInfoRequest(
        collectionName=channel.endpoint.collection, dbName=channel.endpoint.db_name or ""
    )
    reply, _ = retry(channel.endpoint, lambda _: channel.call("GetPersistentSegmentInfo", request))
    return {info.segmentID for info in reply.infos}


def merge_segments(client: MilvusClient, channel: Channel) -> bool:
    """Merge segments, because each is searched on its own; to the largest size where the server takes one.

    Servers merge only what has an index, so this comes after it. A merge that makes no progress is left to the server,
    with a warning: a search of many segments is slower, but not wrong. Returns whether anything was merged.
    """
    endpoint = channel.endpoint
    before = list_segments(channel)
    if len(before) < 2:
        return False
    size = {"target_size": (1 << 63) - 1} if server_version(client) >= FORCE_MERGE else {}
    job, _ = retry(endpoint, lambda _: client.compact(endpoint.collection, **size))
    request = milvus_pb2.GetCompactionStateRequest(compactionID=job)
    merged = 0

    def merges() -> int:
        nonlocal merged
        reply = channel.call("GetCompactionState", request)
        merged = reply.completedPlanNo
        return DONE if reply.state == common_pb2.Completed else merged

    try:
        wait_until(endpoint, "merges", merges, len(before))
        if merged:  # until the merged segment has replaced those that it was made of
            wait_until(endpoint, "merged segments", lambda: int(list_segments(channel) != before), 1)
    except StalledError as error:
        log.warning("%s. The search goes on with the segments as they are", error)
    return merged > 0


def load_collection(channel: Channel) -> None:
    """Have the collection held in the memory of the nodes that search; one that is loaded stays so."""
    endpoint = channel.endpoint
    request = milvus_pb2.LoadCollectionRequest(replica_number=endpoint.replicas, **endpoint.target)
    retry(endpoint, lambda _: channel.call("LoadCollection", request, _slow_call_s(endpoint)))
    wait_until(endpoint, "percent loaded", lambda: _load_progress(channel), 100)


def is_loaded(channel: Channel) -> bool:
    """Whether the collection is held in memory, or about to be."""
    return _load_state(channel) in (common_pb2.LoadStateLoaded, common_pb2.LoadStateLoading)


def _load_state(channel: Channel) -> int:
    return int(channel.call("GetLoadState", milvus_pb2.GetLoadStateRequest(**channel.endpoint.target)).state)


def _load_progress(channel: Channel) -> int:
    if _load_state(channel) == common_pb2.LoadStateLoaded:
        return DONE
    request = milvus_pb2.GetLoadingProgressRequest(**channel.endpoint.target)
    return int(channel.call("GetLoadingProgress", request).progress)


def release_collection(channel: Channel) -> None:
    """Free the memory of a loaded collection; its data and its index stay."""
    request = milvus_pb2.ReleaseCollectionRequest(**channel.endpoint.target)
    retry(channel.endpoint, lambda _: channel.call("ReleaseCollection", request))


def wait_until(endpoint: Endpoint, what: str, progress: Callable[[], int], goal: int) -> None:
    """Wait until progress reaches the goal, and show it as the stage's progress.

    Raises: StalledError when it does not change for ``endpoint.stall_s``.
    """
    stage, last, changed = current_stage(), -1, time.monotonic()
    while True:
        done, _ = retry(endpoint, lambda _: progress())
        if done >= goal:
            return
        now = time.monotonic()
        if done != last:  # a decrease counts, too: the server has begun anew
            last, changed = done, now
        if now - changed >= endpoint.stall_s:
            raise StalledError(
                f"{endpoint}: {what} stand at {done:,} of {goal:,} for {endpoint.stall_s:g} s (store.stall_s). Look at "
                f"the server's own log; when it goes on, the same command does, too"
            )
        if stage:
            stage.step(what, done, goal)
        time.sleep(POLL_S)
