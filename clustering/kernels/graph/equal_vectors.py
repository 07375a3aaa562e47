"""Neighbor lists and a spanning forest in, the forest with rows of equal vectors joined first out.

When more rows have equal vectors than a list holds, their lists may not link all of them, and the forest could split
them. So an edge that is shorter than all their other edges joins each such row to the smallest row of its set.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clustering.kernels.graph.diffusion import NeighborLists
from clustering.kernels.graph.forest import FloatArray, Forest, IntArray, join_components, merge_forests

APART = 1e-4  # largest Euclidean distance of unit vectors that are equal but for rounding


@dataclass(frozen=True)
class EqualEdges:
    """Edges that join the rows of equal vectors as the entries of neighbor lists do, with at most as many as rows.

    left, right : int64, shape (n_edges,)
    full_rows : int64, shape (n_full,), rows whose list holds only such entries, so that further equal rows may exist
    """

    left: IntArray
    right: IntArray
    full_rows: IntArray


def equal_edges(lists: NeighborLists, rows: IntArray, floor: float) -> EqualEdges:
    """Find the listed edges between equal vectors, at most one that joins a row to others.

    lists : with rows of the whole graph; rows : int64, shape (n_rows,), whose lists these are
    floor : distances up to this are rounding
    """
    counts = np.diff(lists.indptr)
    near = np.flatnonzero(lists.distances <= np.float32(floor))
    left = np.searchsorted(lists.indptr, near, side="right") - 1
    within = np.bincount(left, minlength=counts.size)
    full = np.flatnonzero((within == counts) & (counts > 0))
    equal, ends = np.unique(np.concatenate([rows[left], lists.indices[near]]), return_inverse=True)
    smallest = np.arange(equal.size)
    join_components(ends[: near.size], ends[near.size :], smallest)
    later = np.flatnonzero(smallest != np.arange(equal.size))
    return EqualEdges(equal[smallest[later]], equal[later], rows[full])


def join_equal_rows(edges: list[EqualEdges], n_texts: int) -> tuple[IntArray, IntArray]:
    """Join rows of equal vectors into sets.

    Returns: int64, shape (n_texts,), the smallest row of each row's set; int64, shape (n_full,), that row for each set
        whose lists are full, so that it may be equal to another set.
    """
    smallest = np.arange(n_texts)
    join_components(np.concatenate([one.left for one in edges]), np.concatenate([one.right for one in edges]), smallest)
    return smallest, np.unique(smallest[np.concatenate([one.full_rows for one in edges])])


def equal_pairs(vectors: FloatArray) -> tuple[IntArray, IntArray]:
    """Find pairs of vectors that are equal but for rounding, enough to join each set of equal ones.

    Equal vectors have equal projections on an axis, so only vectors with near projections are compared.

    vectors : float32, shape (n, dim), unit length
    Returns: left and right, int64, shape (n_pairs,), positions in ``vectors``.
    """
    axis = np.random.default_rng(0).normal(size=vectors.shape[1])
    along = vectors.astype(np.float64) @ (axis / np.linalg.norm(axis))
    order = np.argsort(along, kind="stable")
    pairs: list[NDArray[np.int64]] = []
    step, open_rows = 1, np.arange(len(order))
    while open_rows.size:  # compare each with the one ``step`` further on, as long as their projections are near
        open_rows = open_rows[open_rows + step < len(order)]
        one, other = order[open_rows], order[open_rows + step]
        near = along[other] - along[one] <= APART
        open_rows, one, other = open_rows[near], one[near], other[near]
        same = np.linalg.norm(vectors[one] - vectors[other], axis=1) <= APART
        pairs.append(np.stack([one[same], other[same]]))
        open_rows = open_rows[~same]  # its equal finds the rest of the set
        step += 1
    left, right = np.concatenate([np.empty((2, 0), np.int64), *pairs], axis=1)
    return left, right


def tie_equal_rows(forest: Forest, smallest: IntArray, core: FloatArray, floor: float) -> Forest:
    """Join each row to the smallest row with an equal vector before any other edge does.

    A tie is one float shorter than any edge of the rows that it joins, so ``find_tied_rows`` can recognize it.

    smallest : int64, shape (n_rows,), the smallest row with an equal vector, its own for a single one
    core : float32, shape (n_rows,), core distances; floor : the shortest length of an edge
    """
    later = np.flatnonzero(smallest != np.arange(smallest.size))
    if not later.size:
        return forest
    least = np.full(smallest.size, np.inf, np.float32)
    np.minimum.at(least, smallest, np.maximum(core, np.float32(floor)))
    first = smallest[later]
    short = np.nextafter(least[first], np.float32(0))
    short[np.isinf(least[first])] = floor
    order = np.lexsort((later, first, short))
    ties = Forest(first[order], later[order], short[order])
    return merge_forests(forest, ties, smallest.size)


def find_tied_rows(forest: Forest, core: FloatArray, floor: float) -> IntArray:
    """The row that ``tie_equal_rows`` joined each row to; its own for a single row.

    core : float32, shape (n_rows,), core distances; floor : the shortest length of an edge
    Returns: int64, shape (n_rows,), the smallest row with an equal vector.
    """
    least = np.maximum(np.minimum(core[forest.left], core[forest.right]), np.float32(floor))
    short = forest.distance < least
    smallest = np.arange(core.size)
    join_components(forest.left[short], forest.right[short], smallest)
    return smallest
