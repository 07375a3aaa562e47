"""Neighbor lists in; lengths of the same edges after diffusion out, so that groups draw together and bridges do not.

Each row gets a random sketch of 128 numbers, a projection of its own coordinate; then the sketches are averaged over
neighbors, round by round. Two rows end close when short random walks from them end in the same places. Neither the
vectors nor a second search are needed, and every row of a round depends on the round before alone, so that rows can be
shared out among threads and machines and the result stays the same, bit for bit.
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
AVERAGED = 15  # nearest neighbors that a row is averaged with
PULL = np.float32(3)  # weight of the neighbors beside the row itself
UNIT = np.float32(32767)  # of the sketch's whole numbers
MIN_SCALE = np.float32(1e-3)
MIN_LENGTH = np.float32(1e-6)  # shorter edges count as this, so that no lambda is infinite


@dataclass(frozen=True)
class NeighborLists:
    """Neighbor lists of the rows from ``first`` on, as the arrays of a CSR matrix; a list ascends by (distance, row).

    indptr : int64, shape (n_rows + 1,); indices : int32 or int64, rows of the whole graph; distances : float32
    """

    first: int
    indptr: IntArray
    indices: NDArray[Any]
    distances: FloatArray

    def __len__(self) -> int:
        return self.indptr.size - 1

    def nearest(self, count: int) -> NDArray[Any]:
        """Shape (n_rows, count): the first neighbors of each row, -1 where its list is shorter."""
        found = np.full((len(self), count), -1, self.indices.dtype)
        for place in range(count):
            slot = self.indptr[:-1] + place
            there = slot < self.indptr[1:]
            found[there, place] = self.indices[slot[there]]
        return found

    def graph(self, lengths: FloatArray, n_rows: int) -> csr_array:
        """The listed edges with other lengths, as a directed graph of all n_rows rows."""
        indptr = np.full(n_rows + 1, self.indptr[-1])
        indptr[: self.first] = 0
        indptr[self.first : self.first + len(self) + 1] = self.indptr
        if lengths.size < np.iinfo(self.indices.dtype).max:
            indptr = indptr.astype(self.indices.dtype)  # else scipy would widen the indices
        return csr_array((lengths, self.indices, indptr), shape=(n_rows, n_rows))


def diffuse(lists: NeighborLists, seed: int, averaged: int = AVERAGED, keys: Keys | None = None) -> FloatArray:
    """The diffused length of every listed edge.

    lists : of all rows; averaged : nearest neighbors that a row is averaged with
    keys : uint64, shape (n_rows,), what a row's sketch is drawn from; none: its number. Keys that go with the rows make
        the lengths the same in whatever order the rows come.
    Returns: float32, shape (n_edges,), 1e-6 to 2; the same in both directions.
    The distance to the neighbor half-way through those that are averaged is a row's local scale.
    Memory: 572 bytes a row while the sketches are averaged, then 256 a row and 4 an edge.
    """
    pull = affinities(lists, local_scales(lists, averaged // 2), averaged)
    sketch = draw_sketch(np.arange(len(lists), dtype=np.uint64) if keys is None else keys, seed)
    for _ in range(ROUNDS):
        sketch = average_sketches(lists, pull, sketch)
    del pull
    return edge_lengths(lists, sketch)


def local_scales(lists: NeighborLists, rank: int = AVERAGED // 2) -> FloatArray:
    """float32, shape (n_rows,): the distance to the neighbor of this rank, or the last."""
    scale = np.empty(len(lists), np.float32)
    run_in_ranges(len(lists), lambda a, b: _scales(lists.indptr[a : b + 1], lists.distances, rank, scale[a:b]))
    return scale


def affinities(lists: NeighborLists, scale: FloatArray, averaged: int = AVERAGED) -> FloatArray:
    """How strongly each row is drawn to its nearest neighbors: a Gaussian of the distance in units of both scales.

    scale : of all rows of the graph
    Returns: float32, shape (n_rows, averaged).
    """
    pull = np.zeros((len(lists), averaged), np.float32)

    def work(a: int, b: int) -> None:
        _affinities(lists.first + a, lists.indptr[a : b + 1], lists.indices, lists.distances, scale, pull[a:b])

    run_in_ranges(len(lists), work)
    return pull


def draw_sketch(keys: Keys, seed: int) -> Sketch:
    """A sketch of random signs for each row, from a counter: the same wherever the row is worked on.

    keys : uint64, shape (n_rows,)
    Source: splitmix64, Steele, Lea and Flood (2014); signs, Achlioptas (2003).
    """
    sketch = np.empty((keys.size, DIMS), np.int16)
    run_in_ranges(keys.size, lambda a, b: _draw(keys[a:b], np.uint64(seed), sketch[a:b]))
    return sketch


def average_sketches(lists: NeighborLists, pull: FloatArray, sketch: Sketch) -> Sketch:
    """One round: each row and its neighbors, weighed by affinity, brought to unit length.

    sketch : of all rows of the graph. Returns: of the lists' rows.
    """
    averaged = np.empty((len(lists), DIMS), sketch.dtype)

    def work(a: int, b: int) -> None:
        _average(lists.first + a, lists.indptr[a : b + 1], lists.indices, pull[a:b], sketch, averaged[a:b])

    run_in_ranges(len(lists), work)
    return averaged


def edge_lengths(lists: NeighborLists, sketch: Sketch) -> FloatArray:
    """Euclidean distance of the sketches at both ends of each listed edge. sketch : of all rows of the graph"""
    length = np.empty(lists.indices.size, np.float32)
    run_in_ranges(
        len(lists), lambda a, b: _lengths(lists.first + a, lists.indptr[a : b + 1], lists.indices, sketch, length)
    )
    return length


def listed_core_distances(graph: csr_array, rank: int, copies: NDArray[np.int32] | None = None) -> FloatArray:
    """Core distances by the rows' own lists; 0 for a row without one, so that edges of other lists keep their length.

    graph : from ``NeighborLists.graph``; rank : min_samples; copies : records of each row, if they count
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
def _affinities(first: int, indptr: Any, indices: Any, distances: Any, scale: Any, pull: Any) -> None:
    for row in range(indptr.size - 1):
        start, stop = indptr[row], indptr[row + 1]
        for place in range(min(pull.shape[1], stop - start)):
            away = distances[start + place]
            pull[row, place] = PULL * np.exp(-away * away / (scale[first + row] * scale[indices[start + place]]))


