"""Vectors in, their nearest entities out; parameters of the index, and those that reach a recall."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from clustering.config.sections import SEARCH_PARAMS, SearchSection, StoreSection
from clustering.kernels.topk import FloatArray, IntArray, nearest_others, score_distance
from clustering.milvus.channel import Channel, default_nlist
from clustering.milvus.endpoint import Endpoint
from clustering.milvus.protocol import HIT_BYTES, Hits, search_request
from clustering.milvus.retry import RequestSize, retry_in_halves
from clustering.runs.directory import RunDir
from clustering.schema import Figures
from clustering.workers.recall import RecallSample

MESSAGE_BYTES = 32 << 20  # of a request or a reply, half of what servers allow
IN_FLIGHT = 2  # requests of an actor that wait for the server at the same time
# The embedded one takes as long for queries together as one by one, so a request is kept to about a second.
EMBEDDED_PRODUCTS = 1 << 31  # a request, of numbers: queries x stored vectors x dimension
EMBEDDED_QUERIES = 16  # a request, at least
EMBEDDED_IN_FLIGHT = 1


class NeighborQuery:
    """Ask a collection for neighbors over a channel of this process's own; threads may share it.

    n_texts : vectors that the collection holds; 0 where it is not known
    """

    def __init__(
        self, endpoint: Endpoint, metric: str, params: dict[str, Any], k: int, queries: int, n_texts: int = 0
    ) -> None:
        self.endpoint, self.metric, self.params, self.k, self.n_texts = endpoint, metric, params, k, n_texts
        self.request_size = RequestSize(queries)
        self.channel = Channel(endpoint)
        self.seen = False  # whether a request has waited for all that was written; nothing is written any more
        self.retries = 0

    def batch(self, dim: int) -> int:
        """Queries a request: neither it nor its reply comes near a server's limits, nor keeps the embedded one long."""
        most = min(self.request_size.rows, MESSAGE_BYTES // ((self.k + 1) * HIT_BYTES), MESSAGE_BYTES // (4 * dim))
        if self.endpoint.embedded and self.n_texts:
            most = min(most, max(EMBEDDED_QUERIES, EMBEDDED_PRODUCTS // (self.n_texts * dim)))
        return max(1, most)

    def nearest(self, rows: IntArray, vectors: FloatArray) -> tuple[IntArray, FloatArray, IntArray]:
        """The k nearest other rows of some rows.

        rows : int64, shape (n,); vectors : float32, shape (n, dim)
        Returns: neighbors int64 and distances float32, one entry a neighbor, ascending within each row; their number
            for each row, shape (n,).
        """

        def ask(some: slice, again: bool) -> Hits:
            # A server that has been away may have loaded the collection anew.
            request = search_request(
                self.endpoint.collection, self.endpoint.db_name or "", vectors[some], self.k + 1, self.metric,
                self.params, strong=not self.seen or again,
            )  # fmt: skip
            return self.channel.search(request)[0]

        replies, retries = retry_in_halves(self.endpoint, self.request_size, len(rows), ask)
        self.retries += retries
        self.seen = True
        ids, scores, counts = (
            np.concatenate([getattr(hits, name) for hits in replies]) for name in ("ids", "scores", "counts")
        )
        return nearest_others(ids, score_distance(scores, self.metric), counts, rows, self.k)


log = logging.getLogger("covey")
STEP = 1.5  # by which a parameter grows
SURE = 1.645  # standard errors by which a sample must exceed the target: 95 % one-sided


def search_params(cfg: SearchSection, store: StoreSection, n_texts: int) -> dict[str, Any]:
    """The search's parameters: the configuration's over the usual ones for the index; nprobe is nlist at most."""
    k = min(cfg.k, n_texts - 1)
    nlist = nlist_of(store, n_texts)
    usual: dict[str, dict[str, Any]] = {
        "HNSW": {"ef": max(2 * (k + 1), 64)},
        "IVF_FLAT": {"nprobe": max(nlist // 16, 8)},
        "IVF_SQ8": {"nprobe": max(nlist // 16, 8)},
        "DISKANN": {"search_list": max(2 * (k + 1), 100)},
        "GPU_CAGRA": {"itopk_size": max(2 * (k + 1), 128)},
    }
    params = {**usual.get(store.index_type, {}), **cfg.params}
    return params | ({"nprobe": min(params["nprobe"], nlist)} if "nprobe" in params else {})


def nlist_of(store: StoreSection, n_texts: int) -> int:
    return int(store.params.get("nlist", default_nlist(n_texts)))


def tune_params(
    run: RunDir,
    endpoint: Endpoint,
    store: StoreSection,
    cfg: SearchSection,
    n_texts: int,
    seed: int,
    make: Callable[..., Any],
) -> tuple[dict[str, Any], Figures]:
    """Raise the index's parameter step by step until a sample's recall exceeds ``cfg.target_recall``.

    The rows are not those on which the finished search is measured. A step is enough when the sample's mean exceeds the
    target by as many standard errors as make it 95 % sure. The configured value, if any, is where the steps begin.
    make : builds what asks the collection, ``search.Asker``
    Returns: the parameters, and target_recall, target_reached and the steps with the recall of each.
    """
    k = min(cfg.k, n_texts - 1)
    (key, (_, most)), *_ = SEARCH_PARAMS[store.index_type].items()
    start = 8 if key == "nprobe" else k + 1
    most = min(most, nlist_of(store, n_texts) if key == "nprobe" else max(n_texts, start))
    value = min(int(cfg.params.get(key, start)), most)
    sample = RecallSample(run, store.metric, k, cfg.recall_sample, n_texts, [seed, 1])
    steps: list[dict[str, float]] = []
    target = float(cfg.target_recall or 0)
    while True:
        params = {**cfg.params, key: value}
        asker = make(endpoint, store.metric, params, k, cfg.queries_per_request, n_texts)
        step = asker.batch(sample.vectors.shape[1])
        with asker.channel:
            found = [
                asker.nearest(sample.rows[at : at + step], sample.vectors[at : at + step])
                for at in range(0, len(sample.rows), step)
            ]
        _, distances, counts = (np.concatenate(part) for part in zip(*found, strict=True))
        shares = sample.shares(distances, counts)
        recall, error = float(shares.mean()), float(shares.std()) / math.sqrt(len(shares))
        steps.append({key: value, "recall": round(recall, 5)})
        reached = recall - SURE * error >= target
        if reached or value == most:
            break
        value = min(most, max(value + 1, math.ceil(value * STEP)))
    log.info("search: %s=%d for a recall of %.4f on %d rows (target %g)", key, value, recall, len(shares), target)
    if not reached:
        log.warning("search: recall %.4f stays below the target %g with the largest %s=%d", recall, target, key, value)
    return params, {"target_recall": target, "target_reached": reached, "target_steps": steps}
