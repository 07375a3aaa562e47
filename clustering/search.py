"""A collection and vectors/ in, neighbors/ out: the k nearest other texts of every row."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa

from clustering import schema
from clustering.cells import cell_centers, cells_of
from clustering.config import SearchSection, StoreSection
from clustering.kernels.topk import FloatArray, IntArray, nearest_others, score_distance
from clustering.milvus import Address, Link
from clustering.parts import Item, map_parts, on_worker
from clustering.patience import Pace, paced
from clustering.recall import measure_recall, search_params, tune_params
from clustering.rundir import Figures, RunDir, names_of, parts, rows_without_vector, stored_vectors, write_table
from clustering.storage import read_schema, read_table
from clustering.wire import HIT_BYTES, Hits, search_request

MESSAGE_BYTES = 32 << 20  # of a request or a reply, half of what servers allow
IN_FLIGHT = 2  # requests of an actor that wait for the server at the same time
NOTHING = np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.int64)  # found for no row
# The embedded one takes as long for queries together as one by one, so a request is kept to about a second.
EMBEDDED_PRODUCTS = 1 << 31  # a request, of numbers: queries x stored vectors x dimension
EMBEDDED_QUERIES = 16  # a request, at least
EMBEDDED_IN_FLIGHT = 1


class Asker:
    """Ask a collection for neighbors over a channel of this process's own; threads may share it.

    n_texts : vectors that the collection holds; 0 where it is not known
    """

    def __init__(
        self, address: Address, metric: str, params: dict[str, Any], k: int, queries: int, n_texts: int = 0
    ) -> None:
        self.address, self.metric, self.params, self.k, self.n_texts = address, metric, params, k, n_texts
        self.pace = Pace(queries)
        self.link = Link(address)
        self.seen = False  # whether a request has waited for all that was written; nothing is written any more
        self.retries = 0

    def batch(self, dim: int) -> int:
        """Queries a request: neither it nor its reply comes near a server's limits, nor keeps the embedded one long."""
        most = min(self.pace.rows, MESSAGE_BYTES // ((self.k + 1) * HIT_BYTES), MESSAGE_BYTES // (4 * dim))
        if self.address.embedded and self.n_texts:
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
                self.address.collection, self.address.db_name or "", vectors[some], self.k + 1, self.metric,
                self.params, strong=not self.seen or again,
            )  # fmt: skip
            return self.link.search(request)[0]

        replies, retries = paced(self.address, self.pace, len(rows), ask)
        self.retries += retries
        self.seen = True
        ids, scores, counts = (
            np.concatenate([getattr(hits, name) for hits in replies]) for name in ("ids", "scores", "counts")
        )
        return nearest_others(ids, score_distance(scores, self.metric), counts, rows, self.k)


class Searcher:
    """Find the neighbors of parts of vectors/, several requests at a time."""

    def __init__(
        self,
        run: RunDir,
        address: Address,
        metric: str,
        params: dict[str, Any],
        k: int,
        queries: int,
        centers: FloatArray,
        n_texts: int = 0,
    ) -> None:
        self.run, self.centers = run, centers
        self.asker = Asker(address, metric, params, k, queries, n_texts)
        self.in_flight = EMBEDDED_IN_FLIGHT if address.embedded else IN_FLIGHT

    def __call__(self, item: Item) -> Item:
        before = self.asker.retries
        rows = 0
        with ThreadPoolExecutor(self.in_flight) as pool:
            for name in item["names"]:
                if not (self.run / "neighbors" / name).exists():
                    rows += self.search(name, pool)
        return {"rows": rows, "retries": self.asker.retries - before}

    def search(self, name: str, pool: ThreadPoolExecutor) -> int:
        table = read_table(self.run / "vectors" / name)
        rows, vectors = stored_vectors(table)
        place = rows - table["row"][0].as_py()  # those without a vector have an empty list, and no cell
        lengths, cells = np.zeros(len(table), np.int64), np.full(len(table), -1)
        step = self.asker.batch(vectors.shape[1])
        ranges = [slice(at, at + step) for at in range(0, len(rows), step)]
        found = list(pool.map(lambda some: self.asker.nearest(rows[some], vectors[some]), ranges)) or [NOTHING]
        neighbors, distances, counts = (np.concatenate(part) for part in zip(*found, strict=True))
        lengths[place], cells[place] = counts, cells_of(vectors, self.centers)
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
        columns = [
            table["row"],
            pa.ListArray.from_arrays(offsets, pa.array(neighbors)),
            pa.ListArray.from_arrays(offsets, pa.array(distances)),
            pa.array(cells, pa.int32()),
        ]
        # The count lies beside the part, so that a run in several starts still reports all of them.
        short = {"short": str(int((counts < self.asker.k).sum()))}
        write_table(self.run / "neighbors" / name, pa.table(columns, schema=schema.NEIGHBORS.with_metadata(short)))
        return len(rows)


def search_neighbors(
    run: RunDir, address: Address, store: StoreSection, cfg: SearchSection, n_texts: int, seed: int
) -> Figures:
    """Leave neighbors/ with the k nearest other texts of every row, ascending, and measure the recall.

    A text without a vector has an empty list, and stands in none.
    Returns: k, index, params, queries_per_second, short_rows (fewer than k neighbors), retries, recall with its 95 %
        interval on recall_sample rows, with search.target_recall what was tried for it.
    """
    n_vectors = n_texts - rows_without_vector(run / "vectors").size
    k = min(cfg.k, n_vectors - 1)
    params = search_params(cfg, store, n_vectors)
    tuned: Figures = {}
    if cfg.target_recall is not None:
        params, tuned = tune_params(run, address, store, cfg, n_texts, seed, Asker)
    started = time.perf_counter()
    found = set(names_of(run / "neighbors"))
    todo = [name for name in names_of(run / "vectors") if name not in found]
    centers = on_worker(cell_centers, run, n_texts, seed) if todo else None
    size = min(4, -(-len(todo) // (4 * cfg.actors)))  # parts a call
    results = map_parts(
        Searcher, [{"names": todo[at : at + size]} for at in range(0, len(todo), max(size, 1))],
        actors=cfg.actors, run=run, address=address, metric=store.metric, params=params, k=k,
        queries=cfg.queries_per_request, centers=centers, n_texts=n_vectors,
    )  # fmt: skip
    seconds = time.perf_counter() - started
    short = sum(int(read_schema(path).metadata[b"short"]) for path in parts(run / "neighbors"))
    queries = sum(result["rows"] for result in results)
    figures = {
        "k": k,
        "index": store.index_type,
        "params": params,
        "queries_per_second": round(queries / seconds, 1),
        "short_rows": short,
        "retries": sum(result["retries"] for result in results),
        **tuned,
    }
    recall = measure_recall(run, store.metric, k, cfg.recall_sample, n_texts, seed)
    return {**figures, **recall}
