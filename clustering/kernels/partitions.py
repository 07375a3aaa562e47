"""Vectors and centers in, coarse partitions out, numbered so that near texts can be worked on together."""

from __future__ import annotations

import numpy as np

from clustering.kernels.topk import FloatArray, IntArray

PARTITION_TEXTS = 4096  # mean texts of a partition
MAX_PARTITIONS = 256
SAMPLE_TEXTS = 40  # texts a partition in the sample that the centers are computed from


def count_partitions(n_texts: int, partition_texts: int = PARTITION_TEXTS) -> int:
    """The number of partitions for n_texts texts; below 2 they are not partitioned."""
    return min(MAX_PARTITIONS, n_texts // partition_texts)


def order_centers(centers: FloatArray) -> FloatArray:
    """Order centers so that near ones follow each other.

    centers : float32, shape (n_partitions, dim). Returns: float32, same shape.
    Source: Bar-Joseph, Gifford and Jaakkola (2001): the leaves of an average-linkage tree, in their optimal order.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage

    order = leaves_list(linkage(centers, "average", optimal_ordering=True))
    return np.ascontiguousarray(centers[order], np.float32)


def assign_partitions(vectors: FloatArray, centers: FloatArray) -> IntArray:
    """Assign each vector to the partition with the nearest center, by Euclidean distance.

    vectors : float32, shape (n_texts, dim)
    centers : float32, shape (n_partitions, dim), or (1, 0) for a single partition
    Returns: int64, shape (n_texts,), 0 to n_partitions - 1.
    """
    if not centers.shape[1]:
        return np.zeros(len(vectors), np.int64)
    squares = np.einsum("ij,ij->i", centers, centers)
    nearest: IntArray = (vectors @ centers.T - squares / 2).argmax(axis=1)
    return nearest
