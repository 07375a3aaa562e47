"""A distance graph in, core distances and the minimum spanning forest of mutual reachability out.

Edges have one strict order (weight, smaller row, larger row), so a set of edges has one forest, bit for bit, in
whatever order and however many parts the edges come.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from clustering.kernels.sort import sort_pairs
from clustering.kernels.threads import run_in_ranges, thread_count

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]
BINS_SHIFT = 16  # the upper 16 bits of a weight are its bin
SMALL_BAND = 1 << 16  # least edges of a band
DEAD = np.uint32(0xFFFFFFFF)  # the bits of an edge that is in the forest or can never be


@dataclass(frozen=True)
class Forest:
    """Edges of a minimum spanning forest, ascending by (distance, left, right); left < right.

    left, right, distance : int64, int64 and float32, shape (n_edges,)
    """

    left: IntArray
    right: IntArray
    distance: FloatArray

    def __len__(self) -> int:
        return int(self.left.size)


def row_dtype(n_rows: int) -> type[np.int32] | type[np.int64]:
    """The smallest of int32 and int64 that can number the rows."""
    return np.int32 if n_rows < 2**31 else np.int64


def row_numbers(n_rows: int) -> NDArray[Any]:
    """The numbers 0 to n_rows - 1: int32 or int64, shape (n_rows,)."""
    return np.arange(n_rows, dtype=row_dtype(n_rows))


def core_distances(graph: csr_array, min_samples: int, weights: NDArray[np.int32] | None = None) -> FloatArray:
    """The distance of every text to its min_samples-th nearest other text, or to its farthest stored one.

    graph : float32 csr_array, shape (n_texts, n_texts), a symmetric graph or neighbor lists; empty diagonal
    weights : int32, shape (n_texts,), records of each text; the core distance is then the smallest radius with
        min_samples other records, where further records of the text itself are at distance 0
    Returns: float32, shape (n_texts,); infinite for a text without edges.
    Source: Campello, Moulavi and Sander (2013).
    """
    data = np.asarray(graph.data, np.float32)
    core = np.full(graph.shape[0], np.inf, np.float32)
    records = np.empty(0, np.int32) if weights is None else weights
    run_in_ranges(
        core.size, lambda a, b: _core_distances(graph.indptr, graph.indices, data, min_samples, records, a, b, core)
    )
    return core


@numba.njit(cache=True, nogil=True)
def _core_distances(
    indptr: Any, indices: Any, data: Any, min_samples: int, weights: Any, first: int, end: int, core: Any
) -> None:
    nearest = np.empty(min_samples, np.float32)
    for row in range(first, end):
        start, stop = indptr[row], indptr[row + 1]
        if weights.size:
            held = weights[row] - 1
            if held >= min_samples:
                core[row] = 0
                continue
            away, copies = data[start:stop].copy(), np.empty(stop - start, np.int32)
            for rank in range(stop - start):
                copies[rank] = weights[indices[start + rank]]
            sort_pairs(away, copies)
            for rank in range(away.size):
                held += copies[rank]
                core[row] = away[rank]
                if held >= min_samples:
                    break
        elif start == stop:
            continue
        else:  # keep the smallest so far, ascending; a list that ascends costs one comparison an entry
            held = 0
            for entry in range(start, stop):
                distance = data[entry]
                if held == min_samples and distance >= nearest[held - 1]:
                    continue
                rank = held if held < min_samples else held - 1
                while rank > 0 and nearest[rank - 1] > distance:
                    nearest[rank] = nearest[rank - 1]
                    rank -= 1
                nearest[rank] = distance
                if held < min_samples:
                    held += 1
            core[row] = nearest[held - 1]


def spanning_forest(
    graph: csr_array, core: FloatArray, *, symmetric: bool = True, rows: NDArray[Any] | None = None
) -> Forest:
    """The minimum spanning forest of mutual reachability max(core_i, core_j, d_ij) over a graph's edges.

    Kruskal's algorithm in bands of weight, lightest first. Edges within a tree of the lighter bands are dropped before
    a band is sorted, so only few more edges than texts are ever sorted.

    graph : float32 csr_array, shape (n_texts, n_texts), not negative; entries on the diagonal are ignored
    core : float32, shape (n_texts,), core distances
    symmetric : True if each edge is stored in both directions, so that one is read; False for neighbor lists
    rows : int32 or int64, shape (n_rows,), only edges stored in these rows count; none: all
    Memory: 4 bytes a stored edge and 90 a text, besides 20 a text for the result.
    Source: Kruskal (1956); mutual reachability, Campello, Moulavi and Sander (2013).
    """
    n_texts = graph.shape[0]
    edges = _Edges(graph, core, symmetric, row_numbers(n_texts) if rows is None else rows)
    tree = row_numbers(n_texts)
    left, right = np.empty(max(n_texts - 1, 0), np.int64), np.empty(max(n_texts - 1, 0), np.int64)
    distance = np.empty(left.size, np.float32)
    found = 0
    band = max(3 * edges.rows.size, SMALL_BAND)
    while True:
        counts = edges.count(tree)
        by_weight = counts.sum(axis=0, dtype=np.int64)
        total = np.cumsum(by_weight)
        if total[-1] == 0:
            break
        # Take all edges up to a weight: as many as a band holds, or one bin if that has more.
        bins = max(int(np.searchsorted(total, band, side="right")), int(np.flatnonzero(by_weight)[0]) + 1)
        weights, ends = _sort(*edges.take(counts, bins))
        found = _grow(weights, ends, tree, left, right, distance, found)
        del weights, ends  # before the next band is made
        flatten(tree)
    return Forest(left[:found], right[:found], distance[:found])


class _Edges:
    """The stored edges of a graph as the bits of their weights; each thread works on a range of rows and its edges."""

    def __init__(self, graph: csr_array, core: FloatArray, symmetric: bool, rows: NDArray[Any]) -> None:
        self.indptr, self.indices, self.rows = graph.indptr, graph.indices, rows
        self.size = max(SMALL_BAND, -(-rows.size // thread_count()))
        stored = self.indptr[rows + 1] - self.indptr[rows]
        starts = range(0, max(rows.size, 1), self.size)
        self.slots = {at: int(stored[:at].sum()) for at in starts}
        self.bits = np.empty(int(stored.sum()), np.uint32)
        del stored
        data = np.asarray(graph.data, np.float32)

        def reach(a: int, b: int) -> None:
            _reach(self.indptr, self.indices, data, core, rows[a:b], symmetric, self.bits[self.slots[a] :])

        run_in_ranges(rows.size, reach, self.size)

    def count(self, tree: NDArray[Any]) -> NDArray[Any]:
        """Drop the edges within a tree; count the others by bin: uint32 or int64, shape (n_ranges, n_bins)."""
        dtype = np.uint32 if self.bits.size < 2**32 else np.int64
        counts = np.zeros((len(self.slots), 1 << (32 - BINS_SHIFT)), dtype)

        def work(a: int, b: int) -> None:
            bits = self.bits[self.slots[a] :]
            _count(self.indptr, self.indices, self.rows[a:b], tree, bits, counts[a // self.size])

        run_in_ranges(self.rows.size, work, self.size)
        return counts

    def take(self, counts: NDArray[Any], bins: int) -> tuple[NDArray[np.uint32], NDArray[np.uint64]]:
        """Remove the edges in the first bins; return the bits of their weights, and both rows packed in one number."""
        upto = np.cumsum(counts[:, :bins].sum(axis=1, dtype=np.int64))
        weights, ends = np.empty(upto[-1], np.uint32), np.empty(upto[-1], np.uint64)
        limit = min(bins << BINS_SHIFT, int(DEAD))

        def work(a: int, b: int) -> None:
            start = int(upto[a // self.size - 1]) if a else 0
            bits = self.bits[self.slots[a] :]
            _collect(self.indptr, self.indices, self.rows[a:b], bits, limit, weights[start:], ends[start:])

        run_in_ranges(self.rows.size, work, self.size)
        return weights, ends


def merge_forests(one: Forest, other: Forest, n_texts: int) -> Forest:
    """The minimum spanning forest of two sets of edges, each ascending; forests of two parts of a graph give that of
    the whole.

    An edge that a part drops is the heaviest of a cycle there, and that cycle is in the whole graph too.
    Memory: 24 bytes a text.
    """
    size = min(len(one) + len(other), max(n_texts - 1, 0))
    left, right, distance = np.empty(size, np.int64), np.empty(size, np.int64), np.empty(size, np.float32)
    found = _merge(
        one.left, one.right, one.distance, other.left, other.right, other.distance, row_numbers(n_texts), left, right,
        distance,
    )  # fmt: skip
    return Forest(left[:found], right[:found], distance[:found])


@numba.njit(cache=True, nogil=True)
def _merge(
    left_a: Any, right_a: Any, distance_a: Any, left_b: Any, right_b: Any, distance_b: Any, tree: Any, left: Any,
    right: Any, distance: Any,
) -> int:  # fmt: skip
    """Kruskal over two ascending sets of edges at once."""
    found, a, b = 0, 0, 0
    while a < left_a.size or b < left_b.size:
        first = b == left_b.size
        if not first and a < left_a.size:
            if distance_a[a] != distance_b[b]:
                first = distance_a[a] < distance_b[b]
            elif left_a[a] != left_b[b]:
                first = left_a[a] < left_b[b]
            else:
                first = right_a[a] <= right_b[b]
        if first:
            low, high, weight = left_a[a], right_a[a], distance_a[a]
            a += 1
        else:
            low, high, weight = left_b[b], right_b[b], distance_b[b]
            b += 1
        root, joined = find_root(tree, low), find_root(tree, high)
        if root != joined:
            tree[max(root, joined)] = min(root, joined)
            left[found], right[found], distance[found] = low, high, weight
            found += 1
    return found


@numba.njit(cache=True, nogil=True)
def _reach(indptr: Any, indices: Any, data: Any, core: Any, rows: Any, symmetric: bool, bits: Any) -> None:
    """The bits of each stored edge's mutual reachability; floats that are not negative sort like their bits."""
    reach = bits.view(np.float32)
    slot = 0
    for row in rows:
        mine = core[row]
        for entry in range(indptr[row], indptr[row + 1]):
            other = indices[entry]
            if other > row or (other < row and not symmetric):
                reach[slot] = max(data[entry], max(mine, core[other]))
            else:
                bits[slot] = DEAD
            slot += 1


