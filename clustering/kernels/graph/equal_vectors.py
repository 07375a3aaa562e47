"""Neighbor lists and a spanning forest in; the same forest with rows of equal vectors tied together, out.

Rows with equal vectors may lie apart in a graph of nearest neighbors: where more of them are than a list holds, the
lists name the same few, or others in each corner. No tree may part them, so an edge below all others joins them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clustering.kernels.graph.diffusion import NeighborLists
from clustering.kernels.graph.forest import FloatArray, Forest, IntArray, join_components, merge_forests

APART = 1e-4  # Euclidean distance of equal unit vectors at most, whose numbers are rounded another way


@dataclass(frozen=True)
class EqualEdges:
    """Entries of neighbor lists between equal vectors. left, right : int64, shape (n_entries,)

    full_rows : int64, rows whose whole list is of such entries, so that there may be more than it names
    """

    left: IntArray
    right: IntArray
    full_rows: IntArray


def equal_edges(lists: NeighborLists, floor: float) -> EqualEdges:
    """floor : distances up to this are rounding"""
    counts = np.diff(lists.indptr)
    near = np.flatnonzero(lists.distances <= np.float32(floor))
    left = np.searchsorted(lists.indptr, near, side="right") - 1
    within = np.bincount(left, minlength=counts.size)
    full = np.flatnonzero((within == counts) & (counts > 0))
    return EqualEdges(lists.first + left, lists.indices[near].astype(np.int64), lists.first + full)


def join_equal_rows(edges: list[EqualEdges], n_texts: int) -> tuple[IntArray, IntArray]:
    """The smallest row that each row's vector equals as far as the lists say; and of each group that may equal another,
    as its lists are full, that row."""
    piece = np.arange(n_texts)
    join_components(np.concatenate([one.left for one in edges]), np.concatenate([one.right for one in edges]), piece)
    return piece, np.unique(piece[np.concatenate([one.full_rows for one in edges])])


def equal_pairs(vectors: FloatArray) -> tuple[IntArray, IntArray]:
    """Places of vectors that are equal but for rounding; enough pairs to join each set of equal ones.

    vectors : float32, shape (n, dim), unit length. Equal ones have equal projections, so only those that stand near
    each other by one of them are compared.
    """
    axis = np.random.default_rng(0).normal(size=vectors.shape[1])
    along = vectors.astype(np.float64) @ (axis / np.linalg.norm(axis))
    order = np.argsort(along, kind="stable")
    pairs: list[NDArray[np.int64]] = []
    step, open_rows = 1, np.arange(len(order))
    while open_rows.size:  # each with the one so many places on, as long as any is near enough
        open_rows = open_rows[open_rows + step < len(order)]
        one, other = order[open_rows], order[open_rows + step]
        near = along[other] - along[one] <= APART
        open_rows, one, other = open_rows[near], one[near], other[near]
        same = np.linalg.norm(vectors[one] - vectors[other], axis=1) <= APART
        pairs.append(np.stack([one[same], other[same]]))
        open_rows = open_rows[~same]  # the others of its set are found by the one that it equals
        step += 1
    left, right = np.concatenate([np.empty((2, 0), np.int64), *pairs], axis=1)
    return left, right


def tie_equal_rows(forest: Forest, piece: IntArray, core: FloatArray, floor: float) -> Forest:
    """The forest in which every row is joined to ``piece``, the smallest row of equal vectors, before anything else.

    core : float32, core distances; floor : the shortest distance of an edge. A tie is just shorter than any edge of the
    rows that it joins, so that it is told from an edge, see ``tied``.
    """
    later = np.flatnonzero(piece != np.arange(piece.size))
    if not later.size:
        return forest
    least = np.full(piece.size, np.inf, np.float32)
    np.minimum.at(least, piece, np.maximum(core, np.float32(floor)))
    short = np.nextafter(least[piece[later]], np.float32(0))
    short[np.isinf(least[piece[later]])] = floor
    order = np.lexsort((later, piece[later], short))
    ties = Forest(piece[later][order], later[order], short[order])
    return merge_forests([forest, ties], piece.size)


def find_tied_rows(forest: Forest, core: FloatArray, floor: float) -> IntArray:
    """The smallest row of the equal vectors that each row is tied to by ``tie``; its own where it is alone."""
    least = np.maximum(np.minimum(core[forest.left], core[forest.right]), np.float32(floor))
    short = forest.distance < least
    piece = np.arange(core.size)
    join_components(forest.left[short], forest.right[short], piece)
    return piece
