"""Vectors in, their nearest entities out; the search's parameters, also those that reach a target recall."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from clustering.config.sections import SEARCH_PARAMS, SearchSection, StoreSection
from clustering.kernels.topk import FloatArray, IntArray, Neighbors, nearest_others, score_distance
from clustering.milvus.channel import Channel
from clustering.milvus.endpoint import Endpoint
from clustering.milvus.index import nlist_of
from clustering.milvus.protocol import HIT_BYTES, Hits, search_request
from clustering.milvus.retry import RequestSize, retry_in_halves
from clustering.schema import Figures
from clustering.workers.recall import RecallSample

log = logging.getLogger("covey")
MESSAGE_BYTES = 32 << 20  # of a request or a reply, half of what servers allow
QUERIES = 1000  # a request, at most
IN_FLIGHT = 2  # requests of an actor that wait for the server at the same time
# The embedded server gains nothing from queries that come together, so a request is kept to about a second.
EMBEDDED_PRODUCTS = 1 << 31  # numbers multiplied for a request: queries x stored vectors x dimension
EMBEDDED_QUERIES = 16  # a request, at least
EMBEDDED_IN_FLIGHT = 1
GROWTH = 1.5  # of a parameter from one step of the tuning to the next
STANDARD_ERRORS = 1.645  # by which a sample's recall must exceed the target: 95 % one-sided


class NeighborQuery:
    """Ask a collection for neighbors over a channel of this process's own; threads may share it.

    n_texts : vectors that the collection holds; 0 where it is not known
    """

    def __init__(
        self, endpoint: Endpoint, metric: str, params: dict[str, Any], k: int, n_texts: int = 0, queries: int = QUERIES
    ) -> None:
        self.endpoint, self.metric, self.params, self.k, self.n_texts = endpoint, metric, params, k, n_texts
        self.request_size = RequestSize(queries)
        self.in_flight = EMBEDDED_IN_FLIGHT if endpoint.embedded else IN_FLIGHT
        self.channel = Channel(endpoint)
        self.waited = False  # whether a request has waited for all earlier writes; none follow
        self.retries = 0

    def batch(self, dim: int) -> int:
        """Queries a request: few enough for a server's limits on messages, and for the embedded one's time."""
        most = min(self.request_size.rows, MESSAGE_BYTES // ((self.k + 1) * HIT_BYTES), MESSAGE_BYTES // (4 * dim))
        if self.endpoint.embedded and self.n_texts:
            most = min(most, max(EMBEDDED_QUERIES, EMBEDDED_PRODUCTS // (self.n_texts * dim)))
        return max(1, most)

    def nearest(self, rows: IntArray, vectors: FloatArray) -> Neighbors:
        """The k nearest other rows of some rows.

        rows : int64, shape (n,); vectors : float32, shape (n, dim)
        Returns: neighbors int64 and distances float32 (see ``score_distance``), one entry a neighbor, ascending within
            each row; their number for each row, int64, shape (n,).
        Raises: StoreError as ``retry`` does.
        """

        def ask(part: slice, again: bool) -> Hits:
            # A server that was away may have loaded the collection anew.
            request = search_request(
                vectors=vectors[part], limit=self.k + 1, metric=self.metric, params=self.params,
                strong=not self.waited or again, vector_type=self.endpoint.vector_type, **self.endpoint.target,
            )  # fmt: skip
            return self.channel.search(request)

        replies, retries = retry_in_halves(self.endpoint, self.request_size, len(rows), ask)
        self.retries += retries
        self.waited = True
        ids, scores, counts = (
            np.concatenate([getattr(hits, name) for hits in replies]) for name in ("ids", "scores", "counts")
        )
        return nearest_others(ids, score_distance(scores, self.metric), counts, rows, self.k)

    def neighbors(
        self, rows: IntArray, vectors: FloatArray, map_batches: Callable[..., Iterable[Neighbors]] = map
    ) -> Neighbors:
        """What ``nearest`` returns, for any number of rows: one request a batch.

        rows : int64, shape (n,); vectors : float32, shape (n, dim)
        map_batches : ``map``, or that of a pool of threads
        """
        size = self.batch(vectors.shape[1])
        batches = [slice(at, at + size) for at in range(0, len(rows), size)]
        found = list(map_batches(lambda batch: self.nearest(rows[batch], vectors[batch]), batches))
        if not found:
            return np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.int64)
        neighbors, distances, counts = (np.concatenate(part) for part in zip(*found, strict=True))
        return neighbors, distances, counts


def search_params(cfg: SearchSection, store: StoreSection, n_texts: int) -> dict[str, Any]:
    """The search's parameters: the configuration's over the index's defaults; nprobe is nlist at most."""
    k = min(cfg.k, n_texts - 1)
    nlist = nlist_of(store, n_texts)
    defaults: dict[str, dict[str, Any]] = {
        "HNSW": {"ef": max(2 * (k + 1), 64)},
        "IVF_FLAT": {"nprobe": max(nlist // 16, 8)},
        "IVF_SQ8": {"nprobe": max(nlist // 16, 8)},
        "HNSW_SQ": {"ef": max(2 * (k + 1), 64)},
        "DISKANN": {"search_list": max(2 * (k + 1), 100)},
        "GPU_CAGRA": {"itopk_size": max(2 * (k + 1), 128)},
    }
    params = {**defaults.get(store.index_type, {}), **cfg.params}
    return params | ({"nprobe": min(params["nprobe"], nlist)} if "nprobe" in params else {})


def tune_params(
    endpoint: Endpoint, store: StoreSection, cfg: SearchSection, k: int, n_texts: int, sample: RecallSample
) -> tuple[dict[str, Any], Figures]:
    """Raise the index's parameter step by step until a sample's recall exceeds ``cfg.target_recall``.

    The rows are not those on which the finished search is measured. A step is enough when the sample's mean exceeds the
    target by so many standard errors that it is 95 % sure. The configured value, if any, is where the steps begin.

    n_texts : with a vector; sample : with its true neighbors
    Returns: the parameters, and target_recall, target_reached and the steps with the recall of each.
    """
    (key, (_, most)), *_ = SEARCH_PARAMS[store.index_type].items()
    start = 8 if key == "nprobe" else k + 1
    most = min(most, nlist_of(store, n_texts) if key == "nprobe" else max(n_texts, start))
    value = min(int(cfg.params.get(key, start)), most)
    steps: list[dict[str, float]] = []
    target = float(cfg.target_recall or 0)
    while True:
        params = {**cfg.params, key: value}
        query = NeighborQuery(endpoint, store.metric, params, k, n_texts)
        with query.channel:
            shares = sample.shares(*query.neighbors(sample.rows, sample.vectors))
        recall, error = float(shares.mean()), float(shares.std()) / math.sqrt(len(shares))
        steps.append({key: value, "recall": round(recall, 5)})
        reached = recall - STANDARD_ERRORS * error >= target
        if reached or value == most:
            break
        value = min(most, max(value + 1, math.ceil(value * GROWTH)))
    log.info("search: %s=%d for a recall of %.4f on %d rows (target %g)", key, value, recall, len(shares), target)
    if not reached:
        log.warning("search: recall %.4f stays below the target %g with the largest %s=%d", recall, target, key, value)
    return params, {"target_recall": target, "target_reached": reached, "target_steps": steps}
