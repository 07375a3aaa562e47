"""Queries and vectors/ in, their true nearest neighbors out, by matrix products over blocks on Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import ray

from clustering.kernels.graph.repair import OutsideSearch, nearest_outside
from clustering.kernels.topk import (
    FloatArray,
    IntArray,
    Neighbors,
    Score,
    TopK,
    dot_distance,
    inner_products,
    minus_squares,
    nearest_others,
)
from clustering.runs.parts import parts, read_rows, stored_vectors, vectors_of, walk_tables
from clustering.runs.storage import Location
from clustering.workers.nodes import cluster_cpus
from clustering.workers.tasks import collect, submit

Queries = tuple[FloatArray, IntArray]  # vectors and rows
QUERIES = 16384  # whose vectors go to the tasks at a time
IN_FLIGHT = 256  # tasks at most
BLOCK_BYTES = 64 << 20  # of distances that a task computes at a time
QUERY_ROWS = 1024  # whose products with a row group are taken at a time
SPARE = 8  # neighbors beyond k that are compared: rounding may put a few of them before the k-th
ROUNDED = 1e-6  # by which the inner products of two float32 unit vectors of 1,024 numbers may be off, together
CACHE_BYTES = 1 << 18  # of differences at a time


def exact_neighbors(folder: Location, queries: FloatArray, query_rows: IntArray, k: int) -> tuple[IntArray, FloatArray]:
    """The k nearest rows of each query among all texts that have a vector.

    folder : vectors/
    queries : float32, shape (n_queries, dim), unit length
    query_rows : int64, shape (n_queries,); a query's own row is no neighbor of it; -1 for a text that is not stored
    Returns: rows (int64) and inner products (float32), shape (n_queries, k), nearest first; -1 and -inf where fewer
        texts have a vector
    """
    shared = ray.put((queries, query_rows))
    best, owner = TopK(len(queries), k), np.repeat(np.arange(len(queries)), k)
    for rows, dots in map_unordered(_part_neighbors, [(path, shared, k) for path in parts(folder)]):
        best.merge(owner, rows.ravel(), dots.ravel())
    return best.rows, best.dots


class ExactQuery:
    """Ask vectors/ for neighbors: this process compares the queries with all of them. Asked as a NeighborQuery is.

    A brute-force server of the same machine has the same cores, and no matrix products.
    """

    in_flight = 1
    retries = 0

    def __init__(self, folder: Location, metric: str, k: int) -> None:
        self.folder, self.metric, self.k = folder, metric, k

    def neighbors(self, rows: IntArray, vectors: FloatArray, _: Callable[..., Iterable[Any]] = map) -> Neighbors:
        """The k nearest other rows of some rows; arguments and results are those of ``NeighborQuery.neighbors``."""
        if not len(rows):
            return np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.int64)
        found, dots = self._scan(rows, vectors, inner_products)
        last = dots[:, -1]  # where it is as near as the k-th but for rounding, products do not tell which k are nearest
        crowded = np.flatnonzero(np.isfinite(last) & (last >= dots[:, self.k - 1] - ROUNDED))
        if crowded.size:
            found[crowded] = self._scan(rows[crowded], vectors[crowded], minus_squares)[0]
        known = found >= 0
        ids, counts = found[known], known.sum(axis=1)
        return nearest_others(ids, self._distances(vectors, np.nonzero(known)[0], ids), counts, rows, self.k)

    def _scan(self, rows: IntArray, vectors: FloatArray, score: Score) -> tuple[IntArray, FloatArray]:
        """Rows and scores of the stored vectors with the largest scores, k and a few; see ``TopK``."""
        starts = range(0, len(rows), QUERY_ROWS)
        best = [TopK(min(QUERY_ROWS, len(rows) - at), self.k + SPARE, score) for at in starts]
        for table in walk_tables(parts(self.folder)):
            stored, block = stored_vectors(table)
            for at, nearest in zip(starts, best, strict=True):
                some = slice(at, at + QUERY_ROWS)
                nearest.scan(vectors[some], rows[some], stored, block)
        return np.concatenate([one.rows for one in best]), np.concatenate([one.dots for one in best])

    def _distances(self, vectors: FloatArray, owner: IntArray, ids: IntArray) -> FloatArray:
        """The distance of some vectors from stored ones, by the length of their difference.

        It has more digits than 1 - an inner product, and it is the same whatever else is compared in the call: how a
        matrix product rounds depends on the product's shape.
        """
        squares, row_bytes = np.empty(len(ids), np.float32), 4 * vectors.shape[1]
        step, few = max(1, BLOCK_BYTES // row_bytes), max(1, CACHE_BYTES // row_bytes)
        others, position = np.unique(ids, return_inverse=True)
        order = np.argsort(position, kind="stable")
        for first in range(0, len(others), step):
            stored = vectors_of(read_rows(self.folder, others[first : first + step], ["vector"]))
            start, stop = np.searchsorted(position, (first, first + step), sorter=order)
            for at in range(start, stop, few):
                pairs = order[at : min(at + few, stop)]
                apart = vectors[owner[pairs]] - stored[position[pairs] - first]
                squares[pairs] = np.vecdot(apart, apart)
        return np.sqrt(squares, out=squares) if self.metric == "L2" else squares / np.float32(2)


def map_unordered(work: Callable[..., Any], calls: list[tuple[Any, ...]]) -> Iterator[Any]:
    """Call ``work`` with each tuple of arguments in Ray tasks, and yield the results as they come.

    Two tasks a core of the cluster run or wait at a time, so that the driver holds few results.
    """
    calls = list(reversed(calls))
    pending: list[Any] = []
    while calls or pending:
        most = min(2 * cluster_cpus(), IN_FLIGHT)
        while calls and len(pending) < most:
            pending.append(submit(work, *calls.pop()))
        (done,), pending = ray.wait(pending, num_returns=1)
        yield collect(ray.get(done))


def outside_search(
    folder: Location, core: FloatArray, metric: str, floor: float, longest: float | None = None
) -> OutsideSearch:
    """A function that finds the nearest text of another piece by mutual reachability, exactly.

    folder : vectors/
    core : float32, shape (n_texts,), core distances
    floor : shorter distances count as this
    longest : farther texts are no neighbors
    Returns: a function of rows and the piece of every text, see ``OutsideSearch``
    """
    cores = ray.put(core)

    def nearest(rows: IntArray, piece: IntArray) -> tuple[IntArray, FloatArray]:
        other, reach = np.full(rows.size, -1, np.int64), np.full(rows.size, np.inf, np.float32)
        pieces = ray.put(piece)
        for at in range(0, rows.size, QUERIES):
            some = slice(at, at + QUERIES)
            shared = ray.put((vectors_of(read_rows(folder, rows[some], ["vector"])), rows[some]))
            calls = [(path, shared, cores, pieces, metric, floor, longest) for path in parts(folder)]
            for found, away in map_unordered(_block_outside, calls):
                nearer = (away < reach[some]) | ((away == reach[some]) & (found < other[some]))
                other[some][nearer], reach[some][nearer] = found[nearer], away[nearer]
        other[np.isinf(reach)] = -1
        return other, reach

    return nearest


def _block_outside(
    path: Location, shared: Queries, core: FloatArray, piece: IntArray, metric: str, floor: float, longest: float | None
) -> tuple[IntArray, FloatArray]:
    _, rows = shared
    other, reach = np.full(rows.size, -1), np.full(rows.size, np.inf, np.float32)
    for table in walk_tables([path]):
        stored, block = stored_vectors(table)
        if stored.size:
            found, away = _nearest_outside(stored, block, shared, core, piece, metric, floor, longest)
            nearer = away < reach  # rows ascend: of equally near ones the first stays
            other[nearer], reach[nearer] = found[nearer], away[nearer]
    return other, reach


def _nearest_outside(
    stored: IntArray, block: FloatArray, shared: Queries, core: FloatArray, piece: IntArray, metric: str, floor: float,
    longest: float | None,
) -> tuple[IntArray, FloatArray]:  # fmt: skip
    queries, rows = shared
    step = max(1, BLOCK_BYTES // (4 * len(stored)))
    found = []
    for at in range(0, len(rows), step):
        some = rows[at : at + step]
        away = np.maximum(dot_distance(queries[at : at + step] @ block.T, metric), np.float32(floor))
        if longest is not None:
            away[away > np.float32(longest)] = np.inf
        found.append(nearest_outside(away, core[some], core[stored], piece[some], piece[stored]))
    position, reach = (np.concatenate(part) for part in zip(*found, strict=True))
    return stored[position], reach


def _part_neighbors(path: Location, shared: Queries, k: int) -> tuple[IntArray, FloatArray]:
    queries, query_rows = shared
    best = TopK(len(queries), k)
    for table in walk_tables([path]):
        best.scan(queries, query_rows, *stored_vectors(table))
    return best.rows, best.dots
