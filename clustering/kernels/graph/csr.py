"""Neighbor lists in, distance graphs with checked and sorted rows out."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from clustering.kernels.sort import sort_pairs
from clustering.kernels.threads import run_in_ranges
from clustering.kernels.topk import FloatArray, IntArray

# Euclidean distances of unit vectors below this are float32 noise (d^2 = 2 - 2 cos loses 1e-6). scipy drops a zero, and
# its lambda would be infinite, so shorter edges get this length.
MIN_DISTANCE = 1e-3


def min_distance(metric: str) -> float:
    """The shortest length of an edge in the metric's unit: MIN_DISTANCE for L2, the same angle for COSINE and IP."""
    return MIN_DISTANCE if metric == "L2" else MIN_DISTANCE**2 / 2


def check_lists(first: int, listed: IntArray, others: NDArray[Any], distances: FloatArray, n_texts: int) -> None:
    """Check neighbor lists of consecutive rows.

    first : the first row; listed : int64, shape (n_rows,), entries of each row's list
    others : int32 or int64, shape (n_entries,), 0 <= row < n_texts, the lists one after another
    distances : float32, shape (n_entries,), not negative
    Raises: ValueError for a row outside the graph, and for a negative, infinite or NaN distance.
    """
    ends = np.cumsum(listed)
    if (entry := first_invalid(distances)) >= 0:
        row = first + np.searchsorted(ends, entry, side="right")
        bad = ~((distances >= 0) & (distances < np.inf))  # written this way round so that NaN counts as bad
        raise ValueError(
            f"{bad.sum()} of {bad.size} distances are negative, infinite or NaN; the first is {distances[entry]} on "
            f"edge {row}-{others[entry]}. Check that the vectors have unit length before they are searched."
        )
    if others.size and not 0 <= others.min() <= others.max() < n_texts:
        entry = int(((others < 0) | (others >= n_texts)).argmax())
        row = first + np.searchsorted(ends, entry, side="right")
        raise ValueError(f"edge {row}-{others[entry]} leaves the graph of {n_texts} texts; rows run from 0 to n - 1")


Incoming = tuple[NDArray[Any], NDArray[Any], FloatArray]


def join_directions(
    lists: tuple[IntArray, NDArray[Any], FloatArray],
    rows: IntArray,
    positions: NDArray[Any],
    first: int,
    incoming: list[Incoming],
    floor: float,
) -> tuple[IntArray, NDArray[Any], FloatArray]:
    """Join the neighbor lists of some rows, and those of other rows that name them, into rows of a symmetric graph.

    lists : indptr (int64), indices (int32 or int64) and distances (float32) of the rows' own lists, as in scipy
    rows : int64, shape (n_rows,), their numbers in the whole graph
    positions : int32 or int64, shape (n_texts,), for each row of the whole graph ``first`` and its position in
        ``rows``, added; another row's number is less than ``first``, or not less than ``first`` + n_rows
    incoming : entries of other rows' lists: the position of the row that they name (int32 or int64), the row that lists
        it (of the dtype of the lists' indices) and the distance (float32), each of shape (n_entries,)
    floor : shorter distances become this
    Returns: indptr (int64), indices and data (float32) of the rows. No row lists itself, columns ascend within a row,
        and an edge has the shorter of its two directions.
    Memory: 16 bytes a listed and 8 an incoming entry, and 40 a row.
    Source: mutual reachability needs a symmetric distance; McInnes and Healy (2017), arXiv:1705.07321.
    """
    # Each edge is written into the rows of both ends; then each row is sorted, and its duplicates become one entry.
    counts = np.zeros(rows.size, np.int64)
    _count_lists(*lists[:2], rows, positions, first, counts)
    for ends, _, _ in incoming:
        _count_ends(ends, counts)
    indptr = np.concatenate([[0], np.cumsum(counts)])
    del counts
    indices, data = np.empty(indptr[-1], lists[1].dtype), np.empty(indptr[-1], np.float32)
    slots, least = indptr[:-1].copy(), np.float32(floor)
    _fill_lists(*lists, rows, positions, first, least, slots, indices, data)
    for ends, sources, distances in incoming:
        _fill_ends(ends, sources, distances, least, slots, indices, data)
    del slots
    kept = np.empty(rows.size, np.int64)
    run_in_ranges(rows.size, lambda start, stop: _merge_duplicates(indptr, indices, data, kept, start, stop))
    starts = np.concatenate([[0], np.cumsum(kept)])
    _close_gaps(indptr, starts, indices, data)
    return starts, indices[: starts[-1]], data[: starts[-1]]


@numba.njit(cache=True)
def _count_lists(indptr: Any, others: Any, rows: Any, positions: Any, first: int, counts: Any) -> None:
    for row in range(rows.size):
        for entry in range(indptr[row], indptr[row + 1]):
            if others[entry] != rows[row]:
                counts[row] += 1
                to = positions[others[entry]] - first
                if 0 <= to < rows.size:
                    counts[to] += 1


@numba.njit(cache=True)
def _count_ends(ends: Any, counts: Any) -> None:
    for entry in range(ends.size):
        counts[ends[entry]] += 1


