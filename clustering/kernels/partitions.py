"""A sample of vectors/ in; centers of coarse cells out, so that work on near texts can be shared out together."""

from __future__ import annotations

import numpy as np

from clustering.kernels.topk import FloatArray, IntArray
from clustering.runs.directory import RunDir
from clustering.runs.parts import gather, vectors_of

PARTITION_TEXTS = 4096  # texts of a cell, on average
MAX_PARTITIONS = 256
SAMPLE_TEXTS = 40  # texts a cell, by which the centers are found


def partition_centers(run: RunDir, n_texts: int, seed: int, cell_texts: int = PARTITION_TEXTS) -> FloatArray:
    """Centers of cells by k-means on a sample, in such an order that near cells follow each other.

    Returns: float32, shape (n_cells, dim); of a single cell, which needs no place, shape (1, 0).
    Source: Bar-Joseph, Gifford and Jaakkola (2001) for the order, that of an average-linkage tree.
    """
    n_cells = min(MAX_PARTITIONS, n_texts // cell_texts)
    if n_cells < 2:
        return np.empty((1, 0), np.float32)
    from scipy.cluster.hierarchy import leaves_list, linkage
    from sklearn.cluster import KMeans

    rows = np.sort(np.random.default_rng(seed).choice(n_texts, min(n_texts, SAMPLE_TEXTS * n_cells), replace=False))
    sample = vectors_of(gather(run / "vectors", rows, ["vector"]))
    sample = sample[sample.any(axis=1)]
    centers = KMeans(n_cells, n_init=1, max_iter=20, random_state=seed).fit(sample).cluster_centers_
    order = leaves_list(linkage(centers, "average", optimal_ordering=True))
    return np.ascontiguousarray(centers[order], np.float32)


def assign_partitions(vectors: FloatArray, centers: FloatArray) -> IntArray:
    """The cell with the nearest center. vectors : float32, shape (n_texts, dim)"""
    if not centers.shape[1]:
        return np.zeros(len(vectors), np.int64)
    squares = np.einsum("ij,ij->i", centers, centers)
    found: IntArray = (vectors @ centers.T - squares / 2).argmax(axis=1)
    return found
