"""A distance graph in; core distances and the minimum spanning forest of mutual reachability out.

Edges have one strict order (weight, smaller row, larger row), so a set of edges has one forest, bit for bit, whatever
the order or the number of parts in which the edges come.
"""

from __future__ import annotations

from collections.abc import Sequence
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
BINS_SHIFT = 16  # weights are told apart by their upper 16 bits when they are shared out in bands
SMALL_BAND = 1 << 16
DEAD = np.uint32(0xFFFFFFFF)  # an edge that is in the forest, or can never be


@dataclass(frozen=True)
class Forest:
    """Edges of a minimum spanning forest, ascending by (distance, left, right); left < right.

    left, right : int64; distance : float32; all of shape (n_edges,)
    """

    left: IntArray
    right: IntArray
    distance: FloatArray

    def __len__(self) -> int:
        return int(self.left.size)


def row_dtype(n_rows: int) -> type[np.int32] | type[np.int64]:
    """32 bits where those are enough to number the rows."""
    return np.int32 if n_rows < 2**31 else np.int64


def row_numbers(n_rows: int) -> NDArray[Any]:
    """0 to n_rows - 1."""
    return np.arange(n_rows, dtype=row_dtype(n_rows))


def core_distances(graph: csr_array, min_samples: int, weights: NDArray[np.int32] | None = None) -> FloatArray:
    """Distance of every text to its min_samples-th other text; to its farthest stored one where there are fewer.

    graph : float32 csr_array, shape (n_texts, n_texts), a symmetric graph or neighbor lists; empty diagonal
    weights : int32, shape (n_texts,), records a text; then the smallest radius that holds min_samples other records,
        the text's own further records among them at distance 0
    Returns: float32, shape (n_texts,); infinite for a text without edges.
    Source: Campello, Moulavi and Sander (2013).
    """
    none = np.empty(0, np.int32)
    data = np.asarray(graph.data, np.float32)
    core = np.full(graph.shape[0], np.inf, np.float32)
    held = none if weights is None else weights
    run_in_ranges(
        core.size, lambda a, b: _core_distances(graph.indptr, graph.indices, data, min_samples, held, a, b, core)
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
            for place in range(stop - start):
                copies[place] = weights[indices[start + place]]
            sort_pairs(away, copies)
            for place in range(away.size):
                held += copies[place]
                core[row] = away[place]
                if held >= min_samples:
                    break
        elif start == stop:
            continue
        else:  # keep the smallest so far, ascending; lists that ascend themselves cost one comparison an entry
            held = 0
            for entry in range(start, stop):
                distance = data[entry]
                if held == min_samples and distance >= nearest[held - 1]:
                    continue
                place = held if held < min_samples else held - 1
                while place > 0 and nearest[place - 1] > distance:
                    nearest[place] = nearest[place - 1]
                    place -= 1
                nearest[place] = distance
                if held < min_samples:
                    held += 1
            core[row] = nearest[held - 1]


def spanning_forest(
    graph: csr_array, core: FloatArray, *, symmetric: bool = True, rows: IntArray | None = None
) -> Forest:
    """The minimum spanning forest of mutual reachability max(core_i, core_j, d_ij) over a graph's edges.

    Kruskal's algorithm in bands of weight, lightest first: edges within a tree of the lighter bands are dropped before
    they are sorted, so that few more edges than texts ever are.

    graph : float32 csr_array, shape (n_texts, n_texts), not negative; entries on the diagonal are ignored
    symmetric : whether each edge is stored in both directions (then one is read); else in one or both, as in lists
    rows : only the edges that are stored in these rows; none: all
    Memory: 4 bytes a stored edge and 90 a text, besides the result of 20 a text.
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
        # Edges up to a weight: as many as a band takes, or all of one bin where that is more.
        bins = max(int(np.searchsorted(total, band, side="right")), int(np.flatnonzero(by_weight)[0]) + 1)
        weights, ends = _sort(*edges.take(counts, bins))
        found = _grow(weights, ends, tree, left, right, distance, found)
        del weights, ends  # before the next band is made
        flatten(tree)
    return Forest(left[:found], right[:found], distance[:found])


class _Edges:
    """A graph's stored edges as the bits of their weights. Threads work on ranges of rows, so on ranges of slots."""

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
        """Drop the edges within a tree; shape (n_ranges, n_bins), how many of the others have which upper bits."""
        dtype = np.uint32 if self.bits.size < 2**32 else np.int64
        counts = np.zeros((len(self.slots), 1 << (32 - BINS_SHIFT)), dtype)

        def work(a: int, b: int) -> None:
            bits = self.bits[self.slots[a] :]
            _count(self.indptr, self.indices, self.rows[a:b], tree, bits, counts[a // self.size])

        run_in_ranges(self.rows.size, work, self.size)
        return counts

    def take(self, counts: NDArray[Any], bins: int) -> tuple[NDArray[np.uint32], NDArray[np.uint64]]:
        """Take out the edges in the first bins: the weights' bits, and both rows in one number."""
        upto = np.cumsum(counts[:, :bins].sum(axis=1, dtype=np.int64))
        weights, ends = np.empty(upto[-1], np.uint32), np.empty(upto[-1], np.uint64)
        limit = min(bins << BINS_SHIFT, int(DEAD))

        def work(a: int, b: int) -> None:
            place = int(upto[a // self.size - 1]) if a else 0
            bits = self.bits[self.slots[a] :]
            _collect(self.indptr, self.indices, self.rows[a:b], bits, limit, weights[place:], ends[place:])

        run_in_ranges(self.rows.size, work, self.size)
        return weights, ends


def merge_forests(forests: Sequence[Forest], n_texts: int) -> Forest:
    """The minimum spanning forest of several sets of edges together; forests of parts of a graph give the whole's.

    An edge that a part drops is the heaviest of a cycle there, and of the same cycle in the whole.
    """
    left, right = (np.concatenate([getattr(forest, side) for forest in forests]) for side in ("left", "right"))
    weight = np.concatenate([forest.distance for forest in forests]).astype(np.float32, copy=False)
    ends = (left.astype(np.uint64) << np.uint64(32)) | right.astype(np.uint64)
    tree = row_numbers(n_texts)
    size = min(ends.size, max(n_texts - 1, 0))
    left, right, distance = np.empty(size, np.int64), np.empty(size, np.int64), np.empty(size, np.float32)
    bits, ends = _sort(weight.view(np.uint32), ends)
    found = _grow(bits, ends, tree, left, right, distance, 0)
    return Forest(left[:found].copy(), right[:found].copy(), distance[:found].copy())


@numba.njit(cache=True, nogil=True)
def _reach(indptr: Any, indices: Any, data: Any, core: Any, rows: Any, symmetric: bool, bits: Any) -> None:
    """The bits of each stored edge's mutual reachability; floats that are not negative order as their bits do."""
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
    """Take out the edges below a weight: the weights' bits, and both rows in one number."""
    slot, place = 0, 0
    for row in rows:
        for entry in range(indptr[row], indptr[row + 1]):
            if bits[slot] < limit:
                other = indices[entry]
                low, high = np.uint64(min(row, other)), np.uint64(max(row, other))
                ends[place] = (low << np.uint64(32)) | high
                weights[place] = bits[slot]
                bits[slot] = DEAD
                place += 1
            slot += 1


@numba.njit(cache=True, nogil=True)
def find_root(tree: Any, node: Any) -> Any:
    """The root of a node's tree; the way is halved."""
    while tree[node] != node:
        tree[node] = tree[tree[node]]
        node = tree[node]
    return node


@numba.njit(cache=True, nogil=True)
def _sort(bits: Any, ends: Any) -> Any:
    """Both arrays in the order of ``bits``; radix sort, stable."""
    spare_bits, spare_ends = np.empty_like(bits), np.empty_like(ends)
    counts = np.zeros((3, 2048), np.int64)
    for place in range(bits.size):
        for digit in range(3):
            counts[digit, (bits[place] >> np.uint32(11 * digit)) & np.uint32(2047)] += 1
    for digit in range(3):
        if counts[digit].max() == bits.size:  # all have the same
            continue
        starts = np.cumsum(counts[digit]) - counts[digit]
        for place in range(bits.size):
            value = (bits[place] >> np.uint32(11 * digit)) & np.uint32(2047)
            to = starts[value]
            starts[value] += 1
            spare_bits[to], spare_ends[to] = bits[place], ends[place]
        bits, spare_bits = spare_bits, bits
        ends, spare_ends = spare_ends, ends
    return bits, ends


@numba.njit(cache=True, nogil=True)
def _grow(bits: Any, ends: Any, tree: Any, left: Any, right: Any, distance: Any, found: int) -> int:
    """Kruskal over edges of ascending weight. Those of equal weight are put in the order of their rows first."""
    lower = np.uint64(0xFFFFFFFF)
    weights = bits.view(np.float32)
    start = 0
    while start < bits.size:
        stop = start + 1
        while stop < bits.size and bits[stop] == bits[start]:
            stop += 1
        sort_pairs(ends[start:stop], ends[start:stop])
        for place in range(start, stop):
            if place > start and ends[place] == ends[place - 1]:  # the same edge, listed by its other end
                continue
            low, high = np.int64(ends[place] >> np.uint64(32)), np.int64(ends[place] & lower)
            one, other = find_root(tree, low), find_root(tree, high)
            if one != other:
                tree[max(one, other)] = min(one, other)
                left[found], right[found], distance[found] = low, high, weights[start]
                found += 1
        start = stop
    return found


@numba.njit(cache=True, nogil=True)
def flatten(tree: Any) -> None:
    """Let every node name its root, the smallest of its tree."""
    for node in range(tree.size):
        tree[node] = tree[tree[node]]  # smaller nodes are flat already


@numba.njit(cache=True, nogil=True)
def join_components(left: Any, right: Any, piece: Any) -> None:
    """Overwrite ``piece`` (0..n-1 at first) with the smallest row of each row's connected piece."""
    for edge in range(left.size):
        one, other = find_root(piece, left[edge]), find_root(piece, right[edge])
        piece[max(one, other)] = min(one, other)
    flatten(piece)
