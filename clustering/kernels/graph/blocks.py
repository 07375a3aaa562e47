"""Neighbor lists of consecutive rows in, blocks of near rows out: cut by block, sent there, and joined.

A block holds its rows' lists, and the rows of the symmetric graph, of which some entries come from other rows' lists.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from clustering.kernels.graph.csr import join_directions
from clustering.kernels.graph.diffusion import Keys
from clustering.kernels.graph.forest import row_dtype
from clustering.kernels.topk import FloatArray, IntArray

STEP = 1 << 20  # rows or entries that are worked on at once


@dataclass(frozen=True)
class Block:
    """Some rows of the run with all that lies at them; entries name rows of the whole run.

    rows : int64, shape (n_rows,), ascending
    indptr, indices, data : the rows of the symmetric distance graph, in the metric's unit: int64, shape (n_rows + 1,);
        int32 or int64, and float32, shape (n_edges,); columns ascend within a row
    radius : float32, shape (n_rows,): no edge that a row's list lacks is shorter
    list_indptr, list_indices, list_distances : the rows' own neighbor lists, the nearest first, of the same dtypes and
        unit; distances as the search found them, without entries beyond the longest edge of the graph
    keys : uint64, shape (n_rows,), digests of the texts
    copies : int32, shape (n_rows,), records of each text
    """

    rows: IntArray
    indptr: IntArray
    indices: NDArray[Any]
    data: FloatArray
    radius: FloatArray
    list_indptr: IntArray
    list_indices: NDArray[Any]
    list_distances: FloatArray
    keys: Keys
    copies: NDArray[Any]

    def __len__(self) -> int:
        return int(self.rows.size)


@dataclass(frozen=True)
class Piece:
    """What one block gets of some consecutive rows of the run, which are ``n_rows`` rows of the block.

    listed : int64, shape (n_rows,), entries of each row's list
    indices, distances : int32 or int64, and float32, shape (n_entries,), the lists one after another
    radius, keys, copies : as in ``Block``
    ends, sources, incoming : entries of other blocks' lists that name a row of this block: its position in the block,
        the row that lists it, both int32 or int64, and the distance, float32; shape (n_incoming,)
    """

    listed: IntArray
    indices: NDArray[Any]
    distances: FloatArray
    radius: FloatArray
    keys: Keys
    copies: NDArray[Any]
    ends: NDArray[Any]
    sources: NDArray[Any]
    incoming: FloatArray


@dataclass(frozen=True)
class Places:
    """Where every row lies.

    numbers : int32 or int64, shape (n_texts,): stride * its block + its position there
    stride : rows of the largest block
    n_blocks : how many blocks there are; none is empty
    """

    numbers: NDArray[Any]
    stride: int
    n_blocks: int

    def rows_of(self, block: int) -> IntArray:
        """The rows of a block: int64, shape (n_rows,), ascending."""
        first = block * self.stride
        found = [np.empty(0, np.int64)]
        for start in range(0, self.numbers.size, STEP):
            held = self.numbers[start : start + STEP]
            found.append(start + np.flatnonzero((held >= first) & (held < first + self.stride)))
        return np.concatenate(found)


def place_rows(cell: NDArray[Any], n_blocks: int, k: int) -> Places:
    """Cut all rows, sorted by (cell, row), into blocks of about as many list entries each.

    cell : int16 or int32, shape (n_texts,), the partition of each row; -1 for a row without a vector, whose list is
        empty; near partitions have near numbers
    k : entries of the other lists
    Returns: at most n_blocks blocks.
    Memory: 14 bytes a row with the cells and the result.
    """
    order = np.argsort(cell, kind="stable")
    without = int((cell < 0).sum())
    # A row weighs as much as its list has entries, and one more. Rows without a list come first.
    ends = (without + (cell.size - without) * (k + 1)) * np.arange(1, n_blocks) // n_blocks
    cuts = np.unique(np.concatenate([[0], np.where(ends < without, ends, without + (ends - without) // (k + 1)),
                                     [cell.size]]))  # fmt: skip
    stride = int(np.diff(cuts).max(initial=0))
    numbers = np.empty(cell.size, row_dtype(stride * (cuts.size - 1)))
    for block, (start, stop) in enumerate(pairwise(cuts)):
        numbers[np.sort(order[start:stop])] = block * stride + np.arange(stop - start)
    return Places(numbers, stride, cuts.size - 1)


def list_radius(
    listed: IntArray, distances: FloatArray, n_others: int, floor: float, longest: float | None = None
) -> FloatArray:
    """For each row, the least length of an edge that its list of nearest neighbors does not hold.

    listed : int64, shape (n_rows,), entries of each list
    distances : float32, shape (n_entries,), the lists one after another
    n_others : other rows that a list could hold
    floor, longest : no edge of the graph is shorter, and none longer
    Returns: float32, shape (n_rows,): the distance of the last entry. It is infinite where the list holds all others,
        and where it reaches beyond ``longest``; it is the floor for any other empty list.
    """
    radius = np.full(listed.size, floor, np.float32)
    filled = np.flatnonzero(listed)
    if filled.size:
        starts = np.cumsum(listed) - listed
        radius[filled] = np.maximum(radius[filled], np.maximum.reduceat(distances, starts[filled]))
    radius[listed >= n_others] = np.inf
    if longest is not None:
        radius[radius > np.float32(longest)] = np.inf
    return radius


def cut_piece(piece: Piece, first: int, places: Places) -> list[Piece]:
    """Cut the lists of consecutive rows by the block of each row, and of each row that they name.

    piece : of rows from ``first`` on, without incoming entries
    Returns: for each block what it gets of these rows.
    """
    counts = np.zeros((3, places.n_blocks), np.int64)  # of rows, entries and incoming entries
    lists, where = (piece.listed, piece.indices, piece.distances), (places.numbers, places.stride)
    _count_cut(*lists[:2], first, *where, counts)
    starts = np.cumsum(counts, axis=1) - counts
    n_incoming, dtype = int(counts[2].sum()), piece.indices.dtype
    order, ends = np.empty(piece.listed.size, np.int64), np.empty(n_incoming, dtype)
    sources, incoming = np.empty(n_incoming, dtype), np.empty(n_incoming, np.float32)
    others, distances = np.empty_like(piece.indices), np.empty_like(piece.distances)
    _fill_cut(*lists, first, *where, starts, order, others, distances, ends, sources, incoming)
    row_cuts, entry_cuts, end_cuts = np.cumsum(counts, axis=1)[:, :-1]
    arrays = [
        (piece.listed[order], row_cuts), (others, entry_cuts), (distances, entry_cuts), (piece.radius[order], row_cuts),
        (piece.keys[order], row_cuts), (piece.copies[order], row_cuts),
        (ends, end_cuts), (sources, end_cuts), (incoming, end_cuts),
    ]  # fmt: skip
    by_block = zip(*(np.split(values, cuts) for values, cuts in arrays), strict=True)
    # Copies, so that what one block gets can be freed before the others.
    return [Piece(*(values.copy() for values in held)) for held in by_block]


@numba.njit(cache=True, nogil=True)
def _count_cut(listed: Any, indices: Any, first: int, numbers: Any, stride: int, counts: Any) -> None:
    entry = 0
    for row in range(listed.size):
        own = numbers[first + row] // stride
        counts[0, own] += 1
        counts[1, own] += listed[row]
        for _ in range(listed[row]):
            to = numbers[indices[entry]] // stride
            if to != own:
                counts[2, to] += 1
            entry += 1


@numba.njit(cache=True, nogil=True)
def _fill_cut(
    listed: Any, indices: Any, lengths: Any, first: int, numbers: Any, stride: int, slots: Any, order: Any, others: Any,
    distances: Any, ends: Any, sources: Any, incoming: Any,
) -> None:  # fmt: skip
    entry = 0
    for row in range(listed.size):
        own = numbers[first + row] // stride
        order[slots[0, own]] = row
        slots[0, own] += 1
        for _ in range(listed[row]):
            slot = slots[1, own]
            others[slot], distances[slot] = indices[entry], lengths[entry]
            slots[1, own] = slot + 1
            place = numbers[indices[entry]]
            to = place // stride
            if to != own:
                slot = slots[2, to]
                ends[slot], sources[slot], incoming[slot] = place - to * stride, first + row, lengths[entry]
                slots[2, to] = slot + 1
            entry += 1


def slots_of(starts: IntArray, lengths: IntArray) -> IntArray:
    """The positions of the entries of some rows, one row after another.

    starts, lengths : int64, shape (n_rows,), of each row's entries. Returns: int64, shape (n_entries,).
    """
    return np.repeat(starts - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())


def concat_pieces(pieces: list[Piece]) -> Piece:
    """One piece of several, whose rows follow one another."""
    return Piece(*(np.concatenate([getattr(piece, one.name) for piece in pieces]) for one in fields(Piece)))


def join_pieces(pieces: Iterable[Piece], places: Places, number: int, floor: float) -> Block:
    """Join what a block gets of all rows.

    pieces : rows ascending; an iterator, so that their arrays are freed as they are joined
    floor : shorter edges of the graph get this length
    Memory: 24 bytes a listed entry and 8 an incoming one, and 90 a row, besides the incoming entries themselves.
    """
    held: dict[str, list[NDArray[Any]]] = {one.name: [] for one in fields(Piece)}
    for piece in pieces:
        for name, arrays in held.items():
            arrays.append(getattr(piece, name))
        del piece  # the arrays of each kind are freed together below
    incoming = list(zip(held.pop("ends"), held.pop("sources"), held.pop("incoming"), strict=True))
    joined = {name: np.concatenate(held.pop(name)) for name in list(held)}
    rows = places.rows_of(number)
    indptr = np.concatenate([[0], np.cumsum(joined["listed"])])
    lists = (indptr, joined["indices"], joined["distances"])
    graph = join_directions(lists, rows, places.numbers, number * places.stride, incoming, floor)
    return Block(rows, *graph, joined["radius"], *lists, joined["keys"], joined["copies"])


def join_blocks(blocks: list[Block], n_texts: int) -> csr_array:
    """The symmetric graph of all rows, from all blocks; with the indices and data of a single block as they are.

    Returns: float32 csr_array, shape (n_texts, n_texts); indices and indptr have one dtype, as scipy wants it, which is
        that of the blocks unless there are too many entries.
    """
    n_edges = sum(block.indices.size for block in blocks)
    held = blocks[0].indices.dtype
    wide = held if n_edges <= np.iinfo(held).max else np.dtype(np.int64)
    if len(blocks) == 1:
        (block,) = blocks
        arrays = block.data, block.indices.astype(wide, copy=False), block.indptr.astype(wide, copy=False)
        return csr_array(arrays, shape=(n_texts, n_texts))
    indptr = np.zeros(n_texts + 1, wide)
    for block in blocks:
        indptr[block.rows + 1] = np.diff(block.indptr)
    np.cumsum(indptr, out=indptr)
    indices, data = np.empty(n_edges, wide), np.empty(n_edges, np.float32)
    for block in blocks:
        lengths = np.diff(block.indptr)
        for first in range(0, len(block), STEP // 16):
            some = slice(first, first + STEP // 16)
            slots = slots_of(indptr[block.rows[some]].astype(np.int64), lengths[some])
            entries = slice(block.indptr[first], block.indptr[first] + slots.size)
            indices[slots], data[slots] = block.indices[entries], block.data[entries]
    return csr_array((data, indices, indptr), shape=(n_texts, n_texts))
