"""Vectors in, their nearest rows out: by a tree, by comparing all blocks, or approximately where rows are many."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from clustering.estimator.inputs import as_floats, check_magnitude
from clustering.kernels.copies import number_by_first
from clustering.kernels.graph.forest import FloatArray, IntArray
from clustering.kernels.threads import thread_count

NEIGHBORS = 50  # nearest rows that are searched by default
TREE_DIMS = 15  # up to so many dimensions a tree is faster than comparing all rows
EXACT_ROWS = 50_000  # with more dimensions; above, the search is approximate
BLOCK = 8192  # rows at a time
FAR = 4  # times the spread of the rows


def distinct_rows(points: NDArray[Any]) -> tuple[IntArray, IntArray]:
    """Number distinct vectors by first appearance. points : float32 or float64, shape (n_rows, dim)

    Returns: int64, shape (n_rows,), the number of each row's vector; int64, shape (n_distinct,), the first row of each.
    """
    points = np.ascontiguousarray(points + 0.0)  # -0 becomes 0
    return number_by_first(points.view(np.dtype((np.void, points.dtype.itemsize * points.shape[1]))).ravel())


def row_keys(points: NDArray[Any]) -> NDArray[np.uint64]:
    """A hash of each vector, uint64, shape (n_rows,), that does not depend on the order of the rows."""
    keys = np.zeros(len(points), np.uint64)
    for column in points.T:
        keys = (keys ^ (column.astype(np.float64) + 0.0).view(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        keys ^= keys >> np.uint64(29)
    return keys


def far_offset(points: NDArray[Any]) -> NDArray[np.float64] | None:
    """The mean row, where it is far from the origin beside the rows' distances from it; else None.

    Distances by |x|^2 - 2 x y + |y|^2 are lost there, such as those of epoch seconds.
    """
    center = points.mean(axis=0, dtype=np.float64)
    blocks = (points[at : at + BLOCK] - center for at in range(0, len(points), BLOCK))
    spread = np.sqrt(sum(float((block**2).sum()) for block in blocks) / len(points))
    return center if float(np.linalg.norm(center)) > FAR * spread else None


class VectorIndex:
    """Finds the nearest of some vectors by Euclidean distance.

    Exactly up to 15 dimensions (a tree) or 50,000 rows (all are compared, block by block), else by pynndescent. New
    vectors are compared with all rows as long as that is no more work than comparing 50,000 rows with each other.

    points : float32 or float64, shape (n_rows, dim), no two alike; k : most neighbors that are asked for
    Raises: ValueError for numbers beyond 1e18.
    """

    def __init__(self, points: NDArray[Any], k: int, seed: int) -> None:
        check_magnitude("numbers of X", points)
        self.points, self.k = points, k
        self._keys: NDArray[np.uint64] | None = None
        n_rows, dim = points.shape
        self._offset = far_offset(points)
        points = self._centered(points)
        self.approximate = dim > TREE_DIMS and n_rows > EXACT_ROWS
        if self.approximate:
            from pynndescent import NNDescent

            near = min(k, n_rows - 1) + 1  # with the row itself
            self._index = NNDescent(
                points.astype(np.float32), n_neighbors=near, random_state=seed % (1 << 32), parallel_batch_queries=True
            )
        way = "kd_tree" if dim <= TREE_DIMS else "brute"
        self._exact = NearestNeighbors(algorithm=way, n_jobs=thread_count()).fit(points)

    def _centered(self, points: NDArray[Any]) -> NDArray[Any]:
        return points if self._offset is None else (points - self._offset).astype(points.dtype)

    def own_neighbors(self) -> tuple[NDArray[np.int64], FloatArray]:
        """The nearest other rows of each row: int64 and float32, shape (n_rows, k), k at most n_rows - 1."""
        n_rows = len(self.points)
        k = min(self.k, n_rows - 1)
        if k < 1:
            return np.empty((n_rows, 0), np.int64), np.empty((n_rows, 0), np.float32)
        if self.approximate:
            ids, away = self._index.neighbor_graph
            return ids.astype(np.int64), as_floats("distances", np.where(ids >= 0, away, 0))
        away, ids = self._exact.kneighbors(n_neighbors=k)
        return ids.astype(np.int64), as_floats("distances", away)

    def nearest(self, new: NDArray[Any], k: int) -> tuple[NDArray[np.int64], FloatArray]:
        """The nearest rows of new vectors; a row with the same numbers is always found, comes first, at distance 0.

        new : float32 or float64, shape (n_new, dim); k : rows that are asked for, at most the index's
        Returns: int64 and float32, shape (n_new, k), ascending, -1 for none; k at most n_rows.
        """
        k = min(k, self.k, len(self.points))
        near = np.empty((len(new), k), np.int64), np.empty((len(new), k), np.float32)
        by_index = self.approximate and len(new) * len(self.points) > EXACT_ROWS**2
        for at in range(0, len(new), BLOCK):
            some = slice(at, at + BLOCK)
            asked = np.ascontiguousarray(
                self._centered(new[some]), self.points.dtype
            )  # of another type it takes six times as long
            ids, away = self._index.query(asked, k) if by_index else self._exact.kneighbors(asked, k)[::-1]
            near[0][some], near[1][some] = ids, as_floats("distances", np.where(ids >= 0, away, 0))
        return self._with_equal(new, *near)

    def _with_equal(
        self, new: NDArray[Any], ids: NDArray[np.int64], away: FloatArray
    ) -> tuple[NDArray[np.int64], FloatArray]:
        """Put the equal row of each new one first. By rounding others may come before it, and a graph may miss it."""
        if self._keys is None:
            keys = row_keys(self.points)
            self._order = np.argsort(keys, kind="stable")
            self._keys = keys[self._order]
        place = np.minimum(np.searchsorted(self._keys, row_keys(new)), len(self._keys) - 1)
        equal = self._order[place]
        same = (self.points[equal] == new).all(axis=1)
        found, rank = ids[same] == equal[same, None], np.arange(ids.shape[1])
        at = np.where(found.any(axis=1), found.argmax(axis=1), rank[-1])[:, None]  # entries before it move up by one
        source = np.where(rank == 0, at, np.where(rank <= at, rank - 1, rank))
        ids[same], away[same] = np.take_along_axis(ids[same], source, 1), np.take_along_axis(away[same], source, 1)
        ids[same, 0], away[same, 0] = equal[same], 0
        return ids, away
