"""Neighbor lists in, diffused lengths of the same edges out: short within a group, long across a bridge between groups.

Each row starts with a random sketch of 128 numbers, and in each round becomes the weighted mean of its neighbors' and
its own. Two rows end close when short random walks from them reach the same rows. A round reads only the one before,
so any number of threads and machines gives the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from clustering.kernels.graph.forest import FloatArray, IntArray, core_distances
from clustering.kernels.threads import run_in_ranges

Sketch = NDArray[np.int16]
Keys = NDArray[np.uint64]
DIMS = 128
ROUNDS = 8
AVERAGED = 15  # nearest neighbors that a row is averaged with, at most
NEIGHBOR_WEIGHT = np.float32(3)  # of a neighbor at distance 0; the row itself has weight 1
UNIT = np.float32(32767)  # length 1 in the integers of a sketch
MIN_SCALE = np.float32(1e-3)
MIN_LENGTH = np.float32(1e-6)  # shorter edges get this length, so that no lambda is infinite


@dataclass(frozen=True)
class NeighborLists:
    """Neighbor lists of the rows from 0 on, as CSR arrays; a list ascends by (distance, row).

    Further rows, without a list, may follow: those that a shard's lists name and other shards own.

    indptr : int64, shape (n_rows + 1,)
    indices, distances : int32 or int64, and float32; shape (n_edges,)
    """

    indptr: IntArray
    indices: NDArray[Any]
    distances: FloatArray

    def __len__(self) -> int:
        return self.indptr.size - 1

    def nearest(self, count: int) -> NDArray[Any]:
        """int32 or int64, shape (n_rows, count): the first neighbors of each row, -1 where its list is shorter."""
        nearest = np.full((len(self), count), -1, self.indices.dtype)
        for rank in range(count):
            slot = self.indptr[:-1] + rank
            listed = slot < self.indptr[1:]
            nearest[listed, rank] = self.indices[slot[listed]]
        return nearest

    def graph(self, lengths: FloatArray, n_rows: int) -> csr_array:
        """The listed edges with other lengths as a directed graph.

        lengths : float32, shape (n_edges,); n_rows : rows with and without a list
        Returns: float32 csr_array, shape (n_rows, n_rows).
        """
        indptr = np.full(n_rows + 1, self.indptr[-1])
        indptr[: len(self) + 1] = self.indptr
        if lengths.size < np.iinfo(self.indices.dtype).max:
            indptr = indptr.astype(self.indices.dtype)  # else scipy would widen the indices
        return csr_array((lengths, self.indices, indptr), shape=(n_rows, n_rows))


def diffuse(lists: NeighborLists, seed: int, n_averaged: int = AVERAGED, keys: Keys | None = None) -> FloatArray:
    """The diffused length of every listed edge.

    lists : of all rows; n_averaged : nearest neighbors that a row is averaged with
    keys : uint64, shape (n_rows,), seeds of the rows' sketches; none: row numbers. With keys that belong to the rows
        the lengths do not depend on their order.
    Returns: float32, shape (n_edges,), Euclidean, 1e-6 to 2; equal in both directions.
    Memory: 572 bytes a row while sketches are averaged, then 256 a row and 4 an edge.
    Source: docs/clustering.md; random projection, Achlioptas (2003).
    """
    affinity = affinities(lists, local_scales(lists, n_averaged // 2), n_averaged)
    sketch = draw_sketch(np.arange(len(lists), dtype=np.uint64) if keys is None else keys, seed)
    for _ in range(ROUNDS):
        sketch = average_sketches(lists, affinity, sketch)
    del affinity  # before the lengths need memory
    return edge_lengths(lists, sketch)


def local_scales(lists: NeighborLists, rank: int = AVERAGED // 2) -> FloatArray:
    """The local scale of each row: the distance to its neighbor of this rank, or to the last of a shorter list.

    Returns: float32, shape (n_rows,), at least 1e-3.
    """
    scale = np.empty(len(lists), np.float32)
    run_in_ranges(len(lists), lambda a, b: _scales(lists.indptr[a : b + 1], lists.distances, rank, scale[a:b]))
    return scale


def affinities(lists: NeighborLists, scale: FloatArray, n_averaged: int = AVERAGED) -> FloatArray:
    """Weights of each row's nearest neighbors: a Gaussian of the distance in units of both rows' scales.

    scale : float32, shape (n_graph_rows,), of the rows with and without a list
    Returns: float32, shape (n_rows, n_averaged), 0 to 3; 0 where a list is shorter.
    """
    affinity = np.zeros((len(lists), n_averaged), np.float32)

    def work(a: int, b: int) -> None:
        _affinities(a, lists.indptr[a : b + 1], lists.indices, lists.distances, scale, affinity[a:b])

    run_in_ranges(len(lists), work)
    return affinity


def draw_sketch(keys: Keys, seed: int) -> Sketch:
    """Draw a sketch of random signs for each row from its key alone, so that it is the same on every machine.

    keys : uint64, shape (n_rows,). Returns: int16, shape (n_rows, 128), of length 32767.
    Source: Achlioptas (2003).
    """
    sketch = np.empty((keys.size, DIMS), np.int16)
    run_in_ranges(keys.size, lambda a, b: _draw(keys[a:b], np.uint64(seed), sketch[a:b]))
    return sketch


def average_sketches(lists: NeighborLists, affinity: FloatArray, sketch: Sketch) -> Sketch:
    """One round: the mean of each row and its neighbors, weighted by affinity, scaled to unit length.

    affinity : float32, shape (n_rows, n_averaged)
    sketch : int16, shape (n_graph_rows, 128), of the rows with and without a list
    Returns: int16, shape (n_rows, 128), of the lists' rows.
    """
    averaged = np.empty((len(lists), DIMS), sketch.dtype)

    def work(a: int, b: int) -> None:
        _average(a, lists.indptr[a : b + 1], lists.indices, affinity[a:b], sketch, averaged[a:b])

    run_in_ranges(len(lists), work)
    return averaged


def edge_lengths(lists: NeighborLists, sketch: Sketch) -> FloatArray:
    """Euclidean distance between the sketches at both ends of each listed edge.

    sketch : int16, shape (n_graph_rows, 128), of the rows with and without a list
    Returns: float32, shape (n_edges,), 1e-6 to 2.
    """
    length = np.empty(lists.indices.size, np.float32)
    run_in_ranges(len(lists), lambda a, b: _lengths(a, lists.indptr[a : b + 1], lists.indices, sketch, length))
    return length


def listed_core_distances(graph: csr_array, rank: int, copies: NDArray[np.int32] | None = None) -> FloatArray:
    """Core distances by the rows' own lists; 0 for a row without a list, so that its edges keep their length.

    graph : float32 csr_array, shape (n_rows, n_rows), from ``NeighborLists.graph``; rank : min_samples
    copies : int32, shape (n_rows,), records of each row; none: one each
    Returns: float32, shape (n_rows,).
    """
    core = core_distances(graph, rank, copies)
    core[np.isinf(core)] = 0
    return core


@numba.njit(cache=True, nogil=True)
def _scales(indptr: Any, distances: Any, rank: int, scale: Any) -> None:
    for row in range(scale.size):
        start, stop = indptr[row], indptr[row + 1]
        near = distances[min(start + rank, stop) - 1] if stop > start else np.float32(0)
        scale[row] = max(near, MIN_SCALE)


@numba.njit(cache=True, nogil=True)
def _affinities(first: int, indptr: Any, indices: Any, distances: Any, scale: Any, affinity: Any) -> None:
    for row in range(indptr.size - 1):
        start, stop = indptr[row], indptr[row + 1]
        for rank in range(min(affinity.shape[1], stop - start)):
            away, other = distances[start + rank], indices[start + rank]
            affinity[row, rank] = NEIGHBOR_WEIGHT * np.exp(-away * away / (scale[first + row] * scale[other]))


@numba.njit(cache=True, nogil=True)
def _draw(keys: Any, seed: Any, sketch: Any) -> None:
    size = np.int16(np.rint(UNIT / np.sqrt(np.float32(DIMS))))
    key = mix_bits(seed)
    for row in range(len(sketch)):
        for word in range(DIMS // 64):
            bits = mix_bits(key ^ (keys[row] * np.uint64(DIMS // 64) + np.uint64(word)))
            for bit in range(64):
                positive = (bits >> np.uint64(bit)) & np.uint64(1)
                sketch[row, 64 * word + bit] = size if positive else -size


@numba.njit(cache=True, nogil=True)
def mix_bits(bits: Any) -> Any:
    """A hash of 64 bits, uint64 of any shape. Source: splitmix64, Steele, Lea and Flood (2014)."""
    bits += np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


@numba.njit(cache=True, nogil=True)
def _average(first: int, indptr: Any, indices: Any, affinity: Any, sketch: Any, averaged: Any) -> None:
    total, square = np.empty(DIMS, np.float32), np.empty(DIMS, np.float32)
    for row in range(indptr.size - 1):
        for dim in range(DIMS):
            total[dim] = sketch[first + row, dim]
        start = indptr[row]
        for rank in range(min(affinity.shape[1], indptr[row + 1] - start)):
            other, weight = indices[start + rank], affinity[row, rank]
            for dim in range(DIMS):
                total[dim] += weight * np.float32(sketch[other, dim])
        for dim in range(DIMS):
            square[dim] = total[dim] * total[dim]
        factor = UNIT / np.sqrt(_sum(square))
        for dim in range(DIMS):
            averaged[row, dim] = np.int16(np.rint(total[dim] * factor))


@numba.njit(cache=True, nogil=True)
def _lengths(first: int, indptr: Any, indices: Any, sketch: Any, length: Any) -> None:
    square = np.empty(DIMS, np.float32)
    for row in range(indptr.size - 1):
        for slot in range(indptr[row], indptr[row + 1]):
            other = indices[slot]
            for dim in range(DIMS):
                apart = np.float32(np.int32(sketch[first + row, dim]) - np.int32(sketch[other, dim]))
                square[dim] = apart * apart
            length[slot] = max(np.sqrt(_sum(square)) / UNIT, MIN_LENGTH)


@numba.njit(cache=True, nogil=True)
def _sum(values: Any) -> Any:
    """The sum of 128 numbers in a fixed order that the compiler can vectorize; ``values`` is overwritten."""
    half = DIMS // 2
    while half:
        for dim in range(half):
            values[dim] += values[dim + half]
        half //= 2
    return values[0]