@numba.njit(cache=True)
def _fill_lists(
    indptr: Any, others: Any, distances: Any, rows: Any, positions: Any, first: int, floor: Any, slots: Any,
    indices: Any, data: Any,
) -> None:  # fmt: skip
    for row in range(rows.size):
        for entry in range(indptr[row], indptr[row + 1]):
            other = others[entry]
            if other == rows[row]:
                continue
            distance = max(distances[entry], floor)
            indices[slots[row]], data[slots[row]] = other, distance
            slots[row] += 1
            to = positions[other] - first
            if 0 <= to < rows.size:
                indices[slots[to]], data[slots[to]] = rows[row], distance
                slots[to] += 1


@numba.njit(cache=True)
def _fill_ends(ends: Any, sources: Any, distances: Any, floor: Any, slots: Any, indices: Any, data: Any) -> None:
    for entry in range(ends.size):
        slot = slots[ends[entry]]
        indices[slot], data[slot] = sources[entry], max(distances[entry], floor)
        slots[ends[entry]] = slot + 1


@numba.njit(cache=True, nogil=True)
def _merge_duplicates(indptr: Any, indices: Any, data: Any, kept: Any, first: int, last: int) -> None:
    """Sort rows by index; of entries with equal index keep the shortest, moved to the start of the row."""
    for row in range(first, last):
        start, stop = indptr[row], indptr[row + 1]
        sort_pairs(indices[start:stop], data[start:stop])
        at = start
        for entry in range(start, stop):
            if at == start or indices[at - 1] != indices[entry]:  # the shortest of an index comes first
                indices[at], data[at] = indices[entry], data[entry]
                at += 1
        kept[row] = at - start


@numba.njit(cache=True)
def _close_gaps(indptr: Any, starts: Any, indices: Any, data: Any) -> None:
    for row in range(starts.size - 1):
        for entry in range(starts[row + 1] - starts[row]):
            indices[starts[row] + entry] = indices[indptr[row] + entry]
            data[starts[row] + entry] = data[indptr[row] + entry]


def directed_graph(rows: IntArray, cols: NDArray[Any], distances: FloatArray, n_texts: int, floor: float) -> csr_array:
    """Turn neighbor lists into a directed graph without self-edges, where duplicate edges become the shortest.

    rows, cols : int64, shape (n_entries,), the row that an entry belongs to, and its neighbor
    distances : float32, shape (n_entries,), not negative; shorter than ``floor`` becomes ``floor``
    Returns: float32 csr_array, shape (n_texts, n_texts); columns ascend within a row.
    """
    other = rows != cols
    rows, cols, distances = rows[other], cols[other], np.maximum(distances[other], np.float32(floor))
    order = np.lexsort((distances, cols, rows))
    rows, cols, distances = rows[order], cols[order], distances[order]
    first = np.ones(rows.size, np.bool_)
    first[1:] = (rows[1:] != rows[:-1]) | (cols[1:] != cols[:-1])
    return join_rows(rows[first], cols[first], distances[first], n_texts)


def join_rows(rows: NDArray[Any], cols: NDArray[Any], distances: FloatArray, n_rows: int) -> csr_array:
    """Make a directed graph of edges that ascend by row.

    rows, cols, distances : int32 or int64, and float32, shape (n_edges,). Returns: csr_array, shape (n_rows, n_rows).
    """
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=n_rows))])
    return csr_array((distances, cols, indptr), shape=(n_rows, n_rows))


@numba.njit(cache=True, nogil=True)
def has_diagonal(indptr: Any, indices: Any) -> bool:
    """Whether any row stores an entry for itself.

    indptr, indices : int32 or int64, shapes (n_rows + 1,) and (n_entries,), as in scipy
    """
    for row in range(indptr.size - 1):
        for slot in range(indptr[row], indptr[row + 1]):
            if indices[slot] == row:
                return True
    return False


@numba.njit(cache=True, nogil=True)
def has_duplicates(indptr: Any, indices: Any) -> bool:
    """Whether any row stores two entries for one other row. indptr, indices : int, shapes as in ``has_diagonal``"""
    last = np.full(indptr.size - 1, -1, np.int64)  # the last row with an entry for each column
    for row in range(indptr.size - 1):
        for slot in range(indptr[row], indptr[row + 1]):
            if last[indices[slot]] == row:
                return True
            last[indices[slot]] = row
    return False


@numba.njit(cache=True, nogil=True)
def first_invalid(distances: Any) -> int:
    """The position of the first distance that is negative, infinite or NaN; -1 if there is none.

    distances : float32, shape (n_entries,)
    """
    for position in range(distances.size):
        if not 0 <= distances[position] < np.inf:
            return position
    return -1


def ascending_rows(graph: csr_array) -> tuple[NDArray[Any], FloatArray]:
    """Indices and data of a graph with every row ascending by (distance, index).

    graph : float32 csr_array, shape (n_rows, n_rows)
    Returns: indices of the graph's dtype and distances float32, shape (n_entries,); the graph's own arrays if its rows
        ascend already.
    """
    if _ascends(graph.indptr, graph.indices, graph.data):
        return graph.indices, graph.data
    indices, distances = graph.indices.copy(), graph.data.copy()
    run_in_ranges(graph.shape[0], lambda a, b: _sort_rows(graph.indptr[a : b + 1], indices, distances))
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
        sort_pairs(distances[start:stop], indices[start:stop])
