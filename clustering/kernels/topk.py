"""Scores or vectors in, distances and nearest neighbors out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]


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


def nearest_others(
    ids: IntArray, distances: FloatArray, counts: IntArray, rows: IntArray, k: int
) -> tuple[IntArray, FloatArray, IntArray]:
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


def block_top_k(
    queries: FloatArray, block: FloatArray, query_rows: IntArray, first_row: int, k: int
) -> tuple[IntArray, FloatArray]:
    """Find the k largest inner products of each query with one block of vectors, without the query itself.

    queries, block : float32, shapes (n_queries, dim) and (n_block, dim), unit length
    query_rows : int64, shape (n_queries,), -1 for a query that is no row; first_row : the row of block[0]
    Returns: rows int64 and inner products float32, shape (n_queries, min(k, n_block)), ascending by row; of equal
        inner products the smaller rows are kept.
    """
    dots = queries @ block.T
    inside = (query_rows >= first_row) & (query_rows < first_row + len(block))
    dots[np.flatnonzero(inside), query_rows[inside] - first_row] = -np.inf
    width = min(k, len(block))
    edge = np.partition(dots, len(block) - width, axis=1)[:, [len(block) - width]]
    above, ties = dots > edge, dots == edge
    take = above | (ties & (np.cumsum(ties, axis=1) <= width - above.sum(axis=1, keepdims=True)))
    best = np.nonzero(take)[1].reshape(-1, width)
    return best + first_row, np.take_along_axis(dots, best, axis=1)


def merge_top_k(rows: list[IntArray], dots: list[FloatArray], k: int) -> tuple[IntArray, FloatArray]:
    """Merge the results of several blocks into the k largest.

    rows, dots : int64 and float32, shape (n_queries, k of the block), from ``block_top_k``
    Returns: int64 and float32, shape (n_queries, k), descending by inner product, then ascending by row.
    """
    all_rows, all_dots = np.concatenate(rows, axis=1), np.concatenate(dots, axis=1)
    order = np.lexsort((all_rows, -all_dots), axis=1)[:, :k]
    return np.take_along_axis(all_rows, order, axis=1), np.take_along_axis(all_dots, order, axis=1)


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