@numba.njit(cache=True, nogil=True)
def _count(indptr: Any, indices: Any, rows: Any, tree: Any, bits: Any, counts: Any) -> None:
    """Drop the edges within a tree; count the others by weight."""
    slot = 0
    for row in rows:
        mine = tree[row]
        for entry in range(indptr[row], indptr[row + 1]):
            if bits[slot] != DEAD:
                if tree[indices[entry]] == mine:
                    bits[slot] = DEAD
                else:
                    counts[bits[slot] >> BINS_SHIFT] += 1
            slot += 1


@numba.njit(cache=True, nogil=True)
def _collect(indptr: Any, indices: Any, rows: Any, bits: Any, limit: Any, weights: Any, ends: Any) -> None:
    """Remove the edges below a weight; return the bits of their weights, and both rows packed in one number."""
    slot, position = 0, 0
    for row in rows:
        for entry in range(indptr[row], indptr[row + 1]):
            if bits[slot] < limit:
                other = indices[entry]
                low, high = np.uint64(min(row, other)), np.uint64(max(row, other))
                ends[position] = (low << np.uint64(32)) | high
                weights[position] = bits[slot]
                bits[slot] = DEAD
                position += 1
            slot += 1


@numba.njit(cache=True, nogil=True)
def find_root(tree: Any, node: Any) -> Any:
    """The root of a node's tree; halves the path to it. tree : int32 or int64, shape (n_nodes,), parents"""
    while tree[node] != node:
        tree[node] = tree[tree[node]]
        node = tree[node]
    return node


