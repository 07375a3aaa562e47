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


def make_searchable(client: MilvusClient, link: Channel, store: StoreSection, n_vectors: int) -> int | None:
    """Flush once, build the index, merge small segments, load; return the number of segments where it is known.

    Raises: StoreError, also where one of them does not move for ``store.stall_s``.
    """
    flush(link)
    retry(link.address, lambda _: _build_index(client, link, store, n_vectors))
    wait_until(link.address, "rows indexed", lambda: _index_progress(link), n_vectors)
    if not store.embedded:
        merge_segments(client, link)
        wait_until(link.address, "rows indexed", lambda: _index_progress(link), n_vectors)
    load_collection(link)
    return None if store.embedded else len(segments_of(link))


def flush(link: Channel) -> None:
    """Have all that was written put into segments."""
    place = {"db_name": link.address.db_name or ""}
    name = link.address.collection
    request = milvus_pb2.FlushRequest(collection_names=[name], **place)
    reply, _ = retry(link.address, lambda _: link.call("Flush", request, _long(link.address)))
    segments, at = reply.coll_segIDs[name].data, reply.coll_flush_ts[name]
    if not segments and not at:  # the embedded one has nothing to wait for
        return
    asked = milvus_pb2.GetFlushStateRequest(segmentIDs=segments, flush_ts=at, collection_name=name, **place)
    wait_until(link.address, "writes flushed", lambda: int(link.call("GetFlushState", asked).flushed), 1)


def _build_index(client: MilvusClient, link: Channel, store: StoreSection, n_vectors: int) -> None:
    name, address = link.address.collection, link.address
    if client.list_indexes(name):
        return
    params = json.dumps(index_params(store, n_vectors))
    words = {"index_type": store.index_type, "metric_type": store.metric, "params": params}
    request = milvus_pb2.CreateIndexRequest(
        collection_name=name, db_name=address.db_name or "", field_name=VECTOR,
        extra_params=[common_pb2.KeyValuePair(key=key, value=value) for key, value in words.items()],
    )  # fmt: skip
    link.call("CreateIndex", request, _long(address))


def _long(address: Endpoint) -> float:
    """How long to wait for what a server only takes note of, and the embedded one does before it answers."""
    return max(address.request_s, address.stall_s) if address.embedded else address.request_s


def index_params(store: StoreSection, n_vectors: int) -> dict[str, Any]:
    """The index's parameters: the configuration's over the usual ones."""
    usual: dict[str, dict[str, Any]] = {
        "HNSW": {"M": 16, "efConstruction": 200},
        "IVF_FLAT": {"nlist": default_nlist(n_vectors)},
        "IVF_SQ8": {"nlist": default_nlist(n_vectors)},
        "GPU_CAGRA": {"intermediate_graph_degree": 64, "graph_degree": 32},
    }
    return {**usual.get(store.index_type, {}), **store.params}


def _index_progress(link: Channel) -> int:
    """Rows with an index; DONE when all have one."""
    name = link.address.collection
    request = milvus_pb2.DescribeIndexRequest(
        collection_name=name, field_name=VECTOR, db_name=link.address.db_name or ""
    )
    (index,) = link.call("DescribeIndex", request).index_descriptions
    if index.state == common_pb2.Failed:
        raise StoreError(f"the index of {name} failed: {index.index_state_fail_reason or 'no reason given'}")
    if index.state == common_pb2.Finished and index.pending_index_rows <= 0:
        return DONE
    return int(index.indexed_rows)


def segments_of(link: Channel) -> list[tuple[int, int]]:
    """Id and rows of the collection's flushed segments."""
    request = milvus_pb2.GetPersistentSegmentInfoRequest(
        collectionName=link.address.collection, dbName=link.address.db_name or ""
    )
    reply, _ = retry(link.address, lambda _: link.call("GetPersistentSegmentInfo", request))
    return [(info.segmentID, info.num_rows) for info in reply.infos]


def merge_segments(client: MilvusClient, link: Channel) -> bool:
    """Merge segments, because each is searched on its own; to the largest size where the server takes one.

    Servers merge only what has an index, so this comes after it. A merge that does not move is left to the server, with
    a warning: a search of many segments is slower, but not wrong. Returns whether anything was merged.
    """
    name, address = link.address.collection, link.address
    before = {segment for segment, _ in segments_of(link)}
    if len(before) < 2:
        return False
    size = {"target_size": (1 << 63) - 1} if server_version(client) >= FORCE_MERGE else {}
    job, _ = retry(address, lambda _: client.compact(name, **size))
    asked = milvus_pb2.GetCompactionStateRequest(compactionID=job)
    merged = 0

    def merges() -> int:
        nonlocal merged
        reply = link.call("GetCompactionState", asked)
        merged = reply.completedPlanNo
        return DONE if reply.state == common_pb2.Completed else merged

    try:
        wait_until(address, "merges", merges, len(before))
        if merged:  # counted once the merged segment has taken the place of those that it was made of
            wait_until(address, "merged segments", lambda: int({one for one, _ in segments_of(link)} != before), 1)
    except StalledError as error:
        log.warning("%s. The search goes on with the segments as they are", error)
    return merged > 0


def load_collection(link: Channel) -> None:
    """Have the collection held in the memory of the nodes that search; that it is there already does no harm."""
    place = {"collection_name": link.address.collection, "db_name": link.address.db_name or ""}
    request = milvus_pb2.LoadCollectionRequest(replica_number=1, **place)
    retry(link.address, lambda _: link.call("LoadCollection", request, _long(link.address)))
    wait_until(link.address, "percent loaded", lambda: _load_progress(link), 100)


def is_loaded(link: Channel) -> bool:
    """Whether the collection is held in memory, or about to be."""
    return _load_state(link) in (common_pb2.LoadStateLoaded, common_pb2.LoadStateLoading)


def _load_state(link: Channel) -> int:
    place = {"collection_name": link.address.collection, "db_name": link.address.db_name or ""}
    return int(link.call("GetLoadState", milvus_pb2.GetLoadStateRequest(**place)).state)


def _load_progress(link: Channel) -> int:
    if _load_state(link) == common_pb2.LoadStateLoaded:
        return DONE
    place = {"collection_name": link.address.collection, "db_name": link.address.db_name or ""}
    return int(link.call("GetLoadingProgress", milvus_pb2.GetLoadingProgressRequest(**place)).progress)


def release_collection(link: Channel) -> None:
    """Give back the memory that a loaded collection takes; its data and its index stay."""
    place = {"collection_name": link.address.collection, "db_name": link.address.db_name or ""}
    request = milvus_pb2.ReleaseCollectionRequest(**place)
    retry(link.address, lambda _: link.call("ReleaseCollection", request))


def wait_until(address: Endpoint, what: str, progress: Callable[[], int], goal: int) -> None:
    """Wait until progress reaches the goal; who watches is told how far it is.

    Raises: StalledError when it stands still for ``address.stall_s``.
    """
    seen, best, moved = current_stage(), -1, time.monotonic()
    while True:
        done, _ = retry(address, lambda _: progress())
        if done >= goal:
            return
        now = time.monotonic()
        if done != best:  # less than before counts, too: the server has begun anew
            best, moved = done, now
        if now - moved >= address.stall_s:
            raise StalledError(
                f"collection {address.collection} at {address.uri}: {what} stand at {done:,} of {goal:,} for "
                f"{address.stall_s:g} s (store.stall_s). Look at the server's own log; when it goes on, the same "
                f"command does, too"
            )
        if seen:
            seen.step(what, done, goal)
        time.sleep(POLL_S)
