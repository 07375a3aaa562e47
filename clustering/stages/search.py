"""A collection and vectors/ in, neighbors/ out: the k nearest other texts of every row."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa

from clustering import schema
from clustering.config.sections import SearchSection, StoreSection
from clustering.kernels.memory import GROUP_ROWS
from clustering.kernels.partitions import (
    PARTITION_TEXTS,
    SAMPLE_TEXTS,
    assign_partitions,
    count_partitions,
    order_centers,
)
from clustering.kernels.topk import FloatArray, IntArray
from clustering.milvus.endpoint import Endpoint
from clustering.milvus.query import NeighborQuery, search_params, tune_params
from clustering.runs.directory import RunDir
from clustering.runs.index import IndexWriter, Part, read_index
from clustering.runs.parts import (
    part_names,
    read_rows,
    rows_without_vector,
    stored_vectors,
    vectors_of,
    walk_tables,
    writing_part,
)
from clustering.schema import Figures
from clustering.workers.exact_search import ExactQuery
from clustering.workers.pool import Item, map_parts
from clustering.workers.recall import NO_RECALL, RecallSample, SampleWatch, find_true_neighbors
from clustering.workers.tasks import run_on_one_node

SEARCHERS_PER_NODE = 2


class Searcher:
    """Find the neighbors of parts of vectors/, several requests at a time, and compare the parts with a sample."""

    def __init__(
        self, run: RunDir, endpoint: Endpoint, metric: str, params: dict[str, Any], k: int, centers: FloatArray,
        n_texts: int = 0, sample: SampleWatch | None = None, compares_itself: bool = False,
    ) -> None:  # fmt: skip
        """compares_itself : with all of vectors/, instead of asking the endpoint"""
        self.run, self.centers, self.sample = run, centers, sample
        self.query: NeighborQuery | ExactQuery = (
            ExactQuery(run / "vectors", metric, k)
            if compares_itself
            else NeighborQuery(endpoint, metric, params, k, n_texts)
        )

    def __call__(self, item: Item) -> Item:
        before = self.query.retries
        with ThreadPoolExecutor(self.query.in_flight) as requests, ThreadPoolExecutor(1) as beside:
            part: Part | None = None
            if item.get("done"):
                self.show(item["name"])
            else:
                part = self.search(item["name"], requests, beside)
        found = {} if self.sample is None else {"sample": self.sample.result()}
        queries = 0 if part is None else part.counts["queries"]
        return {"rows": queries, "retries": self.query.retries - before, "part": part, **found}

    def show(self, name: str) -> None:
        """Show the sample a part that has been searched before."""
        assert self.sample is not None
        for table in walk_tables([self.run / "vectors" / name]):
            self.sample.see_vectors(*stored_vectors(table))
        for table in walk_tables([self.run / "neighbors" / name]):
            self.sample.see_lists(table)

    def search(self, name: str, requests: ThreadPoolExecutor, beside: ThreadPoolExecutor) -> Part:
        """Write a part of neighbors/, which the sample sees, too; count its queries, and its short lists."""
        queries = short = 0
        with writing_part(self.run / "neighbors", name) as part:
            for table in walk_tables([self.run / "vectors" / name]):
                seen = beside.submit(self.sample.see_vectors, *stored_vectors(table)) if self.sample else None
                lists, counts = self._lists(table, requests)
                part.write(lists)
                if self.sample and seen:
                    seen.result()
                    self.sample.see_lists(lists)
                queries, short = queries + len(counts), short + int((counts < self.query.k).sum())
        return part.listed(queries=queries, short=short)

    def _lists(self, table: pa.Table, pool: ThreadPoolExecutor) -> tuple[pa.Table, IntArray]:
        """Rows of neighbors/ for rows of vectors/, and the lengths of the lists of those that have a vector."""
        rows, vectors = stored_vectors(table)
        position = rows - table["row"][0].as_py()  # a row without a vector has an empty list, and no partition
        lengths, partitions = np.zeros(len(table), np.int64), np.full(len(table), -1)
        neighbors, distances, counts = self.query.neighbors(rows, vectors, pool.map)
        lengths[position], partitions[position] = counts, assign_partitions(vectors, self.centers)
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
        columns = [
            table["row"],
            pa.ListArray.from_arrays(offsets, pa.array(neighbors)),
            pa.ListArray.from_arrays(offsets, pa.array(distances)),
            pa.array(partitions, pa.int32()),
        ]
        return pa.table(columns, schema=schema.NEIGHBORS), counts


def search_neighbors(
    run: RunDir, endpoint: Endpoint, store: StoreSection, cfg: SearchSection, n_texts: int, seed: int
) -> Figures:
    """Write neighbors/ with the k nearest other texts of every row, ascending, and measure the recall.

    The embedded store is asked where it has an approximate index. Its FLAT compares a query with all vectors on this
    machine's cores, which the workers do five times as fast, with the same neighbors.
    A text without a vector has an empty list and stands in none.
    Returns: k, index, params, queries_per_second, short_rows (fewer than k neighbors), retries, recall with its 95 %
        interval on recall_sample rows, and with search.target_recall the steps towards it.
    Raises: StoreError when the server refuses or stays silent.
    """
    n_vectors = n_texts - rows_without_vector(run / "vectors").size
    k = min(cfg.k, n_vectors - 1)
    params = search_params(cfg, store, n_vectors)
    size = cfg.recall_sample if k else 0
    sample = RecallSample(run, store.metric, k, size, n_texts, seed, store.exact_distances) if size else None
    tuned: Figures = {}
    if sample and cfg.target_recall is not None:
        # Not the rows on which the finished search is measured, but their true neighbors are found in the same pass.
        other = RecallSample(run, store.metric, k, size, n_texts, [seed, 1], store.exact_distances)
        find_true_neighbors(sample, other)
        params, tuned = tune_params(endpoint, store, cfg, k, n_vectors, other)
    started = time.perf_counter()
    done, names = read_index(run / "neighbors"), part_names(run / "vectors")
    todo = [name for name in names if name not in done]
    centers = run_on_one_node(partition_centers, run, n_texts, seed) if todo else None
    compares_itself = store.is_searched_by_workers
    with IndexWriter(run / "neighbors", done) as index:

        def take(result: Item) -> None:
            if part := result.pop("part"):
                index.add(part)
            if sample:
                sample.take(result)

        results = map_parts(
            Searcher, [{"name": name, "done": name in done} for name in (names if sample else todo)],
            actors=cfg.actors, per_node=None if compares_itself else SEARCHERS_PER_NODE, take=take, run=run,
            endpoint=endpoint, metric=store.metric, params=params, k=k, centers=centers, n_texts=n_vectors,
            sample=sample.watch() if sample else None, compares_itself=compares_itself,
        )  # fmt: skip
    seconds = time.perf_counter() - started
    queries = sum(result["rows"] for result in results)
    return {
        "k": k,
        "index": store.index_type,
        "params": params,
        "queries_per_second": round(queries / seconds, 1),
        "short_rows": sum(read_index(run / "neighbors").counts("short")),
        "retries": sum(result["retries"] for result in results),
        **tuned,
        **(sample.figures() if sample else NO_RECALL),
    }


def spread_rows(n_texts: int, n_partitions: int) -> IntArray:
    """The rows of the sample for so many partitions, in as many windows of a row group's length, evenly spaced.

    Whoever reads one row of a row group reads all of it: rows drawn one by one would read nearly all of a large run.
    Returns: int64, shape (SAMPLE_TEXTS * n_partitions,), ascending.
    """
    window = min(GROUP_ROWS, n_texts // n_partitions)
    starts = np.linspace(0, n_texts - window, n_partitions).astype(np.int64)
    rows: IntArray = (starts[:, None] + np.linspace(0, window - 1, SAMPLE_TEXTS).astype(np.int64)).ravel()
    return rows


def partition_centers(run: RunDir, n_texts: int, seed: int, partition_texts: int = PARTITION_TEXTS) -> FloatArray:
    """Centers of coarse partitions of vectors/, found on a sample; fewer where many texts have no vector.

    Returns: float32, shape (n_partitions, dim); shape (1, 0) for a single partition, which needs no center.
    """
    n_partitions = count_partitions(n_texts, partition_texts)
    if n_partitions > 1:
        sample = vectors_of(read_rows(run / "vectors", spread_rows(n_texts, n_partitions), ["vector"]))
        sample = sample[sample.any(axis=1)]
        n_partitions = min(n_partitions, len(sample) // SAMPLE_TEXTS)
    if n_partitions < 2:
        return np.empty((1, 0), np.float32)
    from sklearn.cluster import KMeans  # takes a second, which a small run need not spend

    found = KMeans(n_partitions, n_init=1, max_iter=20, random_state=seed).fit(sample)
    return order_centers(found.cluster_centers_)
