"""Neighbor lists and start positions in, a map in two dimensions out: UMAP's objective without umap-learn.

Neighbors attract each other by the weights of a fuzzy graph, and random others repel. In an epoch each row reads the
positions of the epoch before and moves only itself, so any number of threads gives the same bits. Two things differ
from umap-learn: an edge attracts in every epoch by its weight instead of in some epochs; and a hub moves at most half
of the way to its neighbors' mean, because its many edges are applied at once and would throw it across the map.
Source: McInnes, Healy and Melville (2018), UMAP, arXiv:1802.03426; umap-learn 0.5.12.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from clustering.kernels.graph.diffusion import mix_bits
from clustering.kernels.threads import run_in_ranges
from clustering.kernels.topk import FloatArray

EPOCHS, EPOCHS_OF_FEW, FEW = 200, 500, 10_000  # as umap-learn; up to FEW texts get more epochs
NEGATIVES = np.float32(5)  # random others that repel a row, for each edge of weight 1
HUB = 2  # a hub has this many times the mean number of edges
HALF_WAY = np.float32(0.5)
WIDTH = 10  # of the start positions along both axes
JITTER = 1e-4  # so that texts at one position can separate
HALVINGS = 64  # most steps of the bisection for a row's scale
TOLERANCE = 1e-5  # of the sum of a row's weights around log2(n_neighbors)
LEAST_SCALE = 1e-3  # in mean distances
BLOCK_ROWS = 1 << 14  # rows whose scales are computed at a time
THREAD_ROWS = 1 << 12  # rows that a thread moves at a time


def fuzzy_graph(indices: NDArray[np.int64], distances: FloatArray) -> csr_array:
    """UMAP's weights: 1 for the nearest neighbor, falling with distance, so that a text's sum to log2(n_neighbors).

    indices, distances : int64 and float32, shape (n_texts, n_neighbors); column 0 is the text itself at distance 0,
        and further entries of the text itself stand for missing neighbors
    Returns: float32 csr_array, shape (n_texts, n_texts), symmetric: p + q - p q of the two weights of a pair, 0 to 1.
    Source: McInnes, Healy and Melville (2018).
    """
    n_texts, width = indices.shape
    usual = float(distances.mean(dtype=np.float64))
    weights = np.concatenate(
        [_memberships(distances[at : at + BLOCK_ROWS], usual) for at in range(0, n_texts, BLOCK_ROWS)]
    )
    weights[indices == np.arange(n_texts)[:, None]] = 0
    ends = indices.astype(np.int32 if indices.size < 2**31 else np.int64).ravel()
    starts = np.arange(0, indices.size + 1, width, dtype=ends.dtype)
    listed = csr_array((weights.ravel(), ends, starts), shape=(n_texts, n_texts))
    listed.sum_duplicates()
    listed.eliminate_zeros()
    other_way = csr_array(listed.T)
    return csr_array(listed + other_way - listed.multiply(other_way))


def _memberships(distances: FloatArray, usual: float) -> FloatArray:
    """The weights of a block of rows. usual : the mean distance of all rows"""
    width = distances.shape[1]
    nearest = np.where(distances > 0, distances, np.inf).min(axis=1)
    nearest[np.isinf(nearest)] = 0
    beyond = np.maximum(distances[:, 1:] - nearest[:, None], 0).astype(np.float64)
    scale, low, high = np.ones(len(distances)), np.zeros(len(distances)), np.full(len(distances), np.inf)
    for _ in range(HALVINGS):
        held = np.exp(-beyond / scale[:, None]).sum(axis=1)
        off = np.abs(held - np.log2(width)) >= TOLERANCE
        if not off.any():
            break
        above = off & (held > np.log2(width))
        below = off & ~above
        high[above], low[below] = scale[above], scale[below]
        scale[off] = np.where(np.isinf(high[off]), 2 * scale[off], (low[off] + high[off]) / 2)
    least = np.where(nearest > 0, distances.mean(axis=1), usual) * LEAST_SCALE
    scale = np.maximum(np.maximum(scale, least), np.finfo(np.float32).tiny)
    weights: FloatArray = np.exp(-np.maximum(distances - nearest[:, None], 0) / scale[:, None]).astype(np.float32)
    return weights


def fit_curve(min_dist: float) -> tuple[float, float]:
    """Fit a and b of 1 / (1 + a d^(2 b)) to the curve that is 1 up to min_dist and then decays exponentially."""
    from scipy.optimize import curve_fit  # slow to load

    away = np.linspace(0, 3, 300)
    wanted = np.where(away < min_dist, 1.0, np.exp(-(away - min_dist)))
    (a, b), _ = curve_fit(lambda d, a, b: 1 / (1 + a * d ** (2 * b)), away, wanted)
    return float(a), float(b)


def lay_out(
    graph: csr_array, start: FloatArray, *, min_dist: float = 0.1, seed: int = 0, epochs: int | None = None
) -> FloatArray:
    """Compute the positions of texts on a map.

    graph : float32 csr_array, shape (n_texts, n_texts), from ``fuzzy_graph``
    start : float32, shape (n_texts, 2), any scale; min_dist : distance of near neighbors on the map
    epochs : none: 500 for up to 10,000 texts, else 200
    Returns: float32, shape (n_texts, 2), equal bits for any number of threads.
    Memory: 36 bytes a text, besides the graph.
    """
    n_texts = graph.shape[0]
    epochs = epochs or (EPOCHS_OF_FEW if n_texts <= FEW else EPOCHS)
    a, b = (np.float32(value) for value in fit_curve(min_dist))
    weight = graph.data / max(graph.data.max(initial=0), np.finfo(np.float32).tiny)
    weight[weight < 1 / epochs] = 0  # umap-learn would never sample them either
    indptr = graph.indptr.astype(np.int64, copy=False)
    xy = _spread(start, seed)
    for epoch in range(epochs):
        speed, key = np.float32(1 - epoch / epochs), np.uint64(seed * epochs + epoch)
        xy = _moved(xy, indptr, graph.indices, weight, a, b, speed, key)
    return xy


def _moved(
    xy: FloatArray, indptr: Any, indices: Any, weight: FloatArray, a: Any, b: Any, speed: Any, key: Any
) -> FloatArray:
    """The positions after one epoch."""
    moved, hub = np.empty_like(xy), HUB * indices.size // len(xy)

    def work(first: int, end: int) -> None:
        _move(xy, moved, indptr, indices, weight, a, b, speed, hub, key, first, end)

    run_in_ranges(len(xy), work, THREAD_ROWS)
    return moved


def _spread(start: FloatArray, seed: int) -> FloatArray:
    """The start scaled to the width that umap-learn uses, with no two texts at one position."""
    low, high = start.min(axis=0), start.max(axis=0)
    wide = WIDTH * (start - low) / np.maximum(high - low, np.finfo(np.float32).tiny)
    noise = np.random.default_rng(seed).normal(scale=JITTER, size=start.shape)
    spread: FloatArray = (wide + noise).astype(np.float32)
    return spread


@numba.njit(cache=True, nogil=True)
def _move(
    xy: Any, moved: Any, indptr: Any, indices: Any, weight: Any, a: Any, b: Any, speed: Any, hub: int, key: Any,
    first: int, end: int,
) -> None:  # fmt: skip
    one, two, four = np.float32(1), np.float32(2), np.float32(4)
    n_texts = np.uint64(len(xy))
    for row in range(first, end):
        x, y = xy[row, 0], xy[row, 1]
        by_x, by_y, pull, held = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
        for slot in range(indptr[row], indptr[row + 1]):
            other, share = indices[slot], weight[slot]
            away_x, away_y = x - xy[other, 0], y - xy[other, 1]
            square = away_x * away_x + away_y * away_y
            held += share
            if square > 0:
                power = square**b
                # Doubled: umap-learn moves both ends of an edge, and stores it in both directions.
                factor = two * two * a * b * power / (square * (one + a * power)) * share
                pull += factor
                by_x -= factor * away_x
                by_y -= factor * away_y
        if indptr[row + 1] - indptr[row] > hub and pull * speed > HALF_WAY:
            less = HALF_WAY / (pull * speed)
            by_x, by_y = by_x * less, by_y * less
        samples = int(np.ceil(NEGATIVES * held))
        bits = mix_bits(key ^ mix_bits(np.uint64(row)))
        push_x, push_y = np.float32(0), np.float32(0)
        for _ in range(samples):
            bits = mix_bits(bits)
            other = np.int64(((bits >> np.uint64(32)) * n_texts) >> np.uint64(32))
            away_x, away_y = x - xy[other, 0], y - xy[other, 1]
            square = away_x * away_x + away_y * away_y
            if square > 0:
                factor = two * b / ((np.float32(0.001) + square) * (one + a * square**b))
                push_x += min(max(factor * away_x, -four), four)
                push_y += min(max(factor * away_y, -four), four)
        if samples:
            by_x += push_x * (NEGATIVES * held / np.float32(samples))
            by_y += push_y * (NEGATIVES * held / np.float32(samples))
        moved[row, 0], moved[row, 1] = x + speed * by_x, y + speed * by_y
