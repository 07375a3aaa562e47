"""A sample of vectors/ in; centers of coarse cells out, so that work on near texts can be shared out together."""

from __future__ import annotations

import numpy as np

from clustering.kernels.topk import FloatArray, IntArray
from clustering.rundir import RunDir, gather, vectors_of

CELL_TEXTS = 4096  # texts of a cell, on average
MAX_CELLS = 256
SAMPLE = 40  # texts a cell, by which the centers are found


def cell_centers(run: RunDir, n_texts: int, seed: int, cell_texts: int = CELL_TEXTS) -> FloatArray:
    """Centers of cells by k-means on a sample, in such an order that near cells follow each other.

    Returns: float32, shape (n_cells, dim); of a single cell, which needs no place, shape (1, 0).
    Source: Bar-Joseph, Gifford and Jaakkola (2001) for the order, that of an average-linkage tree.
    """
    n_cells = min(MAX_CELLS, n_texts // cell_texts)
    if n_cells < 2:
        return np.empty((1, 0), np.float32)
    from scipy.cluster.hierarchy import leaves_list, linkage
    from sklearn.cluster import KMeans

    rows = np.sort(np.random.default_rng(seed).choice(n_texts, min(n_texts, SAMPLE * n_cells), replace=False))
    sample = vectors_of(gather(run / "vectors", rows, ["vector"]))
    sample = sample[sample.any(axis=1)]
    centers = KMeans(n_cells, n_init=1, max_iter=20, random_state=seed).fit(sample).cluster_centers_
    order = leaves_list(linkage(centers, "average", optimal_ordering=True))
    return np.ascontiguousarray(centers[order], np.float32)


def cells_of(vectors: FloatArray, centers: FloatArray) -> IntArray:
    """The cell with the nearest center. vectors : float32, shape (n_texts, dim)"""
    if not centers.shape[1]:
        return np.zeros(len(vectors), np.int64)
    squares = np.einsum("ij,ij->i", centers, centers)
    found: IntArray = (vectors @ centers.T - squares / 2).argmax(axis=1)
    return found