@numba.njit(cache=True, nogil=True)
def _draw(keys: Any, seed: Any, sketch: Any) -> None:
    size = np.int16(np.rint(UNIT / np.sqrt(np.float32(DIMS))))
    key = mix_bits(seed)
    for row in range(len(sketch)):
        for word in range(DIMS // 64):
            bits = mix_bits(key ^ (keys[row] * np.uint64(DIMS // 64) + np.uint64(word)))
            for place in range(64):
                positive = (bits >> np.uint64(place)) & np.uint64(1)
                sketch[row, 64 * word + place] = size if positive else -size


@numba.njit(cache=True, nogil=True)
def mix_bits(bits: Any) -> Any:
    bits += np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


@numba.njit(cache=True, nogil=True)
def _average(first: int, indptr: Any, indices: Any, pull: Any, sketch: Any, averaged: Any) -> None:
    total, square = np.empty(DIMS, np.float32), np.empty(DIMS, np.float32)
    for row in range(indptr.size - 1):
        for dim in range(DIMS):
            total[dim] = sketch[first + row, dim]
        start = indptr[row]
        for place in range(min(pull.shape[1], indptr[row + 1] - start)):  # in the list's order
            other, weight = indices[start + place], pull[row, place]
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
    """The sum of 128 numbers in a fixed order that vectorizes; ``values`` is overwritten."""
    half = DIMS // 2
    while half:
        for dim in range(half):
            values[dim] += values[dim + half]
        half //= 2
    return values[0]
