"""Scores or vectors in, distances and nearest neighbors out."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]
Neighbors = tuple[IntArray, FloatArray, IntArray]  # ids and distances, list after list, and the length of each list
Score = Callable[[FloatArray, FloatArray], FloatArray]  # of queries and vectors, shape (n_queries, n_vectors)
BLOCK_BYTES = 32 << 20  # of inner products that are computed at a time
ROUNDED_SQUARE = 1e-14  # what float64 leaves of the squared distance of equal unit vectors, and more


def score_distance(scores: NDArray[np.floating[Any]], metric: str) -> FloatArray:
    """Turn Milvus scores into distances; larger is farther.

    scores : float, any shape; L2: squared Euclidean distance; COSINE, IP: similarity, -1 to 1
    Returns: float32, same shape; L2: Euclidean distance, 0 to 2 for unit vectors; COSINE, IP: 1 - similarity, 0 to 2.
    """
    raw = np.asarray(scores, np.float32)
    # Rounding puts equal vectors slightly below zero; a distance is never negative.
    return np.sqrt(np.maximum(raw, 0)) if metric == "L2" else np.maximum(1 - raw, 0)


def dot_distance(dots: NDArray[np.floating[Any]], metric: str) -> FloatArray:
    """Turn inner products of unit vectors into the distances of ``score_distance``.

    dots : float, any shape, -1 to 1. Returns: float32, same shape, 0 to 2.
    """
    cosine = np.maximum(1 - np.asarray(dots, np.float32), 0)
    return np.sqrt(2 * cosine) if metric == "L2" else cosine


def nearest_others(ids: IntArray, distances: FloatArray, counts: IntArray, rows: IntArray, k: int) -> Neighbors:
    """Keep the k nearest of each hit list without the text itself, ascending by (distance, id).

    A text is recognized by its id, not by its position: a copy of its vector may come first, and an approximate index
    may miss the text itself.

    ids, distances : int64 and float32, shape (n_hits,), the lists one after the other
    counts, rows : int64, shape (n_lists,), the length of each list and the id of the text whose list it is
    Returns: ids, distances and counts likewise, each count at most k.
    """
    owner = np.repeat(np.arange(len(counts)), counts)
    other = ids != rows[owner]
    owner, ids, distances = owner[other], ids[other], distances[other]
    order = np.lexsort((ids, distances, owner))
    left = np.bincount(owner, minlength=len(counts))
    rank = np.arange(len(owner)) - np.repeat(np.cumsum(left) - left, left)
    order = order[rank < k]
    return ids[order], distances[order], np.minimum(left, k)


def inner_products(queries: FloatArray, vectors: FloatArray) -> FloatArray:
    """float32, shape (n_queries, n_vectors)."""
    return queries @ vectors.T


def minus_squares(queries: FloatArray, vectors: FloatArray) -> FloatArray:
    """Squared distances with a minus, also of vectors that nearly agree, where inner products have no digits left."""
    asked, others = queries.astype(np.float64), vectors.astype(np.float64)
    scores = asked @ others.T
    scores *= 2
    scores -= np.einsum("ij,ij->i", asked, asked)[:, None]
    scores -= np.einsum("ij,ij->i", others, others)
    scores[scores > -ROUNDED_SQUARE] = 0  # equal vectors tie, and the first rows stay
    return scores.astype(np.float32)


class TopK:
    """The k largest inner products of some queries with vectors that come block by block, in any order.

    score : what is taken in place of an inner product; the larger, the nearer
    rows, dots : int64 and float32, shape (n_queries, k), descending by inner product, then ascending by row; -1 and
        -inf where there are fewer
    """

    def __init__(self, n_queries: int, k: int, score: Score = inner_products) -> None:
        self.score = score
        self.rows = np.full((n_queries, k), -1, np.int64)
        self.dots = np.full((n_queries, k), -np.inf, np.float32)

    def scan(self, queries: FloatArray, query_rows: IntArray, rows: IntArray, vectors: FloatArray) -> None:
        """Take the products of all queries with some vectors; a query is no neighbor of itself.

        queries, vectors : float32, shapes (n_queries, dim) and (n_vectors, dim), unit length
        query_rows : int64, shape (n_queries,), -1 for a query that is no row
        rows : int64, shape (n_vectors,), ascending, of the vectors; none of them has been taken before
        """
        step = max(1, BLOCK_BYTES // (4 * max(len(queries), 1)))
        for at in range(0, len(rows), step):
            block = rows[at : at + step]
            dots = self.score(queries, vectors[at : at + step])
            own = np.searchsorted(block[:-1], query_rows)
            itself = np.flatnonzero(block[own] == query_rows)
            dots[itself, own[itself]] = -np.inf
            owner, place = np.nonzero(self._among_nearest(dots, block))
            self.merge(owner, block[place], dots[owner, place])

    def _among_nearest(self, dots: FloatArray, block: IntArray) -> NDArray[np.bool_]:
        """Which products of a block may stay: few, also where many vectors are equal.

        dots : float32, shape (n_queries, n_vectors); block : int64, shape (n_vectors,), ascending, their rows
        """
        k, edge = self.dots.shape[1], self.dots[:, -1:]
        among = dots > edge
        earlier = self.rows[:, -1:]  # of equal ones the first rows stay
        if block[0] < earlier.max(initial=-1):
            among |= (dots == edge) & (block < earlier)
        crowded = np.flatnonzero(np.count_nonzero(among, axis=1) > k)
        if crowded.size:
            own = dots if crowded.size == len(dots) else dots[crowded]
            kth = np.partition(own, -k, axis=1)[:, [-k]]
            nearer, tied = own > kth, (own == kth) & among[crowded]
            room = k - np.count_nonzero(nearer, axis=1)[:, None]
            if (np.count_nonzero(tied, axis=1) > room[:, 0]).any():
                tied &= np.cumsum(tied, axis=1, dtype=np.int32) <= room
            among[crowded] = nearer | tied
        return among

    def merge(self, owner: IntArray, rows: IntArray, dots: FloatArray) -> None:
        """Take products that are known; owner : int64, shape (n_products,), the number of the query of each"""
        n_queries, k = self.rows.shape
        owner = np.concatenate([np.repeat(np.arange(n_queries), k), owner])
        rows, dots = np.concatenate([self.rows.ravel(), rows]), np.concatenate([self.dots.ravel(), dots])
        order = np.lexsort((rows, -dots, owner))
        counts = np.bincount(owner, minlength=n_queries)
        kept = order[np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts) < k]
        self.rows, self.dots = rows[kept].reshape(n_queries, k), dots[kept].reshape(n_queries, k)


def wilson_interval(mean: float, n: int) -> tuple[float, float]:
    """95 % interval of the mean of n values in [0, 1]; conservative for any such values, and not empty at 0 or 1.

    Source: Wilson (1927); its binomial variance bounds the variance of every variable in [0, 1].
    """
    if n == 0:
        return 0.0, 1.0
    z = 1.959964
    centre = (mean + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(mean * (1 - mean) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)
