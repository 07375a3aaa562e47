"""Scores and vectors in, nearest neighbors out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]


def score_distance(scores: NDArray[np.floating[Any]], metric: str) -> FloatArray:
    """Turn Milvus scores into distances, ascending with farness.

    scores : L2: squared Euclidean distance; COSINE, IP: similarity
    Returns: float32 of the same shape: L2: Euclidean distance, 0 to 2 for unit vectors; COSINE, IP: 1 - similarity.
    """
    raw = np.asarray(scores, np.float32)
    # Rounding puts equal vectors a little below zero; a distance is never negative.
    return np.sqrt(np.maximum(raw, 0)) if metric == "L2" else np.maximum(1 - raw, 0)


def dot_distance(dots: NDArray[np.floating[Any]], metric: str) -> FloatArray:
    """The same distances from inner products of unit vectors."""
    cosine = np.maximum(1 - np.asarray(dots, np.float32), 0)
    return np.sqrt(2 * cosine) if metric == "L2" else cosine


def nearest_others(
    ids: IntArray, distances: FloatArray, counts: IntArray, rows: IntArray, k: int
) -> tuple[IntArray, FloatArray, IntArray]:
    """The k nearest of each hit list without the text itself, ascending by (distance, id).

    By key, not by position: a copy of the vector may stand first, and an approximate index may miss the text itself.
    ids, distances : shape (n_hits,), the lists one after the other; counts, rows : shape (n_lists,), the length of
        each list and the text whose list it is
    Returns: ids, distances and counts of the same kind, each count at most k.
    """
    place = np.repeat(np.arange(len(counts)), counts)
    other = ids != rows[place]
    place, ids, distances = place[other], ids[other], distances[other]
    order = np.lexsort((ids, distances, place))
    left = np.bincount(place, minlength=len(counts))
    rank = np.arange(len(place)) - np.repeat(np.cumsum(left) - left, left)
    order = order[rank < k]
    return ids[order], distances[order], np.minimum(left, k)


def block_top_k(
    queries: FloatArray, block: FloatArray, query_rows: IntArray, first_row: int, k: int
) -> tuple[IntArray, FloatArray]:
    """Rows and inner products of the k largest in one block of vectors, the query itself left out.

    queries, block : float32, shapes (n_queries, dim) and (n_block, dim), unit length
    query_rows : int64, shape (n_queries,); first_row : the row of block[0]
    Returns: rows int64 and inner products float32, shape (n_queries, min(k, n_block)), by row; of equal inner
        products the smaller rows.
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
    """The k largest of several blocks' results, descending; ties by smaller row."""
    all_rows, all_dots = np.concatenate(rows, axis=1), np.concatenate(dots, axis=1)
    order = np.lexsort((all_rows, -all_dots), axis=1)[:, :k]
    return np.take_along_axis(all_rows, order, axis=1), np.take_along_axis(all_dots, order, axis=1)


def wilson_interval(mean: float, n: int) -> tuple[float, float]:
    """95 % interval of a mean of n values in [0, 1]; wide enough for any such values, never empty at 0 or 1.

    Source: Wilson (1927); its binomial variance bounds the variance of every variable in [0, 1].
    """
    if n == 0:
        return 0.0, 1.0
    z = 1.959964
    centre = (mean + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(mean * (1 - mean) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)
