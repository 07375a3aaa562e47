"""Neighbor lists in, one symmetric distance graph out."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from clustering.kernels.threads import in_ranges

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]

# Euclidean distances of unit vectors below this are float32 noise (d^2 = 2 - 2 cos loses 1e-6), and a zero would be
# dropped by scipy and become an infinite lambda: shorter edges get this length.
MIN_DISTANCE = 1e-3


def min_distance(metric: str) -> float:
    """The floor in the metric's own unit: MIN_DISTANCE for L2, the same angle for COSINE and IP."""
    return MIN_DISTANCE if metric == "L2" else MIN_DISTANCE**2 / 2


def undirected_graph(
    rows: IntArray, cols: IntArray, distances: FloatArray, n_texts: int, floor: float = MIN_DISTANCE
) -> csr_array:
    """Join directed neighbor edges into one symmetric distance graph.

    rows, cols : int64, shape (n_edges,), 0 <= end < n_texts
    distances : float32, shape (n_edges,), not negative; shorter than ``floor`` becomes ``floor``
    Returns: float32 csr_array with int64 indices, shape (n_texts, n_texts); the diagonal is empty, columns ascend
        within a row, and [i, j] == [j, i] is the shorter of the two directions.
    Raises: ValueError for an end outside the graph, and for a negative, infinite or NaN distance.
    Source: mutual reachability needs a symmetric distance; McInnes and Healy (2017), arXiv:1705.07321.
    """
    rows, cols = np.asarray(rows, np.int64), np.asarray(cols, np.int64)
    distances = np.asarray(distances, np.float32)
    bad = ~((distances >= 0) & (distances < np.inf))  # written this way round so that NaN counts as bad
    if bad.any():
        e = int(bad.argmax())
        raise ValueError(
            f"{bad.sum()} of {bad.size} distances are negative, infinite or NaN; the first is {distances[e]} on edge "
            f"{rows[e]}-{cols[e]}. Check that the vectors have unit length before they are searched."
        )
    outside = (rows < 0) | (rows >= n_texts) | (cols < 0) | (cols >= n_texts)
    if outside.any():
        e = int(outside.argmax())
        raise ValueError(f"edge {rows[e]}-{cols[e]} leaves the graph of {n_texts} texts; rows run from 0 to n - 1")
    low, high = np.minimum(rows, cols), np.maximum(rows, cols)
    keep = low != high
    key = low[keep] * n_texts + high[keep]  # fits int64 up to 3 billion texts
    distances = distances[keep]
    # scipy adds up entries that share a place, so a mutual edge would count twice: keep the shorter twin.
    order = np.argsort(key, kind="stable")
    key, distances = key[order], distances[order]
    starts = np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]])) if len(key) else np.empty(0, np.int64)
    short = np.maximum(np.minimum.reduceat(distances, starts) if len(key) else distances, np.float32(floor))
    low, high = np.divmod(key[starts], n_texts)
    return symmetric_csr(low, high, short, n_texts)


def symmetric_csr(low: IntArray, high: IntArray, weights: FloatArray, n_texts: int) -> csr_array:
    """The CSR graph that holds each undirected edge in both directions; edges are given once."""
    ends = np.concatenate([low, high]), np.concatenate([high, low])
    order = np.lexsort((ends[1], ends[0]))
    indptr = np.concatenate([[0], np.cumsum(np.bincount(ends[0], minlength=n_texts))]).astype(np.int64)
    data = np.concatenate([weights, weights])[order].astype(np.float32, copy=False)
    return csr_array((data, ends[1][order], indptr), shape=(n_texts, n_texts))


def directed_graph(rows: IntArray, cols: NDArray[Any], distances: FloatArray, n_texts: int, floor: float) -> csr_array:
    """Neighbor lists without entries of a row for itself; of those with the same ends the shortest."""
    other = rows != cols
    rows, cols, distances = rows[other], cols[other], np.maximum(distances[other], np.float32(floor))
    order = np.lexsort((distances, cols, rows))
    rows, cols, distances = rows[order], cols[order], distances[order]
    first = np.ones(rows.size, np.bool_)
    first[1:] = (rows[1:] != rows[:-1]) | (cols[1:] != cols[:-1])
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows[first], minlength=n_texts))])
    return csr_array((distances[first], cols[first], indptr), shape=(n_texts, n_texts))


def has_diagonal(graph: csr_array) -> bool:
    """Whether any row stores an entry for itself."""
    return bool(_has_diagonal(graph.indptr, graph.indices))


@numba.njit(cache=True, nogil=True)
def _has_diagonal(indptr: Any, indices: Any) -> bool:
    for row in range(indptr.size - 1):
        for slot in range(indptr[row], indptr[row + 1]):
            if indices[slot] == row:
                return True
    return False


@numba.njit(cache=True, nogil=True)
def first_bad(distances: Any) -> int:
    """The place of the first distance that is negative, infinite or NaN; -1 where there is none."""
    for place in range(distances.size):
        if not 0 <= distances[place] < np.inf:
            return place
    return -1


def ascending_rows(graph: csr_array) -> tuple[NDArray[Any], FloatArray]:
    """Indices and data of a graph with every row ascending by (distance, index); its own where they are so already."""
    if _ascends(graph.indptr, graph.indices, graph.data):
        return graph.indices, graph.data
    indices, distances = graph.indices.copy(), graph.data.copy()
    in_ranges(graph.shape[0], lambda a, b: _sort_rows(graph.indptr[a : b + 1], indices, distances))
    return indices, distances


@numba.njit(cache=True, nogil=True)
def _ascends(indptr: Any, indices: Any, distances: Any) -> bool:
    for row in range(indptr.size - 1):
        for slot in range(indptr[row] + 1, indptr[row + 1]):
            near, far = distances[slot - 1], distances[slot]
            if far < near or (far == near and indices[slot] < indices[slot - 1]):
                return False
    return True


@numba.njit(cache=True, nogil=True)
def _sort_rows(indptr: Any, indices: Any, distances: Any) -> None:
    for row in range(indptr.size - 1):
        start, stop = indptr[row], indptr[row + 1]
        by_index = np.argsort(indices[start:stop], kind="mergesort")
        order = by_index[np.argsort(distances[start:stop][by_index], kind="mergesort")]
        indices[start:stop], distances[start:stop] = indices[start:stop][order], distances[start:stop][order]