@numba.njit(cache=True, nogil=True)
def _sort(bits: Any, ends: Any) -> Any:
    """Sort both arrays by ``bits``; a stable radix sort."""
    spare_bits, spare_ends = np.empty_like(bits), np.empty_like(ends)
    counts = np.zeros((3, 2048), np.int64)
    for position in range(bits.size):
        for digit in range(3):
            counts[digit, (bits[position] >> np.uint32(11 * digit)) & np.uint32(2047)] += 1
    for digit in range(3):
        if counts[digit].max() == bits.size:  # all values have the same digit
            continue
        starts = np.cumsum(counts[digit]) - counts[digit]
        for position in range(bits.size):
            value = (bits[position] >> np.uint32(11 * digit)) & np.uint32(2047)
            to = starts[value]
            starts[value] += 1
            spare_bits[to], spare_ends[to] = bits[position], ends[position]
        bits, spare_bits = spare_bits, bits
        ends, spare_ends = spare_ends, ends
    return bits, ends


@numba.njit(cache=True, nogil=True)
def _grow(bits: Any, ends: Any, tree: Any, left: Any, right: Any, distance: Any, found: int) -> int:
    """Kruskal over edges of ascending weight; edges of equal weight are first sorted by their rows."""
    lower = np.uint64(0xFFFFFFFF)
    weights = bits.view(np.float32)
    start = 0
    while start < bits.size:
        stop = start + 1
        while stop < bits.size and bits[stop] == bits[start]:
            stop += 1
        sort_pairs(ends[start:stop], ends[start:stop])
        for edge in range(start, stop):
            if edge > start and ends[edge] == ends[edge - 1]:  # the same edge, listed by its other end
                continue
            low, high = np.int64(ends[edge] >> np.uint64(32)), np.int64(ends[edge] & lower)
            one, other = find_root(tree, low), find_root(tree, high)
            if one != other:
                tree[max(one, other)] = min(one, other)
                left[found], right[found], distance[found] = low, high, weights[start]
                found += 1
        start = stop
    return found


@numba.njit(cache=True, nogil=True)
def flatten(tree: Any) -> None:
    """Point every node at its root, the smallest node of its tree. tree : int32 or int64, shape (n_nodes,), parents"""
    for node in range(tree.size):
        tree[node] = tree[tree[node]]  # smaller nodes are flat already


@numba.njit(cache=True, nogil=True)
def join_components(left: Any, right: Any, component: Any) -> None:
    """Overwrite ``component`` with the smallest row of each row's connected component.

    left, right : int64, shape (n_edges,)
    component : int64, shape (n_rows,), 0 to n_rows - 1 in order, or the result of earlier edges
    """
    for edge in range(left.size):
        one, other = find_root(component, left[edge]), find_root(component, right[edge])
        component[max(one, other)] = min(one, other)
    flatten(component)
